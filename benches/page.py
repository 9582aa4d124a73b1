"""Writes docs/benchmarks.md, its pictures, and the figures of the README, from the figures of one run."""

import json
import re
from pathlib import Path
from typing import Any

import experiments
from contenders import ROOT
from plot import draw
from report import Picture, Section
from rounds import median

PAGE = ROOT / "docs/benchmarks.md"
PICTURES = ROOT / "docs/benchmarks"
FIGURES = PICTURES / "figures.json"
README = ROOT / "README.md"
TABLE = re.compile(r"(?<=<!-- figures of `make bench` -->\n).*?(?=<!-- end of the figures -->)", re.DOTALL)

INTRO = """# Benchmarks

`make bench` wrote this page, in one run of {minutes} minutes on {day}, at commit {commit}. It measures dlock beside the
libraries that people use today.

Read the figures as what they are. Client and server share one {kind} with {cores} cores ({processor}, Linux {kernel}), and
everything is on loopback, so a round trip costs almost nothing but the change from one process to another. On a real network
each round trip takes its time, and all libraries that need two are close to each other: see *A server far away*. What a change
of thread or process costs differs between machines twentyfold, so **a ratio from here is not a promise for your machine**: run
it there.

## How it is measured

- Each library is a process of its own, written as its documentation says, with a TTL of 30 s. A program for each language does
  the same work with each library: [benches/README.md](../benches/README.md) says what that is, and `benches/peers` has the
  programs.
- All libraries of a table are started first. Then they take turns, round after round, so that whatever else the machine does
  hits all of them. Two processes of one program can differ by a quarter for as long as they live, and a round does not show
  that.
- A figure is the median of the rounds; in brackets are the lowest and the highest.
- redis-server keeps nothing on disk. etcd has one member, which waits for its disk as by default. `local:` and the libraries
  for files use a folder in memory.
- A library that failed at some work is missing in its table.

Run it again with `make bench` (Rust, Python, Node, Go; a JDK and Maven for Redisson). `make bench ONLY=one_task` runs one part
and leaves the page alone. `make bench-quick` takes less than two minutes and prints ratios.

| | version |
|---|---|
{versions}
"""


def write(figures: dict[str, Any]) -> None:
    sections = [
        module.present(figures["experiments"][name]) for name, module in experiments.ALL.items() if name in figures["experiments"]
    ]
    PICTURES.mkdir(exist_ok=True)
    for old in PICTURES.glob("*.svg"):
        old.unlink()
    words = ("minutes", "day", "commit", "kind", "cores", "processor", "kernel")
    about = {word: figures["machine"].get(word, "") for word in words} | {"minutes": str(figures["minutes"])}
    versions = "\n".join(f"| {name} | {version} |" for name, version in figures["machine"].items() if name not in words and version)
    PAGE.write_text(INTRO.format(**about, versions=versions) + "".join(map(section, sections)))
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
    readme(figures)


def section(of: Section) -> str:
    parts = [f"\n## {of.title}\n", of.text, *map(picture, of.pictures), *(table.markdown() for table in of.tables)]
    return "\n".join(part if part.endswith("\n") else part + "\n" for part in parts)


def picture(of: Picture) -> str:
    file = draw(of, PICTURES)
    return f"![{of.title}]({file.relative_to(PAGE.parent)})"


def readme(figures: dict[str, Any]) -> None:
    """The few figures that the README shows."""
    text = README.read_text()
    table = readme_table(figures["experiments"])
    if TABLE.search(text):
        README.write_text(TABLE.sub(lambda _: table, text))


def readme_table(found: dict[str, Any]) -> str:
    one, many, waiting = (
        found["one_task"]["redis"]["quiet"],
        found["many_tasks"]["redis"]["500"],
        found["one_key"]["redis"]["1 × 20"],
    )
    names = ["dlock, Python asyncio", "redis-py asyncio", "dlock, Node", "redis-semaphore", "node-redlock"]

    def cell(values: dict[str, Any], name: str, figure: str) -> str:
        return f"{median(values[name][figure]):,.0f}" if name in values else "–"

    columns = [(one, "µs"), (many, "pairs/s"), (waiting, "grants/s"), (waiting, "p99 ms")]
    rows = [" | ".join(["| " + name, *(cell(values, name, figure) for values, figure in columns)]) + " |" for name in names]
    titles = ["on Redis", "one task, µs a pair", "500 tasks, pairs/s", "20 waiters on one key, grants/s", "their wait, p99 ms"]
    head = ["| " + " | ".join(titles) + " |", "|---" + "|---:" * len(columns) + "|"]
    return "\n".join([*head, *rows]) + "\n"


def rewrite(file: Path = FIGURES) -> None:
    """The page once more, from the figures of the last run."""
    write(json.loads(file.read_text()))
