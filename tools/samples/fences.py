"""The samples of a page: what stands in its fences."""

import re
from dataclasses import dataclass
from pathlib import Path

# A fence may be indented, as in a list or a tab; its end is indented like its beginning.
FENCE = re.compile(
    r"^(?P<indent>[ \t]*)```(?P<language>python|js|sh|rust)\b(?P<remarks>[^\n]*)\n(?P<text>.*?)^(?P=indent)```[ \t]*$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Sample:
    place: str
    language: str
    text: str
    remarks: str = ""
    """What stands behind the language, such as `,no_run`."""


def samples_in(text: str, page: str) -> list[Sample]:
    return [sample(found, f"{page}:{text.count(chr(10), 0, found.start()) + 1}") for found in FENCE.finditer(text)]


def sample(found: re.Match[str], place: str) -> Sample:
    lines = found["text"].splitlines(keepends=True)
    text = "".join(line.removeprefix(found["indent"]) if line.strip() else "\n" for line in lines)
    return Sample(place, found["language"], text, found["remarks"].rstrip())


def samples_of(root: Path) -> list[Sample]:
    """Those of README.md, and of every page of docs/ that is for users: what ADRs show was true when they were written."""
    pages = [root / "README.md", *sorted(page for page in root.glob("docs/**/*.md") if page.parent.name != "adr")]
    found = [each for page in pages for each in samples_in(page.read_text(), str(page.relative_to(root)))]
    # The engine's documentation has README.md: its own tests run these.
    return [each for each in found if each.language != "rust" or not each.place.startswith("README.md:")]
