"""Refuses results that do their work later, of functions that run under a lock: the lock would be released by then."""

import functools
import inspect
from collections.abc import Awaitable, Callable, Iterator
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any, TypeVar

from dlock.errors import InvalidOptions, invalid

T = TypeVar("T")

FINISHED = (
    "a finished result. A generator runs only when its values are used, after the key was released: use them inside the function"
)

# How many wrappers are followed. A function that wraps itself would never end.
_DEEPEST = 100


def looks_async(fn: object) -> bool:
    """Whether a callable returns a coroutine. It looks through partials, callable objects and `functools.wraps`."""
    return any(map(inspect.iscoroutinefunction, _layers(fn)))


def looks_lazy(fn: object) -> bool:
    """Whether a callable returns a generator, plain or async. It looks through partials and callable objects."""
    for layer in _layers(fn, wrapped=False):
        if inspect.isasyncgenfunction(layer):
            return True
        if inspect.isgeneratorfunction(layer):
            code = getattr(inspect.unwrap(layer), "__code__", None)
            # A function made by `types.coroutine` is awaited.
            return code is None or not code.co_flags & inspect.CO_ITERABLE_COROUTINE
    return False


def _layers(fn: object, *, wrapped: bool = True) -> Iterator[object]:
    """A callable and what it wraps, outermost first."""
    for _ in range(_DEEPEST):
        yield fn
        if isinstance(fn, functools.partial | functools.partialmethod):
            fn = fn.func
        elif wrapped and (inner := getattr(fn, "__wrapped__", None)) is not None:
            fn = inner
        elif not inspect.isroutine(fn) and not inspect.isclass(fn):
            call = inspect.getattr_static(type(fn), "__call__", None)
            if not inspect.isfunction(call) and not hasattr(call, "__wrapped__"):
                return
            fn = call
        else:
            return


def finished(result: T, allowed: str) -> T:
    """The result of a plain function. If it has not run yet, it is ended and refused."""
    if type(result) in _PLAIN:
        return result
    if isinstance(result, AsyncGeneratorType | GeneratorType):
        raise _refused(result, allowed)
    if isinstance(result, CoroutineType) or inspect.isawaitable(result):
        raise _refused(result, allowed)
    return result


async def settled(result: Awaitable[T] | T, allowed: str) -> T:
    """The result of a function, awaited if it can be."""
    while True:
        if type(result) in _PLAIN:
            return result  # type: ignore[return-value]
        # A generator may be awaited if it was made by `types.coroutine`.
        if inspect.isawaitable(result):
            result = await result
        elif isinstance(result, AsyncGeneratorType | GeneratorType):
            raise _refused(result, allowed)
        else:
            return result


_PLAIN = frozenset({type(None), bool, int, float, str, bytes, dict, list, tuple, set})


def _refused(result: Any, allowed: str) -> InvalidOptions:
    """The error for a result. It ends the result, so that nothing warns that it was never awaited."""
    if isinstance(result, AsyncGeneratorType):
        kind = "an async generator"  # it has not begun, so there is nothing to close
    elif isinstance(result, GeneratorType):
        kind = "a generator"
        result.close()
    else:
        kind = "a coroutine" if isinstance(result, CoroutineType) else f"an awaitable of type {type(result).__name__}"
        # Cancels a task or future. One that has not begun never begins.
        end: Callable[[], object] | None = getattr(result, "close", None) or getattr(result, "cancel", None)
        if callable(end):
            end()
    return invalid("fn", f"a function that returned {kind}", allowed)
