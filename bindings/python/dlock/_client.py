"""A client for asyncio."""

import weakref
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self, TypeVar, Unpack, cast

from dlock._calls import FORCE_RELEASE, INSPECT, IS_LOCKED, LIST_LOCKS, PING, ask
from dlock._handles import ClientHandle, holder_named
from dlock._holder import Inspection
from dlock._lease import Lease
from dlock._lock import Lock
from dlock._locked import Locked, locked_by
from dlock._loop import LoopState, current
from dlock._native import Client as NativeClient
from dlock._observe import EventName, Health, Observe, Observers
from dlock._options import LockOptions, Seconds

T = TypeVar("T")


class Client(ClientHandle):
    """Makes locks on one backend. It is lazy: the first use connects and starts the engine.

    `Client("redis://localhost:6379")`, or `rediss://`, `redis+sentinel://`, `redis+unix://`, `etcd://`, `etcds://`, `local:` or
    `memory:`. Without a URL the client uses `DLOCK_URL`, and if that is empty or not set `local:`. `async with client` closes the
    client at the end.
    """

    __slots__ = ()

    def lock(self, key: str, **options: Unpack[LockOptions]) -> Lock:
        """A reusable lock for `key`. Raises `InvalidOptions` for a key or option that cannot be used. Does no I/O."""
        return Lock(self, key, options)

    async def with_lock(self, key: str, fn: Callable[[Lease], Awaitable[T] | T], **options: Unpack[LockOptions]) -> T:
        """Calls `fn(lease)` while holding `key`, and returns what it returns. See `Lock.with_lock`."""
        return await self.lock(key, **options).with_lock(fn)

    def locked(self, key: str, **options: Unpack[LockOptions]) -> Locked:
        """Decorates a function that holds `key` while it runs. See the function `locked`."""
        return locked_by(self, key, options)

    async def ping(self) -> None:
        """Makes one round trip to the backend. Raises `BackendUnavailable` within `connect_timeout`, or `BackendRefused`."""
        await ask(self, PING)

    async def inspect(self, key: str) -> Inspection:
        """Who holds a key and who waits for it. See `Inspection`."""
        return await ask(self, INSPECT, key)

    async def list_locks(self, prefix: str = "") -> list[Inspection]:
        """The held keys that begin with `prefix`, in order."""
        return await ask(self, LIST_LOCKS, prefix)

    async def is_locked(self, key: str) -> bool:
        """Whether anybody holds the key."""
        return await ask(self, IS_LOCKED, key)

    async def force_release(self, key: str, token: int | None = None, *, owner: str | None = None) -> bool:
        """Takes the key away from the holder with this token or owner id. True if that holder held it.

        The holder learns of this at its next renewal. Until then two holders may believe that they hold the key, and only the
        fencing token protects the data.
        """
        return await ask(self, FORCE_RELEASE, key, holder_named(token, owner))

    async def health(self) -> Health:
        """Makes a round trip within `op_timeout` and checks the leases. If the backend does not answer, the result says so."""
        return cast(Health, await current().run(self._native.health))

    def on(self, event: EventName, fn: Observe) -> Callable[[], None]:
        """Calls `fn(event)` for each such event. Returns a function that ends this.

        A client's observers get the events of a lease in order. If one raises, that is logged. If observers are too slow, events
        are dropped and counted (`stats().dropped_events`): a lock never waits for an observer.

        In asyncio, observers are called on the event loop that runs now.
        """
        state = current()
        observers = self._observers.get(state)
        if observers is None or observers.subscription.over:
            observers = self._observers[state] = LoopObservers(self._native, state)
        return observers.add(event, fn)

    async def close(self, timeout: Seconds = 0) -> None:
        """Refuses new work and waits up to `timeout` for holders, while their leases are renewed. Then it ends the leases that are
        left.

        Meanwhile a task that holds a lease of this client, and what it started, may acquire more and go on waiting for what they
        already asked for. All other callers get `ClientClosed` at once.

        In asyncio, a task has started the tasks that it made, and what it runs with `asyncio.to_thread`.

        In a web server, drain the server first and close the client then (after `yield` in a lifespan): requests are new work.
        """
        await current().run(self._native.close, timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self.close()


class LoopObservers(Observers):
    """Observers on an event loop. The loop keeps them until they end or their client is gone."""

    def __init__(self, native: NativeClient, state: LoopState) -> None:
        self._number = state.next_number()
        super().__init__(native, state.completions, self._number)
        self._state = weakref.ref(state)
        state.listeners[self._number] = self.deliver

    def deliver(self) -> None:
        super().deliver()
        if self.subscription.over and (state := self._state()) is not None:
            state.listeners.pop(self._number, None)
