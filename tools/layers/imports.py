"""One import: which file names which, and where."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Import:
    """`file` names something of `target` at `line`."""

    file: Path
    line: int
    target: Path
