"""What a page of the documentation has: tables, links and names."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

SPAN = re.compile(r"`([^`]+)`")
CELL_END = re.compile(r"(?<!\\)\|")
FENCE = re.compile(r"^[ \t]*(```+|~~~+)[^\n]*\n.*?^[ \t]*\1[ \t]*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)[^)]*\)")


@dataclass(frozen=True)
class Row:
    """A row of a table: its cells by the heads of their columns."""

    line: int
    cells: dict[str, str]

    def spans(self, column: str) -> list[str]:
        """What stands in backticks."""
        return SPAN.findall(self.cells.get(column, ""))


class Page:
    """A page of markdown."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.text = file.read_text()

    @cached_property
    def _lines(self) -> list[str]:
        """The lines without what stands in fences."""
        return FENCE.sub(lambda found: "\n" * found.group().count("\n"), self.text).splitlines()

    def rows(self, section: str, column: str) -> list[Row] | None:
        """The rows of all tables of a section that have the column; None if there is no such table."""
        found = [row for heading, row in self._all_rows if heading == section and column in row.cells]
        return found or None

    @cached_property
    def _all_rows(self) -> list[tuple[str, Row]]:
        rows, heading, heads = [], "", []
        for number, line in enumerate(self._lines, 1):
            if line.startswith("#"):
                heading = line.lstrip("#").strip()
            if not line.startswith("|"):
                heads = []
                continue
            cells = [cell.strip() for cell in CELL_END.split(line.strip().removeprefix("|").removesuffix("|"))]
            if not heads:
                heads = cells
            elif set(line) - set("|-: "):
                rows.append((heading, Row(number, dict(zip(heads, cells, strict=False)))))
        return rows

    def links(self) -> Iterator[tuple[int, str]]:
        """Where each link stands, and where it leads."""
        for number, line in enumerate(self._lines, 1):
            yield from ((number, target) for target in LINK.findall(line))

    def found(self, pattern: re.Pattern[str]) -> Iterator[tuple[int, re.Match[str]]]:
        """Where something stands on the page, fences included."""
        for found in pattern.finditer(self.text):
            yield self.text.count("\n", 0, found.start()) + 1, found
