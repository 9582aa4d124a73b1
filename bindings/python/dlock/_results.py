"""What a function that ran under a lock returned: what is still to run would run without the lock."""

import functools
import inspect
from collections.abc import Awaitable, Callable, Iterator
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any, TypeVar

from dlock.errors import InvalidOptions, invalid

T = TypeVar("T")

# Where wrappers say what they wrap. A wrapped function that wraps itself would go on for ever.
_DEEPEST = 100


def looks_async(fn: object) -> bool:
    """Whether a callable returns a coroutine, as far as can be seen: through partials, callable objects and `functools.wraps`."""
    return any(map(inspect.iscoroutinefunction, _layers(fn)))


def looks_lazy(fn: object) -> bool:
    """Whether a callable returns a generator, sync or async, as far as can be seen."""
    for layer in _layers(fn, wrapped=False):
        if inspect.isasyncgenfunction(layer):
            return True
        if inspect.isgeneratorfunction(layer):
            code = getattr(inspect.unwrap(layer), "__code__", None)
            # What `types.coroutine` has made is awaited.
            return code is None or not code.co_flags & inspect.CO_ITERABLE_COROUTINE
    return False


def _layers(fn: object, *, wrapped: bool = True) -> Iterator[object]:
    """A callable and what it is made of, outermost first."""
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
    """The result of a plain function. Refused, and ended, if it has not run yet."""
    if type(result) in _PLAIN:
        return result
    if isinstance(result, AsyncGeneratorType | GeneratorType):
        raise _refused(result, allowed)
    if isinstance(result, CoroutineType) or inspect.isawaitable(result):
        raise _refused(result, allowed)
    return result


async def settled(result: Awaitable[T] | T, allowed: str) -> T:
    """The result of a function, awaited where it can be."""
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
    """Ends what was returned: nothing runs it, and nothing warns that it was never awaited."""
    if isinstance(result, AsyncGeneratorType):
        kind = "an async generator"  # nothing of it has run: there is nothing to close
    elif isinstance(result, GeneratorType):
        kind = "a generator"
        result.close()
    else:
        kind = "a coroutine" if isinstance(result, CoroutineType) else f"an awaitable of type {type(result).__name__}"
        # A task or future is asked to end. One that was not begun never begins.
        end: Callable[[], object] | None = getattr(result, "close", None) or getattr(result, "cancel", None)
        if callable(end):
            end()
    return invalid("fn", f"a function that returned {kind}", allowed)
