"""Draws the pictures of the page as SVG, in colours that read on light and on dark ground."""

from pathlib import Path

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from report import Line, Picture

# A picture is the same file if its figures are the same; its words are words.
matplotlib.rcParams |= {"svg.hashsalt": "dlock", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10}
INK = "#7f7f7f"
OURS = ["#c2410c", "#ea580c", "#f59e0b", "#b91c1c"]
PEERS = ["#1d4ed8", "#0891b2", "#4d7c0f", "#7c3aed", "#0f766e", "#64748b", "#9333ea", "#0369a1", "#65a30d", "#be185d"]
LIMIT = "#a3a3a3"


def draw(picture: Picture, folder: Path) -> Path:
    is_bars = all(len(line.xs) == 1 for line in picture.lines)
    height = 1.2 + 0.3 * len(picture.lines) if is_bars else 4.6
    figure, axes = pyplot.subplots(figsize=(8, height), layout="constrained")
    colours = palette(picture.lines)
    if is_bars:
        bars(axes, picture, colours)
    else:
        curves(axes, picture, colours)
    axes.set_title(picture.title, color=INK, loc="left")
    for side in axes.spines.values():
        side.set_color(INK)
    axes.tick_params(colors=INK, which="both")
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    file = folder / f"{picture.file}.svg"
    figure.savefig(file, transparent=True, metadata={"Date": None})
    pyplot.close(figure)
    return file


def palette(lines: list[Line]) -> list[str]:
    ours, peers = iter(OURS * 4), iter(PEERS * 4)
    return [LIMIT if line.kind == "limit" else next(ours if line.kind == "dlock" else peers) for line in lines]


def bars(axes: Axes, picture: Picture, colours: list[str]) -> None:
    values = [line.ys[0] for line in picture.lines]
    errors = [[line.ys[0] - line.lows[0] for line in picture.lines], [line.highs[0] - line.ys[0] for line in picture.lines]]
    places = range(len(values), 0, -1)
    axes.barh(places, values, xerr=errors, color=colours, ecolor=INK, height=0.7)
    axes.set_yticks(places, [line.name for line in picture.lines])
    axes.set_xlabel(picture.y)
    if picture.is_logarithmic:
        axes.set_xscale("log")


def curves(axes: Axes, picture: Picture, colours: list[str]) -> None:
    for line, colour in zip(picture.lines, colours, strict=True):
        style = "-" if line.kind == "dlock" else "--"
        axes.plot(line.xs, line.ys, style, marker="o", markersize=3.5, color=colour, label=line.name)
        axes.fill_between(line.xs, line.lows, line.highs, color=colour, alpha=0.12, linewidth=0)
    if picture.is_logarithmic:
        axes.set_xscale("log")
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set_xlabel(picture.x)
    axes.set_ylabel(picture.y)
    axes.grid(visible=True, which="major", color=INK, alpha=0.25)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, labelcolor=INK, fontsize=8)
