"""Finds the circles in a list of imports."""

from collections import deque
from collections.abc import Iterable
from pathlib import Path

from layers.imports import Import


def circles(imports: Iterable[Import]) -> list[list[Import]]:
    """The shortest circle through every import that is part of one. Each is listed once and begins at its first file by name."""
    imports = sorted(imports, key=lambda each: (each.file, each.target, each.line))
    leaving: dict[Path, list[Import]] = {}
    for each in imports:
        known = leaving.setdefault(each.file, [])
        # The first line that names a file stands for all of them.
        if each.target != each.file and all(other.target != each.target for other in known):
            known.append(each)
    found: dict[tuple[Path, ...], list[Import]] = {}
    for first in (each for known in leaving.values() for each in known):
        back = shortest(leaving, first.target, first.file)
        if back is not None:
            circle = begun_at_first_name([first, *back])
            found.setdefault(tuple(each.file for each in circle), circle)
    return sorted(found.values(), key=lambda circle: (len(circle), circle[0].file, circle[1].file))


def knots(found: Iterable[list[Import]]) -> list[set[Path]]:
    """The files of each group of circles that share files: each of them imports all the others, by whatever way."""
    groups: list[set[Path]] = []
    for circle in found:
        files = {each.file for each in circle}
        joined = [group for group in groups if group & files]
        groups = [group for group in groups if not group & files]
        groups.append(files.union(*joined))
    return groups


def shortest(leaving: dict[Path, list[Import]], start: Path, end: Path) -> list[Import] | None:
    """The imports that lead from one file to another, as few as possible."""
    reached: dict[Path, list[Import]] = {start: []}
    waiting = deque([start])
    while waiting:
        file = waiting.popleft()
        if file == end:
            return reached[file]
        for each in leaving.get(file, []):
            if each.target not in reached:
                reached[each.target] = [*reached[file], each]
                waiting.append(each.target)
    return None


def begun_at_first_name(circle: list[Import]) -> list[Import]:
    first = min(range(len(circle)), key=lambda place: circle[place].file)
    return circle[first:] + circle[:first]
