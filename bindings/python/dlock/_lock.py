"""A lock of asyncio."""

from collections.abc import Awaitable, Callable
from typing import Never, TypeVar

from dlock._calls import IS_LOCKED, ask
from dlock._handles import LockHandle, check_callable, refuse_words
from dlock._lease import Lease
from dlock._native import Acquiring, AsyncLock
from dlock._options import UNSET, Seconds, Unset
from dlock._results import FINISHED, looks_lazy, settled
from dlock.errors import LockBusy, invalid

T = TypeVar("T")


class Lock(LockHandle[Lease], AsyncLock):
    """A key with its options, made by `Client.lock`.

    It is reusable, and several tasks may share it: each acquire gets a lease of its own.
    """

    __slots__ = ()

    _reactions = ("cancel", "raise", "ignore")
    _taker_name = "task"

    async def acquire(self, *, wait: Seconds | Unset | None = UNSET, **other: Never) -> Lease:
        """Waits for the key and returns the lease. `wait` replaces the lock's own: 0 tries once, None waits for ever.

        Raises `AcquireTimeout` when `wait` is over, `LockBusy` when it is 0 and another holder has the key, `RetriesExhausted`
        after the last attempt of `retry`, `BackendUnavailable` when the backend failed for `connect_timeout`.

        In asyncio, cancelling the caller ends the attempt, and a grant that is under way is released.
        """
        if other:
            refuse_words("acquire", other, "wait")
        return await Acquiring(self, wait)

    async def try_acquire(self) -> Lease | None:
        """Tries once. None if another holder has the key."""
        try:
            return await self.acquire(wait=0)
        except LockBusy:
            return None

    async def is_locked(self) -> bool:
        """Whether anybody holds the key."""
        return await ask(self._client, IS_LOCKED, self.key)

    async def with_lock(self, fn: Callable[[Lease], Awaitable[T] | T]) -> T:
        """Calls `fn(lease)` while holding the key, and returns what it returns.

        The work of `fn` must be done by then: a generator is refused, and other lazy results (a `map`, a `QuerySet`, a stream)
        must be used up in `fn`.

        In asyncio, `fn` may be a coroutine function or a plain one. What it returns is awaited while the key is held.
        """
        check_callable(fn)
        if looks_lazy(fn):
            raise invalid("fn", "a generator function", f"a function that returns {FINISHED}")
        async with self as lease:
            return await settled(fn(lease), f"one that returns {FINISHED}")
