"""Keys made from the arguments of a call."""

import inspect
import re
from collections.abc import Callable, Iterator
from string import Formatter
from typing import Any

from dlock.errors import LockError, invalid

_NAME = re.compile(r"[^.\[]*")


class KeyTemplate:
    """A key like `order:{order_id}` or `user:{self.id}`, filled from the bound arguments of a function."""

    __slots__ = ("_extra", "_name", "_plain", "_signature", "_text")

    def __init__(self, text: str, fn: Callable[..., Any]) -> None:
        """Raises `InvalidOptions` for text that cannot be a key of `fn`: names that it does not take, broken braces."""
        if not isinstance(text, str):
            raise invalid("key", repr(text), "a str")
        self._text = text
        self._name = getattr(fn, "__qualname__", type(fn).__qualname__)
        self._signature = inspect.signature(fn)
        parameters = self._signature.parameters
        self._extra = next((name for name, each in parameters.items() if each.kind is each.VAR_KEYWORD), None)
        names = self._names(text)
        self._plain = not names and "{" not in text and "}" not in text
        unknown = names - set(parameters)
        if unknown and (self._extra is None or not all(map(str.isidentifier, unknown))):
            allowed = f"names of parameters: {', '.join(parameters)}" if parameters else "no names: it takes no arguments"
            raise invalid("key", repr(text), f"{self._name}: {allowed}")

    def key(self, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> str:
        """The key of a call. For arguments that do not fit it raises what the call itself would, and `InvalidOptions` for names
        that the arguments do not fill. Other errors of the objects' own code pass to the caller."""
        if self._plain:
            return self._text
        bound = self._signature.bind(*arguments, **keywords)
        bound.apply_defaults()
        values = bound.arguments
        extra = values.get(self._extra, {}) if self._extra is not None else {}
        try:
            return self._text.format_map({**extra, **values})
        except LockError:
            raise
        except (LookupError, AttributeError, TypeError, ValueError) as error:
            missing = (
                f"{error} was not given" if type(error) is KeyError and error.args[0] in self._names(self._text) else str(error)
            )
            raise invalid("key", repr(self._text), f"{self._name}: names that the arguments fill: {missing}") from error

    def _names(self, text: str) -> set[str]:
        try:
            return set(_names(text))
        except ValueError as error:
            raise invalid("key", repr(text), f"a format string: {error}") from error


def _names(text: str) -> Iterator[str]:
    for _, field, specification, _ in Formatter().parse(text):
        if field is None:
            continue
        found = _NAME.match(field)
        assert found is not None  # it may be empty
        yield found[0]
        yield from _names(specification or "")
