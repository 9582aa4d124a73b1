"""Who imports whom in a folder of JavaScript modules."""

import re
from collections.abc import Iterator
from pathlib import Path

from layers.imports import Import

SUFFIXES = {".js", ".mjs", ".cjs"}
ENDINGS = ["", ".js", ".mjs", ".cjs", "/index.js"]

# Strings come first, so that a comment inside one is none.
STRING_OR_COMMENT = re.compile(r"""("(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')|//[^\n]*|/\*.*?\*/""", re.DOTALL)
IMPORT = re.compile(r"""(?:\brequire\s*\(|\bimport\s*\(|\bfrom|\bimport)\s*["'](\.{1,2}/[^"']*)["']""")


def imports(folder: Path) -> Iterator[Import]:
    for file in sorted(folder.glob("*")):
        if file.suffix in SUFFIXES:
            yield from imports_of(file)


def imports_of(file: Path) -> Iterator[Import]:
    text = STRING_OR_COMMENT.sub(keep_strings, file.read_text())
    for found in IMPORT.finditer(text):
        named = (file.parent / found.group(1)).resolve()
        target = next((path for ending in ENDINGS if (path := Path(f"{named}{ending}")).is_file()), None)
        if target is not None:
            yield Import(file, text.count("\n", 0, found.start()) + 1, target)


def keep_strings(found: re.Match[str]) -> str:
    """The string as it is; of a comment no more than its lines."""
    return found.group(1) or "\n" * found.group().count("\n")
