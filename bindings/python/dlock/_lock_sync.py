"""A lock of `dlock.sync`, and its leases."""

from collections.abc import Callable
from typing import TypeVar, cast

from dlock._calls import IS_LOCKED, ask_blocking
from dlock._handles import LeaseHandle, LockHandle, check_callable, warn_of_unit
from dlock._native import SyncLease, SyncLock, block
from dlock._options import Seconds
from dlock._results import FINISHED, finished, looks_async, looks_lazy
from dlock.errors import LockBusy, invalid

T = TypeVar("T")


class Lease(LeaseHandle, SyncLease):
    """One grant of a lock. `with lease` releases it at the end of the body.

    In `dlock.sync`, a loss cannot cancel the body: `LockLost` is raised at its end.
    """

    __module__ = "dlock.sync"
    __slots__ = ()

    def extend(self, ttl: Seconds) -> None:
        """Makes the lease end `ttl` from now; later renewals use this `ttl` too.

        Raises `LockLost` or `NotHeld` if the lease has ended, `BackendUnavailable` if no answer came.
        """
        warn_of_unit(ttl)
        block(self._extend, ttl)

    def wait_lost(self) -> str:
        """Waits until the lease is lost, and returns the reason. It never returns if the lease is released."""
        return cast(str, block(self._wait_lost))


class Lock(LockHandle[Lease], SyncLock):
    """A key with its options, made by `Client.lock`.

    It is reusable, and several threads may share it: each acquire gets a lease of its own.
    """

    __module__ = "dlock.sync"
    __slots__ = ()

    _reactions = ("raise", "ignore")
    _taker_name = "thread"

    def try_acquire(self) -> Lease | None:
        """Tries once. None if another holder has the key."""
        try:
            return self.acquire(wait=0)
        except LockBusy:
            return None

    def is_locked(self) -> bool:
        """Whether anybody holds the key."""
        return ask_blocking(self._client, IS_LOCKED, self.key)

    def with_lock(self, fn: Callable[[Lease], T]) -> T:
        """Calls `fn(lease)` while holding the key, and returns what it returns.

        The work of `fn` must be done by then: a generator is refused, and other lazy results (a `map`, a `QuerySet`, a stream)
        must be used up in `fn`.
        """
        check_callable(fn)
        if looks_async(fn):
            raise invalid("fn", "a coroutine function", "a plain function; dlock.with_lock takes coroutine functions")
        if looks_lazy(fn):
            raise invalid("fn", "a generator function", f"a function that returns {FINISHED}")
        with self as lease:
            return finished(fn(lease), f"one that returns {FINISHED}. dlock.with_lock awaits what is returned")
