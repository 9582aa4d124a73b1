"""Both faces say the same: what `dlock` and `dlock.sync` have under one name has one docstring, up to the words of each face."""

import inspect
import re
from collections.abc import Iterator
from typing import Any

import pytest

import dlock
from dlock import sync

# Words of asyncio's face, and what `dlock.sync` says instead.
WORDS = [("async with ", "with "), ("dlock.sync.", "dlock."), ("tasks", "threads"), ("task", "thread")]
# A paragraph about one face alone begins so.
ALONE = ("In asyncio, ", "In `dlock.sync`, ")

CLASSES = ["Client", "Lock", "Lease"]


def pairs() -> Iterator[tuple[str, Any, Any]]:
    for name in sorted(set(dlock.__all__) & set(sync.__all__)):
        yield name, getattr(dlock, name), getattr(sync, name)
    for kind in CLASSES:
        ours, theirs = getattr(dlock, kind), getattr(sync, kind)
        for name in sorted({*dir(ours), *dir(theirs)}):
            if not name.startswith("_"):
                yield f"{kind}.{name}", getattr(ours, name), getattr(theirs, name)


def common(docstring: str | None) -> list[str]:
    """The paragraphs that both faces must have, in the words of `dlock.sync`."""
    paragraphs = [" ".join(text.split()) for text in re.split(r"\n\s*\n", inspect.cleandoc(docstring or ""))]
    said = [text for text in paragraphs if not text.startswith(ALONE)]
    for asynchronous, plain in WORDS:
        said = [text.replace(asynchronous, plain) for text in said]
    return said


@pytest.mark.parametrize(("name", "ours", "theirs"), [pytest.param(*pair, id=pair[0]) for pair in pairs()])
def test_both_faces_have_one_docstring(name: str, ours: Any, theirs: Any) -> None:
    assert common(ours.__doc__) == common(theirs.__doc__)
    assert common(ours.__doc__) != [""] or inspect.ismemberdescriptor(ours), name


def test_the_face_of_asyncio_imports_none_of_the_other() -> None:
    """Decorators are for functions of both kinds: what makes them knows both."""
    face = ["_lease", "_lock", "_client", "_program"]
    other = re.compile(r"^(from|import) dlock\.(sync|_\w+_sync)\b", re.MULTILINE)
    folder = dlock.__path__[0]
    for module in face:
        with open(f"{folder}/{module}.py") as source:
            assert not other.search(source.read()), module
