"""Who imports whom in a crate: every path in its source is followed to the file that defines what it names.

Paths are followed through modules, imports, globs and re-exports, as the compiler follows them. A module's name is no import by
itself, only what is used of the module is. A method call is no import either, but an `impl` for a type of another file imports that
file. Tests may look at everything and are left out.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from layers.imports import Import

Names = tuple[str, ...]

TOKEN = re.compile(
    r"""
    (?P<skip>//[^\n]*|/\*.*?\*/|\s+)
    |(?P<text>b?r(?P<hashes>\#*)".*?"(?P=hashes)|b?"(?:\\.|[^"\\])*"|b?'(?:\\[^']+|\\'|[^'\\])'|'\w+)
    |(?P<name>r\#\w+|\$?\w+)
    |(?P<mark>::|=>|->|.)
    """,
    re.DOTALL | re.VERBOSE,
)
ITEMS = {"struct", "enum", "union", "trait", "fn", "type", "const", "static", "mod"}
OF_ITEM = ITEMS | {"use", "impl", "extern", "async", "unsafe", "macro_rules"}
STARTS = {"crate", "$crate", "self", "super"}
OPENS, CLOSES = {"{", "(", "["}, {"}", ")", "]"}


@dataclass(frozen=True)
class Token:
    text: str
    line: int

    @property
    def is_name(self) -> bool:
        return self.text[0].isalpha() or self.text[0] in "_$"


@dataclass
class Module:
    """A module, with a file of its own or written out in that of its parent."""

    file: Path
    items: set[str] = field(default_factory=set)
    uses: dict[str, Names] = field(default_factory=dict)
    globs: list[Names] = field(default_factory=list)


@dataclass(frozen=True)
class Named:
    """A path that stands in the source of a module."""

    module: Names
    path: Names
    line: int


def imports(source: Path) -> Iterator[Import]:
    crate = Crate(source)
    for named in crate.named:
        target = crate.file_named(named)
        if target is not None and target != crate.modules[named.module].file:
            yield Import(crate.modules[named.module].file, named.line, target)


class Crate:
    """The modules of a crate, and every path that their sources name."""

    def __init__(self, source: Path) -> None:
        self.modules: dict[Names, Module] = {}
        self.named: list[Named] = []
        root = next(file for name in ("lib.rs", "main.rs") if (file := source / name).is_file())
        self._read((), root, source)

    def _read(self, module: Names, file: Path, folder: Path) -> None:
        self.modules[module] = Module(file)
        Reader(self, module, without_tests(tokens(file.read_text()))).read()
        children = sorted(name for name in self.modules[module].items if name.startswith("mod "))
        for name in (child.removeprefix("mod ") for child in children):
            for path in (folder / f"{name}.rs", folder / name / "mod.rs"):
                if path.is_file():
                    self._read((*module, name), path, folder / name)

    def file_named(self, named: Named) -> Path | None:
        """The file that defines what a path names; nothing for modules, and for other crates."""
        found = self._follow(named.module, named.path, frozenset(), reached=False)
        return found if isinstance(found, Path) else None

    def _follow(self, at: Names, path: Names, seen: frozenset[tuple[Names, str]], *, reached: bool) -> Path | Names | None:
        """A file, a module, or nothing. `reached`: the path led to this module, so a macro there defines what is not found."""
        if not path:
            return at
        head, rest = path[0], path[1:]
        if (inner := self._inner(at, head)) is not None:
            return self._follow(inner, rest, seen, reached=True)
        module = self.modules[at]
        if head in module.items or (at, head) in seen:
            return module.file if head in module.items else None
        seen |= {(at, head)}
        if head in module.uses:
            return self._follow(at, module.uses[head] + rest, seen, reached=False)
        return self._by_glob(module, at, path, seen) or (module.file if reached else None)

    def _inner(self, at: Names, name: str) -> Names | None:
        """The module that a name leads to from this one by itself."""
        if name in STARTS:
            return {"self": at, "super": at[:-1]}.get(name, ())
        return (*at, name) if (*at, name) in self.modules else None

    def _by_glob(self, module: Module, at: Names, path: Names, seen: frozenset[tuple[Names, str]]) -> Path | Names | None:
        for glob in module.globs:
            target = self._follow(at, glob, seen, reached=False)
            if isinstance(target, tuple) and (found := self._follow(target, path, seen, reached=False)) is not None:
                return found
        return None


class Reader:
    """Reads the tokens of one file: what its modules define, what they use, and which paths they name."""

    def __init__(self, crate: Crate, module: Names, stream: list[Token]) -> None:
        self.crate = crate
        self.module = module
        self.stream = stream
        # For each open brace whether it is that of a module.
        self.open: list[bool] = []

    def read(self) -> None:
        place = 0
        while place < len(self.stream):
            place = self._step(place)

    def _step(self, place: int) -> int:
        token = self.stream[place]
        if token.text == "{":
            self.open.append(False)
        elif token.text == "}" and self.open and self.open.pop():
            self.module = self.module[:-1]
        elif token.text == "use" and self._begins_item(place):
            return self._use(place + 1)
        elif token.text in ITEMS and self._in_module and self._text(place + 1)[0].isalpha() | (self._text(place + 1)[0] == "_"):
            return self._item(place)
        elif token.text == "macro_rules" and self._in_module:
            self._here.items.add(self._text(place + 2))
        elif token.is_name and self._text(place - 1) != "::":
            return self._path(place)
        return place + 1

    @property
    def _in_module(self) -> bool:
        return not self.open or self.open[-1]

    @property
    def _here(self) -> Module:
        return self.crate.modules[self.module]

    def _text(self, place: int) -> str:
        return self.stream[place].text if 0 <= place < len(self.stream) else " "

    def _begins_item(self, place: int) -> bool:
        return self._text(place - 1) in {" ", ";", "{", "}", "]", ")", "pub"}

    def _item(self, place: int) -> int:
        name = self._text(place + 1)
        if self._text(place) != "mod":
            self._here.items.add(name)
        elif self._text(place + 2) == "{":
            self.crate.modules[(*self.module, name)] = Module(self._here.file)
            self.module = (*self.module, name)
            self.open.append(True)
            return place + 3
        else:
            self._here.items.add(f"mod {name}")
        return place + 2

    def _path(self, place: int) -> int:
        """A path that is not that of a `use`."""
        line, names = self.stream[place].line, [self._text(place)]
        place += 1
        while self._text(place) == "::" and self._text(place + 1)[0] not in "<{*":
            names.append(self._text(place + 1))
            place += 2
        if len(names) > 1:
            self.crate.named.append(Named(self.module, tuple(names), line))
        return place

    def _use(self, place: int, before: Names = ()) -> int:
        """Reads one tree of a `use`, up to what follows it."""
        path, line = before, self.stream[place].line
        while True:
            text = self._text(place)
            if text == "{":
                place += 1
                while self._text(place) != "}":
                    place = self._use(place, path)
                    place += self._text(place) == ","
                return place + 1
            if text == "*":
                self._here.globs.append(path)
                return place + 1
            if text not in {"self", "::"} or not path:
                path = (*path, text) if text != "::" else path
            place += 1
            if self._text(place) == "as":
                self._imported(self._text(place + 1), path, line)
                return place + 2
            if self._text(place) != "::":
                self._imported(path[-1], path, line)
                return place
            place += 1

    def _imported(self, name: str, path: Names, line: int) -> None:
        if name not in STARTS:
            self._here.uses.setdefault(name, path)
        self.crate.named.append(Named(self.module, path, line))


def tokens(text: str) -> list[Token]:
    stream, line = [], 1
    for found in TOKEN.finditer(text):
        if found.lastgroup in {"name", "mark"}:
            stream.append(Token(found.group(), line))
        elif found.group("text"):
            stream.append(Token('"', line))
        line += found.group().count("\n")
    return stream


def without_tests(stream: list[Token]) -> list[Token]:
    """The tokens without what stands under `#[cfg(test)]`."""
    kept: list[Token] = []
    place = 0
    while place < len(stream):
        if stream[place].text == "#" and place + 1 < len(stream) and stream[place + 1].text == "[":
            end = closed(stream, place + 1)
            attribute = [token.text for token in stream[place + 2 : end - 1]]
            if is_of_tests(attribute):
                place = end_of_item(stream, end)
                continue
            place = end
            continue
        kept.append(stream[place])
        place += 1
    return kept


def is_of_tests(attribute: list[str]) -> bool:
    return attribute[:3] == ["cfg", "(", "test"] or attribute[:5] == ["cfg", "(", "all", "(", "test"]


def closed(stream: list[Token], place: int) -> int:
    """Behind the bracket that closes the one at `place`."""
    depth = 0
    while place < len(stream):
        depth += (stream[place].text in OPENS) - (stream[place].text in CLOSES)
        place += 1
        if depth == 0:
            break
    return place


def end_of_item(stream: list[Token], place: int) -> int:
    """Behind the item, the field or the statement that begins at `place`."""
    head = {token.text for token in stream[place : place + 6]}
    is_item = bool(head & OF_ITEM)
    is_use = "use" in head
    while place < len(stream):
        text = stream[place].text
        if text in OPENS:
            place = closed(stream, place)
            if text == "{" and not is_use:
                return place
            continue
        if text in CLOSES:
            return place
        place += 1
        if text == ";" or (text == "," and not is_item):
            return place
    return place
