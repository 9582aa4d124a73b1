"""The dashboard as one SVG, each panel in its place, on a ground of its own: it reads the same on light and dark pages."""

import math
from datetime import UTC, datetime
from pathlib import Path

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.dates import DateFormatter, MinuteLocator
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator

from dashboard.panels import Panel
from dashboard.prometheus import Line

# Its words are words, and the same figures make the same file.
matplotlib.rcParams |= {"svg.hashsalt": "dlock", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9}
matplotlib.rcParams |= {"legend.frameon": False, "legend.fontsize": 8, "legend.labelcolor": "#d2d2de", "legend.handlelength": 1}
matplotlib.rcParams |= {"legend.columnspacing": 1, "legend.handletextpad": 0.4, "legend.labelspacing": 0.3}
GROUND, PANEL, EDGE, INK, GRID = "#111217", "#181b1f", "#2f3237", "#d2d2de", "#34373d"
COLOURS = ["#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#37bbca", "#e0b400"]

# Inches: of a column and a row of the grid, of the space between panels, and around what a panel shows.
COLUMN, ROW, GAP = 0.5, 0.36, 0.08
LEFT, RIGHT, TITLE, TIMES, LEGEND_LINE, EDGE_SPACE = 0.9, 0.15, 0.38, 0.28, 0.165, 0.12
# So many letters have room beside each other in a legend.
LEGEND_LETTERS = 64


def draw(shown: list[tuple[Panel, list[Line]]], file: Path) -> None:
    width = max(panel.left + panel.width for panel, _ in shown) * COLUMN
    height = max(panel.top + panel.height for panel, _ in shown) * ROW
    figure = pyplot.figure(figsize=(width, height), facecolor=GROUND)
    inches = figure.dpi_scale_trans
    # Some lines begin late: with the first error, for instance.
    times = [datetime.fromtimestamp(at, UTC) for _, lines in shown for line in lines for at in line.times]
    for panel, lines in shown:
        left, right = panel.left * COLUMN + GAP, (panel.left + panel.width) * COLUMN - GAP
        top, bottom = height - panel.top * ROW - GAP, height - (panel.top + panel.height) * ROW + GAP
        box = FancyBboxPatch((left, bottom), right - left, top - bottom, boxstyle="round,pad=0,rounding_size=0.04")
        box.set(facecolor=PANEL, edgecolor=EDGE, transform=inches, zorder=-1)
        figure.add_artist(box)
        figure.text(left + EDGE_SPACE, top - 0.24, panel.title, color=INK, fontsize=10.5, transform=inches)
        columns = LEGEND_LETTERS // (5 + max((len(line.name) for line in lines), default=0))
        low = bottom + EDGE_SPACE / 2 + math.ceil(len(lines) / columns) * LEGEND_LINE + TIMES
        place = (left + LEFT, low, right - RIGHT - left - LEFT, top - TITLE - low)
        axes = figure.add_axes((place[0] / width, place[1] / height, place[2] / width, place[3] / height), facecolor=PANEL)
        fill(axes, panel.unit, lines)
        if lines:
            axes.set_xlim(min(times), max(times))
            axes.legend(loc="lower left", ncols=columns, bbox_to_anchor=(left, bottom), bbox_transform=inches)
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)


def fill(axes: Axes, unit: str, lines: list[Line]) -> None:
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(colors=INK, length=0)
    axes.grid(visible=True, color=GRID, linewidth=0.6)
    if not lines:
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "No data", color=INK, ha="center", transform=axes.transAxes)
        return
    for line, colour in zip(lines, COLOURS, strict=False):
        times = [datetime.fromtimestamp(at, UTC) for at in line.times]
        axes.plot(times, line.values, color=colour, linewidth=1.2, label=line.name)
    is_flat = not any(value > 0 for line in lines for value in line.values)
    axes.set_ylim(bottom=0, top=1 if is_flat else None)
    axes.xaxis.set_major_locator(MinuteLocator())
    axes.xaxis.set_major_formatter(DateFormatter("%H:%M"))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.yaxis.set_major_formatter(formatter(unit))


def formatter(unit: str) -> FuncFormatter | EngFormatter:
    """Of the units that the dashboard uses."""
    if unit == "s":
        return EngFormatter(unit="s")
    if unit == "ops":
        return FuncFormatter(lambda value, _: f"{value:g} ops/s")
    return FuncFormatter(lambda value, _: f"{value:g}")
