"""The stub of the extension, from which editors and the reference take their words, has those of the extension itself."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dlock
from dlock import _native, sync

STUB = Path(str(_native.__file__)).with_name("_native.pyi")


def words(docstring: str | None) -> str:
    return " ".join((docstring or "").split())


def documented() -> Iterator[tuple[str, str | None, Any]]:
    """Each class and member of the stub, its words there, and the thing itself."""
    for node in ast.parse(STUB.read_text()).body:
        if isinstance(node, ast.ClassDef):
            kind = getattr(_native, node.name)
            yield node.name, ast.get_docstring(node), kind
            for member in node.body:
                if isinstance(member, ast.FunctionDef):
                    yield f"{node.name}.{member.name}", ast.get_docstring(member), getattr(kind, member.name, None)


SAID = {name: (docstring, thing) for name, docstring, thing in documented() if docstring}


@pytest.mark.parametrize("name", SAID)
def test_the_stub_says_what_the_extension_says(name: str) -> None:
    docstring, thing = SAID[name]
    assert words(docstring) == words(thing.__doc__)


@pytest.mark.parametrize("handle", [dlock.Lease, dlock.Lock, sync.Lease, sync.Lock, dlock.Event], ids=str)
def test_what_users_get_from_the_extension_has_words_in_the_stub(handle: type) -> None:
    bases = [kind for kind in handle.__mro__ if kind.__module__ == "dlock._native" or kind is dlock.Event]
    public = [(kind, name) for kind in bases for name, member in vars(kind).items() if not name.startswith("_") and member.__doc__]
    assert [f"{kind.__name__}.{name}" for kind, name in public if f"{kind.__name__}.{name}" not in SAID] == []
