"""Functions that hold a key while they run, and the lease that they hold.

Those may be coroutine functions or plain ones, so this module knows the locks of both faces.
"""

import functools
import inspect
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Generic, ParamSpec, TypeVar, cast
from weakref import WeakValueDictionary

from dlock._handles import ClientHandle, LockHandle
from dlock._lease import Lease
from dlock._lock import Lock
from dlock._lock_sync import Lease as PlainLease
from dlock._lock_sync import Lock as PlainLock
from dlock._options import LockOptions, checked
from dlock._results import FINISHED, finished, looks_async, looks_lazy, settled
from dlock._template import KeyTemplate
from dlock._words import unexpected
from dlock.errors import LockError, invalid

P = ParamSpec("P")
R = TypeVar("R")
K = TypeVar("K", bound=LockHandle[Any])

MakeLock = Callable[[str, LockOptions], K]

_OF_COROUTINE = f"one that returns {FINISHED}"
_OF_FUNCTION = f"{_OF_COROUTINE}. To have what it returns awaited, declare it `async def` and decorate it with dlock.locked"

_current: ContextVar[Lease | PlainLease] = ContextVar("dlock.current_lease")


def current_lease() -> Lease | PlainLease:
    """The lease of the innermost function decorated with `locked` that is running. Raises `LockError` if there is none.

    In asyncio, that of a plain function is a `dlock.sync.Lease`; `dlock.sync.current_lease()` says so to type checkers.
    """
    try:
        return _current.get()
    except LookupError:
        message = "current_lease: no function that is decorated with `locked` is running here"
        raise LockError(message, code="NO_LEASE", operation="current_lease") from None


class Locked:
    """The decorator that `locked` makes."""

    __slots__ = ("_make_async", "_make_plain", "_options", "_template")

    def __init__(self, key: str, options: LockOptions, make_plain: MakeLock[Any], make_async: MakeLock[Any] | None = None) -> None:
        """Without `make_async`, it refuses coroutine functions."""
        # The engine checks ranges. It is asked at the first call, because until then the default client may not be configured.
        if unknown := options.keys() - LockOptions.__annotations__.keys():
            raise unexpected("locked", unknown, LockOptions.__annotations__.keys())
        checked(options)
        self._template = key
        self._options = options
        self._make_plain = make_plain
        self._make_async = make_async

    def __call__(self, fn: Callable[P, R]) -> Callable[P, R]:
        _check_function(fn, self._make_async is not None)
        template = KeyTemplate(self._template, fn)
        if self._make_async is not None and looks_async(fn):
            return cast(Callable[P, R], _around_coroutine(fn, template, Locks(self._make_async, self._options)))
        return _around_function(fn, template, Locks(self._make_plain, self._options))


def locked_by(client: ClientHandle, key: str, options: LockOptions) -> Locked:
    """The decorator of a client of asyncio, for both kinds of functions."""
    plain = ClientHandle._sharing(client)
    return Locked(
        key, options, lambda key, options: PlainLock(plain, key, options), lambda key, options: Lock(client, key, options)
    )


class Locks(Generic[K]):
    """The locks of one function: a new one for each call, or with `reentrant` one for each key, which nested calls enter again."""

    __slots__ = ("_guard", "_known", "_make", "_options")

    def __init__(self, make: MakeLock[K], options: LockOptions) -> None:
        self._make = make
        self._options = options
        self._known: WeakValueDictionary[str, K] | None = WeakValueDictionary() if options.get("reentrant") else None
        self._guard = threading.Lock()

    def get(self, key: str) -> K:
        if self._known is None:
            return self._make(key, self._options)
        with self._guard:
            lock = self._known.get(key)
            if lock is None:
                lock = self._known[key] = self._make(key, self._options)
            return lock


def _around_coroutine(fn: Callable[..., Any], template: KeyTemplate, locks: Locks[Any]) -> Callable[..., Any]:
    @functools.wraps(fn)
    async def locked(*arguments: Any, **keywords: Any) -> Any:
        async with locks.get(template.key(arguments, keywords)) as lease:
            before = _current.set(lease)
            try:
                return await settled(fn(*arguments, **keywords), _OF_COROUTINE)
            finally:
                _current.reset(before)

    return locked


def _around_function(fn: Callable[P, R], template: KeyTemplate, locks: Locks[Any]) -> Callable[P, R]:
    @functools.wraps(fn)
    def locked(*arguments: P.args, **keywords: P.kwargs) -> R:
        with locks.get(template.key(arguments, keywords)) as lease:
            before = _current.set(lease)
            try:
                return finished(fn(*arguments, **keywords), _OF_FUNCTION)
            finally:
                _current.reset(before)

    return locked


def _check_function(fn: object, coroutines: bool) -> None:
    if isinstance(fn, classmethod | staticmethod):
        raise invalid("fn", f"a {type(fn).__name__}", f"a function: write @{type(fn).__name__} above @locked")
    if not callable(fn) or inspect.isclass(fn):
        raise invalid("fn", f"an object of type {type(fn).__name__}", "a function")
    if looks_lazy(fn):
        raise invalid("fn", "a generator function", f"a function that returns {FINISHED}")
    if not coroutines and looks_async(fn):
        raise invalid("fn", "a coroutine function", "a plain function; dlock.locked takes coroutine functions")
