"""What a page is made of: sections with tables and pictures."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Table:
    columns: list[str]
    rows: list[list[str]]
    caption: str = ""

    def markdown(self) -> str:
        lines = [self.columns, ["---"] + ["---:"] * (len(self.columns) - 1), *self.rows]
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        return f"{self.caption}\n\n{table}" if self.caption else table


@dataclass(frozen=True)
class Line:
    """A contender in a picture: a value for each place on the horizontal axis, with its lowest and highest."""

    name: str
    kind: str
    xs: list[float]
    ys: list[float]
    lows: list[float]
    highs: list[float]


@dataclass(frozen=True)
class Picture:
    """Lines, or bars where each line has one value."""

    file: str
    title: str
    x: str
    y: str
    lines: list[Line]
    is_logarithmic: bool = True


@dataclass(frozen=True)
class Section:
    title: str
    text: str
    tables: list[Table] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
