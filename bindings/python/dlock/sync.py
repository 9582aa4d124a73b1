"""dlock without an event loop: the same names, with plain `with` and calls that block.

A blocked call holds no GIL, answers Ctrl-C at once, and lets other greenlets run under gevent or eventlet. A loss cannot cancel the
body: `lease.check()` raises, and so does the end of a body that went on regardless.
"""

import asyncio
import inspect as _inspect
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Never, Self, TypeVar, Unpack, cast

from dlock import _caller, _native, _process, _signals
from dlock._handles import ClientHandle, LeaseHandle, LockHandle, check_callable, holder_named, refuse_words, warn_of_unit
from dlock._holder import Inspection
from dlock._locked import Locked
from dlock._locked import current_lease as _current_lease
from dlock._log import LOG
from dlock._observe import EventName, Health, Observe, Observers
from dlock._options import UNSET, ClientOptions, LockOptions, Seconds, Unset
from dlock._wait import wait_readable
from dlock._warn import warn_caller
from dlock.errors import AcquireTimeout, ForkedError, LockBusy, LockError, invalid

__all__ = [
    "Client",
    "Lease",
    "Lock",
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

# Queues that no call uses now. Each call under way has one of its own, so threads and greenlets never wait for each other's.
_idle: deque[_native.Completions] = deque(maxlen=64)
_process.in_child(_idle.clear)


def _run(start: Callable[..., _native.Call | None], *arguments: Any) -> Any:
    """Starts a call, one that can be aborted or None, and blocks until its outcome has come."""
    if asyncio._get_running_loop() is not None:
        warn_caller("dlock.sync blocks the running event loop: use `async with` there", RuntimeWarning)
    try:
        completions = _idle.pop()
    except IndexError:
        LOG.start()
        completions = _native.Completions()
    call = start(completions, 0, *arguments)
    try:
        outcomes = completions.drain()
        while not outcomes:
            wait_readable(completions.fileno())
            outcomes = completions.drain()
    except BaseException:
        # Ctrl-C for one. Whatever still comes to this queue is given back.
        if call is not None:
            call.abort()
        completions.close()
        raise
    _idle.append(completions)
    ((_, value, error),) = outcomes
    if error is not None:
        _process.let_daemon_end()
        raise error
    return value


class _Thread(threading.local):
    """What a thread is known by: its number may be that of another one that has ended."""

    def __init__(self) -> None:
        self.mark = object()


_thread = _Thread()


def _taker() -> object:
    """The thread that is running. Under gevent and eventlet, which replace `get_ident`, the greenlet."""
    return threading.get_ident(), _thread.mark


def _ask(start: Callable[..., _native.Call], *arguments: Any) -> Any:
    """Asks about keys: while a client is being closed, only who holds a lease of it may."""
    return _run(start, _caller.of_thread(_taker()), *arguments)


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
        return cast(Health, _run(self._native.health))

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
        _run(self._native.close, timeout)

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


class Lease(LeaseHandle):
    """One grant of a lock. `with lease` gives it back at the end of the body."""

    __slots__ = ("_entered",)

    def __init__(
        self, _grant: _native.Grant, key: str, on_lost: str, taker: object, leases: dict[str, weakref.ref[LeaseHandle]]
    ) -> None:
        self._key = key
        self._leases = leases
        self._on_lost = on_lost
        self._released = False
        self._taker = taker
        self._entered = False

    def release(self) -> bool:
        """Gives the key back. True if the backend confirmed it; else `status` says how it stands. Waits at most `op_timeout`.

        With `reentrant`, each release takes one acquire back, and the last one gives back the key.
        """
        return cast(bool, _run(self._begin_release))

    def _begin_release(self, completions: _native.Completions, number: int) -> None:
        if self._release(completions, number):
            self._let_go()

    def extend(self, ttl: Seconds) -> None:
        """Sets the life of the lease: `ttl` from now, and for later renewals. `LockLost` or `NotHeld` if the lease has ended."""
        warn_of_unit(ttl)
        _run(self._extend, ttl)

    def wait_lost(self) -> str:
        """Blocks until the lease is lost and says why. Does not return for a lease that is given back."""
        return cast(str, _run(self._wait_lost))

    def __enter__(self) -> Self:
        if self._entered:
            raise LockError(f'lock "{self.key}": the lease was entered before', code="ALREADY_ENTERED", key=self.key)
        self.check()
        self._entered = True
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        loss = None if self.valid else self._loss()
        try:
            self.release()
        except ForkedError:
            if kind is None:
                raise
        if loss is not None and kind is None and self._on_lost != "ignore":
            raise loss


class Lock(LockHandle[Lease]):
    """A key with its options, made by `Client.lock`.

    Reusable, and several threads may share one: each acquire gets a lease of its own.
    """

    __slots__ = ()

    _reactions = ("raise", "ignore")
    _taker_name = "thread"

    def acquire(self, *, wait: Seconds | Unset | None = UNSET, **other: Never) -> Lease:
        """Blocks until the key is got and returns the lease. `wait` overrides the lock's own: 0 tries once, None waits for ever.

        Raises `AcquireTimeout` when `wait` is over, `LockBusy` when it is 0 and the key is held, `BackendUnavailable` when the
        backend failed for `connect_timeout`, `RetriesExhausted` when the attempts of `retry` are used up.
        """
        refuse_words("acquire", other, "wait")
        lease = self._get(wait)
        self._remember(lease)
        return lease

    def try_acquire(self) -> Lease | None:
        """Tries once; None if somebody else holds the key."""
        try:
            return self.acquire(wait=0)
        except LockBusy:
            return None

    def release(self) -> bool:
        """Gives back the lease that this thread took last with this lock, else the only one outstanding. See `Lease.release`."""
        lease = self._to_release(_taker())
        if lease is not None:
            return lease.release()
        # None, or several, or one whose handle was discarded: the engine knows.
        return cast(bool, _run(self._native.release))

    def is_locked(self) -> bool:
        """Whether anybody holds the key."""
        return cast(bool, _ask(self._client._native.is_locked, self.key))

    def with_lock(self, fn: Callable[[Lease], T]) -> T:
        """Calls `fn(lease)` while holding the key, and returns what it returns."""
        check_callable(fn)
        if _inspect.iscoroutinefunction(fn):
            raise invalid("fn", "a coroutine function", "a plain function; dlock.with_lock takes coroutine functions")
        with self as lease:
            return fn(lease)

    def __enter__(self) -> Lease:
        lease = self._get(UNSET)
        lease._entered = True
        self._entered.append(lease)
        return lease

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._to_leave(_taker(), "__exit__").__exit__(kind, error, trace)

    def _get(self, wait: Seconds | Unset | None) -> Lease:
        thread = _taker()
        leases = self._client._leases
        if self.key in leases:
            if self._reentrant and (own := self._again(thread)) is not None:
                return own
            self._warn_of_own_lease(thread, wait)
        caller = _caller.of_thread(thread)
        start, own_wait = (self._native.acquire, ()) if isinstance(wait, Unset) else (self._native.acquire_within, (wait,))
        try:
            grant = _run(start, False, caller, *own_wait)
        except AcquireTimeout:
            self._warn_of_starter(caller)
            raise
        lease = Lease(grant, self.key, self._on_lost, thread, leases)
        if not lease.valid:
            # It ran out before it got here: the process was paused.
            loss = lease._loss()
            lease.release()
            if loss is not None:
                raise loss
        leases[self.key] = weakref.ref(lease)
        return lease


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
