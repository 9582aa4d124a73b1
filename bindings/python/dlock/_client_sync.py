"""dlock without an event loop: the same names, with plain `with` and calls that block.

A blocked call holds no GIL, answers Ctrl-C at once, and lets other greenlets run under gevent or eventlet. A loss cannot cancel the
body: `lease.check()` raises, and so does the end of a body that went on regardless.
"""

import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, cast

from dlock import _caller, _native, _signals
from dlock._handles import ClientHandle, LeaseHandle, LockHandle, check_callable, holder_named, warn_of_unit
from dlock._holder import Inspection
from dlock._locked import Locked
from dlock._locked import current_lease as _current_lease
from dlock._observe import EventName, Health, Observe, Observers
from dlock._options import ClientOptions, LockOptions, Seconds
from dlock._results import finished, looks_async, looks_lazy
from dlock._wait import wait_readable
from dlock.errors import LockBusy, LockError, invalid

__all__ = [
    "Client",
    "Lease",
    "Lock",
    "capabilities",
    "close",
    "close_on_signal",
    "configure",
    "connect",
    "current_lease",
    "force_release",
    "health",
    "inspect",
    "is_locked",
    "list_locks",
    "lock",
    "locked",
    "metrics",
    "on",
    "ping",
    "reopen",
    "reset_default_client",
    "stats",
    "with_lock",
]

T = TypeVar("T")

_DONE = "what has been done by then: use the values of a generator in it"


def _ask(start: Callable[..., _native.Call], *arguments: Any) -> Any:
    """Asks about keys: while a client is being closed, only who holds a lease of it may."""
    return _native.block(start, _caller.of_thread(_native.taker()), *arguments)


class Client(ClientHandle):
    """Makes locks on one backend. Lazy: it connects, and starts the engine, at its first use.

    `Client("redis://localhost:6379")`, or another of `rediss://`, `redis+sentinel://`, `redis+unix://`, `etcd://`, `etcds://`,
    `local:` and `memory:`; without a URL `DLOCK_URL` is used, else `local:`. `with client` closes it at the end.
    """

    __slots__ = ()

    def lock(self, key: str, **options: Unpack[LockOptions]) -> "Lock":
        """A reusable lock for `key`. Raises `InvalidOptions` for what cannot be used; does no I/O."""
        return Lock(self, key, options)

    def with_lock(self, key: str, fn: "Callable[[Lease], T]", **options: Unpack[LockOptions]) -> T:
        """Calls `fn(lease)` while holding `key`, and returns what it returns."""
        return self.lock(key, **options).with_lock(fn)

    def locked(self, key: str, **options: Unpack[LockOptions]) -> Locked:
        """Decorates a plain function that holds `key` while it runs. See `dlock.locked`."""
        return Locked(key, options, lambda key, options: Lock(self, key, options))

    def ping(self) -> None:
        """One round trip to the backend; `BackendUnavailable` within `connect_timeout`, or `BackendRefused`."""
        _ask(self._native.ping)

    def inspect(self, key: str) -> Inspection:
        """Who holds a key and who waits for it: one place a client, and how many callers of this one. See `Inspection`."""
        return cast(Inspection, _ask(self._native.inspect, key))

    def list_locks(self, prefix: str = "") -> list[Inspection]:
        """The held keys that begin with `prefix`, in order."""
        return cast(list[Inspection], _ask(self._native.list_locks, prefix))

    def is_locked(self, key: str) -> bool:
        """Whether anybody holds the key."""
        return cast(bool, _ask(self._native.is_locked, key))

    def force_release(self, key: str, token: int | None = None, *, owner: str | None = None) -> bool:
        """Takes the key away from the holder with this token or owner id; see `dlock.Client.force_release`."""
        return cast(bool, _ask(self._native.force_release, key, holder_named(token, owner)))

    def health(self) -> Health:
        """Makes a round trip within `op_timeout` and looks at the leases. A backend that does not answer is told, not raised."""
        return cast(Health, _native.block(self._native.health))

    def on(self, event: EventName, fn: Observe) -> Callable[[], None]:
        """Calls `fn(event)` on a thread of ours, one for the client, whenever this happens; returns a function that ends it.

        The observers of a client hear of the events of a lease in order. One that raises is logged. Where they are too slow, events
        are dropped and counted (`stats().dropped_events`); locks never wait for an observer.
        """
        observers = self._observers.get(_ON_THREAD)
        if observers is None or observers.subscription.over:
            observers = self._observers[_ON_THREAD] = ThreadObservers(self._native)
        return observers.add(event, fn)

    def close(self, timeout: Seconds = 0) -> None:
        """Refuses new work, waits up to `timeout` for holders while their leases are renewed, then takes what is left.

        Until then a thread that holds a lease of this client may acquire more and goes on waiting for what it has asked for, as may
        threads that run in a copy of its context: from Python 3.14 on those that it starts, before only those that are given one
        (`threading.Thread(target=contextvars.copy_context().run, args=(work,))`). Everybody else gets `ClientClosed` at once.

        In a web server, drain the server first, then close the client: its requests are new work.
        """
        _native.block(self._native.close, timeout)

    def close_on_signal(self, timeout: Seconds, signals: Iterable[int] = _signals.END) -> Callable[[], None]:
        """Has the first of these signals begin `close(timeout)`, on a thread; see `dlock.Client.close_on_signal`."""
        _native.check_seconds("timeout", timeout)
        return _signals.close_on_signal(lambda: self.close(timeout), signals)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        self.close()


class _OnThread:
    """Where the observers of this face are called."""


_ON_THREAD = _OnThread()


class ThreadObservers(Observers):
    """Observers on a thread, which ends with the last of them or with their client."""

    def __init__(self, native: _native.Client) -> None:
        self._completions = _native.Completions()
        super().__init__(native, self._completions, 0)
        threading.Thread(target=self._call, name="dlock-observe", daemon=True).start()

    def _call(self) -> None:
        while True:
            wait_readable(self._completions.fileno())
            self._completions.drain()
            self.deliver()
            if self.subscription.over:
                return


class Lease(LeaseHandle, _native.SyncLease):
    """One grant of a lock. `with lease` gives it back at the end of the body."""

    __slots__ = ()

    def extend(self, ttl: Seconds) -> None:
        """Sets the life of the lease: `ttl` from now, and for later renewals. `LockLost` or `NotHeld` if the lease has ended."""
        warn_of_unit(ttl)
        _native.block(self._extend, ttl)

    def wait_lost(self) -> str:
        """Blocks until the lease is lost and says why. Does not return for a lease that is given back."""
        return cast(str, _native.block(self._wait_lost))


class Lock(LockHandle[Lease], _native.SyncLock):
    """A key with its options, made by `Client.lock`.

    Reusable, and several threads may share one: each acquire gets a lease of its own.
    """

    __slots__ = ()

    _reactions = ("raise", "ignore")
    _taker_name = "thread"

    def try_acquire(self) -> Lease | None:
        """Tries once; None if somebody else holds the key."""
        try:
            return self.acquire(wait=0)
        except LockBusy:
            return None

    def is_locked(self) -> bool:
        """Whether anybody holds the key."""
        return cast(bool, _ask(self._client._native.is_locked, self.key))

    def with_lock(self, fn: Callable[[Lease], T]) -> T:
        """Calls `fn(lease)` while holding the key, and returns what it returns."""
        check_callable(fn)
        if looks_async(fn):
            raise invalid("fn", "a coroutine function", "a plain function; dlock.with_lock takes coroutine functions")
        if looks_lazy(fn):
            raise invalid("fn", "a generator function", f"a function that returns {_DONE}")
        with self as lease:
            return finished(fn(lease), f"one that returns {_DONE}; dlock.with_lock awaits what is returned")


def connect(url: str | None = None, **options: Unpack[ClientOptions]) -> Client:
    """A client that has reached its backend; `BackendUnavailable` within `connect_timeout`, or `BackendRefused`."""
    client = Client(url, **options)
    client.ping()
    return client


def lock(key: str, **options: Unpack[LockOptions]) -> Lock:
    """A reusable lock of the default client: `with dlock.sync.lock("k", ttl=30) as lease: ...`."""
    return Client._default().lock(key, **options)


def locked(key: str, **options: Unpack[LockOptions]) -> Locked:
    """Decorates a plain function that holds a key of the default client while it runs. See `dlock.locked`."""
    return Locked(key, options, lambda key, options: lock(key, **options))


def current_lease() -> Lease:
    """The lease of the innermost plain function decorated with `locked` that is running."""
    lease = _current_lease()
    if isinstance(lease, Lease):
        return lease
    raise LockError("current_lease: the innermost lease is asyncio's", code="NO_LEASE", operation="current_lease")


def with_lock(key: str, fn: Callable[[Lease], T], **options: Unpack[LockOptions]) -> T:
    """Calls `fn(lease)` while holding `key`, and returns what it returns."""
    return Client._default().with_lock(key, fn, **options)


# At the end: it is made of the client above.
from dlock._program_sync import (  # noqa: E402
    capabilities,
    close,
    close_on_signal,
    configure,
    force_release,
    health,
    inspect,
    is_locked,
    list_locks,
    metrics,
    on,
    ping,
    reopen,
    reset_default_client,
    stats,
)
