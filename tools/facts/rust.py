"""What the engine and the command line have, read from their sources."""

import re
from collections.abc import Iterator
from pathlib import Path

DURATION = re.compile(r"Duration::from_(secs|millis)\((\d+)\)")


def source(file: Path) -> str:
    """A file without its tests, which stand at its end."""
    return file.read_text().partition("#[cfg(test)]\n")[0]


def sources(*folders: Path) -> Iterator[str]:
    for file in sorted(file for folder in folders for file in folder.rglob("*.rs")):
        if file.stem != "tests" and not file.stem.endswith("_tests"):
            yield source(file)


def block(file: Path, head: str) -> str:
    """What stands between the braces of an item."""
    found = re.search(rf"^{head} \{{\n(.*?)^\}}", source(file), re.MULTILINE | re.DOTALL)
    return found.group(1) if found else ""


def fields(file: Path, name: str) -> set[str]:
    return set(re.findall(r"^    pub (\w+):", block(file, f"pub struct {name}"), re.MULTILINE))


def variants(file: Path, name: str) -> set[str]:
    return set(re.findall(r"^    (\w+)(?: \{|\(|,| =)", block(file, f"pub enum {name}"), re.MULTILINE))


def fields_of_variants(file: Path, name: str) -> set[str]:
    return set(re.findall(r"^        (\w+):", block(file, f"pub enum {name}"), re.MULTILINE))


def words(file: Path, name: str) -> set[str]:
    """The words of an enum: those of its `as_str`."""
    return set(re.findall(r'=> "(\w+)"', block(file, f"impl {name}")))


def public_functions(*files: Path) -> set[str]:
    return {name for file in files for name in re.findall(r"^    pub (?:async )?fn (\w+)", source(file), re.MULTILINE)}


def texts(file: Path, constant: str) -> list[str]:
    """The texts of a constant."""
    found = re.search(rf"\bconst {constant}: [^=]*=\s*(.*?);\n", source(file), re.DOTALL)
    return re.findall(r'"([^"]*)"', found.group(1)) if found else []


def defaults(file: Path, name: str) -> set[tuple[str, str]]:
    """Each field and its default, as a page writes it. Defaults that are no plain values are left out."""
    body = block(file, f"impl Default for {name}")
    given = re.findall(r"\b(\w+): (Duration::\w+\(\d+\)|\"[^\"]*\"|[\d./ ]+|true|false)", body)
    return {(field, shown(value)) for field, value in given}


def shown(value: str) -> str:
    if found := DURATION.fullmatch(value):
        number = int(found.group(2)) / (1000 if found.group(1) == "millis" else 1)
        return f"{number:g} s"
    return re.sub(r"(\d)\.0\b", r"\1", value).replace(" ", "").strip('"')


def metrics(file: Path) -> set[tuple[str, frozenset[str]]]:
    """Each metric as it is emitted, with its labels."""
    text = source(file)
    made = re.findall(r'\b(gauge|counter|counters|seconds)\(out, "(\w+)", "[^"]*"(?:, "(\w+)")?', text)
    endings = {"gauge": "", "counter": "_total", "counters": "_total", "seconds": "_seconds"}
    found = {(f"dlock_{name}{endings[kind]}", frozenset({label} - {""})) for kind, name, label in made}
    for name in re.findall(r'encode_descriptor\("(\w+)", help, Some\(&Unit::Seconds\)', text):
        found.add((f"dlock_{name}_seconds", frozenset(re.findall(r'\("(\w+)", \*\w+\)', text))))
    return found


def variables_read(*folders: Path) -> set[str]:
    """The environment variables that are read: every text that is a name of ours, and what is asked for by another name."""
    found: set[str] = set()
    for text in sources(*folders):
        kept = re.sub(r"\.env\([^)]*\)", "", text)
        found |= set(re.findall(r'"(DLOCK_[A-Z_]+)"', kept))
        found |= set(re.findall(r'\b(?:var|var_os|set)\("([A-Z][A-Z_]+)"\)', kept))
    return found


def variables_given(*folders: Path) -> set[str]:
    """The environment variables that are given to a command."""
    return {name for text in sources(*folders) for name in re.findall(r'\.env\("([A-Z_]+)"', text)}


def exit_codes(file: Path) -> dict[str, str]:
    """The exit codes, by the names of their constants."""
    return dict(re.findall(r"^pub\(crate\) const (\w+): u8 = (\d+);", source(file), re.MULTILINE))


def exit_codes_of_errors(file: Path) -> set[tuple[str, str]]:
    codes = exit_codes(file)
    arms = re.findall(r"^ +((?:Error::\w+ \{ \.\. \}(?: \| )?)+) => (\w+),", source(file), re.MULTILINE)
    return {(name, codes[constant]) for errors, constant in arms for name in re.findall(r"Error::(\w+)", errors)}
