"""A client of `dlock.sync`."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar, Unpack, cast

from dlock._calls import FORCE_RELEASE, INSPECT, IS_LOCKED, LIST_LOCKS, PING, ask_blocking
from dlock._handles import ClientHandle, holder_named
from dlock._holder import Inspection
from dlock._lock_sync import Lease, Lock
from dlock._locked import Locked
from dlock._native import Client as NativeClient
from dlock._native import Completions, block
from dlock._observe import EventName, Health, Observe, Observers
from dlock._options import LockOptions, Seconds
from dlock._wait import wait_readable

T = TypeVar("T")


class Client(ClientHandle):
    """Makes locks on one backend. It is lazy: the first use connects and starts the engine.

    `Client("redis://localhost:6379")`, or `rediss://`, `redis+sentinel://`, `redis+unix://`, `etcd://`, `etcds://`, `local:` or
    `memory:`. Without a URL the client uses `DLOCK_URL`, and if that is empty or not set `local:`. `with client` closes the client
    at the end.
    """

    __module__ = "dlock.sync"
    __slots__ = ()

    def lock(self, key: str, **options: Unpack[LockOptions]) -> Lock:
        """A reusable lock for `key`. Raises `InvalidOptions` for a key or option that cannot be used. Does no I/O."""
        return Lock(self, key, options)

    def with_lock(self, key: str, fn: Callable[[Lease], T], **options: Unpack[LockOptions]) -> T:
        """Calls `fn(lease)` while holding `key`, and returns what it returns. See `Lock.with_lock`."""
        return self.lock(key, **options).with_lock(fn)

    def locked(self, key: str, **options: Unpack[LockOptions]) -> Locked:
        """Decorates a function that holds `key` while it runs. See the function `locked`."""
        return Locked(key, options, lambda key, options: Lock(self, key, options))

    def ping(self) -> None:
        """Makes one round trip to the backend. Raises `BackendUnavailable` within `connect_timeout`, or `BackendRefused`."""
        ask_blocking(self, PING)

    def inspect(self, key: str) -> Inspection:
        """Who holds a key and who waits for it. See `Inspection`."""
        return ask_blocking(self, INSPECT, key)

    def list_locks(self, prefix: str = "") -> list[Inspection]:
        """The held keys that begin with `prefix`, in order."""
        return ask_blocking(self, LIST_LOCKS, prefix)

    def is_locked(self, key: str) -> bool:
        """Whether anybody holds the key."""
        return ask_blocking(self, IS_LOCKED, key)

    def force_release(self, key: str, token: int | None = None, *, owner: str | None = None) -> bool:
        """Takes the key away from the holder with this token or owner id. True if that holder held it.

        The holder learns of this at its next renewal. Until then two holders may believe that they hold the key, and only the
        fencing token protects the data.
        """
        return ask_blocking(self, FORCE_RELEASE, key, holder_named(token, owner))

    def health(self) -> Health:
        """Makes a round trip within `op_timeout` and checks the leases. If the backend does not answer, the result says so."""
        return cast(Health, block(self._native.health))

    def on(self, event: EventName, fn: Observe) -> Callable[[], None]:
        """Calls `fn(event)` for each such event. Returns a function that ends this.

        A client's observers get the events of a lease in order. If one raises, that is logged. If observers are too slow, events
        are dropped and counted (`stats().dropped_events`): a lock never waits for an observer.

        In `dlock.sync`, observers are called on a thread that the package starts, one for each client.
        """
        observers = self._observers.get(_ON_THREAD)
        if observers is None or observers.subscription.over:
            observers = self._observers[_ON_THREAD] = ThreadObservers(self._native)
        return observers.add(event, fn)

    def close(self, timeout: Seconds = 0) -> None:
        """Refuses new work and waits up to `timeout` for holders, while their leases are renewed. Then it ends the leases that are
        left.

        Meanwhile a thread that holds a lease of this client, and what it started, may acquire more and go on waiting for what they
        already asked for. All other callers get `ClientClosed` at once.

        In `dlock.sync`, a thread has started the threads that run in a copy of its context: from Python 3.14 on all that it starts,
        before only those that are given one (`threading.Thread(target=contextvars.copy_context().run, args=(work,))`).

        In a web server, drain the server first and close the client then (after `yield` in a lifespan): requests are new work.
        """
        block(self._native.close, timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        self.close()


class _OnThread:
    """The key under which a client keeps the observers of this face."""


_ON_THREAD = _OnThread()


class ThreadObservers(Observers):
    """Observers on a thread, which ends with the last of them or with their client."""

    def __init__(self, native: NativeClient) -> None:
        self._completions = Completions()
        super().__init__(native, self._completions, 0)
        threading.Thread(target=self._call, name="dlock-observe", daemon=True).start()

    def _call(self) -> None:
        while True:
            wait_readable(self._completions.fileno())
            self._completions.drain()
            self.deliver()
            if self.subscription.over:
                return
