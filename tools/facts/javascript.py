"""What the Node package has, read from its declarations and sources."""

import re
from pathlib import Path

FUNCTION = re.compile(r"^export declare function (\w+)", re.MULTILINE)
MEMBER = re.compile(r"^  (?:readonly )?(\w+)\??[(:<]", re.MULTILINE)
CLASS = re.compile(r"^export declare class (\w+) extends (?:Lock|NotAcq|Err)", re.MULTILINE)


def members(file: Path, name: str) -> set[str]:
    """The members of an interface or a class."""
    start = rf"^export (?:interface|declare class) {name}\b[^\n]*\{{"
    body = re.search(rf"{start}(.*?)^\}}|{start}\}}", file.read_text(), re.MULTILINE | re.DOTALL)
    return set(MEMBER.findall(body.group(1) or "")) - {"constructor"} if body else set()


def functions(file: Path) -> set[str]:
    return set(FUNCTION.findall(file.read_text()))


def error_classes(file: Path) -> set[str]:
    return set(CLASS.findall(file.read_text()))


def codes_of_classes(file: Path) -> set[tuple[str, str]]:
    table = re.search(r"const codes = \{(.*?)\};", file.read_text(), re.DOTALL)
    return set(re.findall(r"(\w+): '(\w+)'", table.group(1))) if table else set()


def found_in(folder: Path, pattern: str) -> set[str]:
    return {name for file in folder.glob("*.js") for name in re.findall(pattern, file.read_text())}
