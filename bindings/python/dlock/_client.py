"""Client and lock for asyncio."""

import asyncio
import weakref
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import Any, Never, Self, TypeVar, Unpack, cast

from dlock import _caller, _locked, _native, _signals, sync
from dlock._handles import ClientHandle, LockHandle, check_callable, holder_named, refuse_words
from dlock._holder import Inspection
from dlock._lease import Lease
from dlock._locked import Locked
from dlock._loop import LoopState, current
from dlock._observe import EventName, Health, Observe, Observers
from dlock._options import DEFAULT, UNSET, ClientOptions, LockOptions, Seconds, Unset
from dlock._results import looks_lazy, settled
from dlock.errors import LockBusy, invalid

T = TypeVar("T")

_DONE = "what has been done by then: use the values of a generator in it"


class Client(ClientHandle):
    """Makes locks on one backend. Lazy: it connects, and starts the engine, at its first use.

    `Client("redis://localhost:6379")`, or another of `rediss://`, `redis+sentinel://`, `redis+unix://`, `etcd://`, `etcds://`,
    `local:` and `memory:`; without a URL `DLOCK_URL` is used, else `local:`. `async with client` closes it at the end.
    """

    __slots__ = ()

    def lock(self, key: str, **options: Unpack[LockOptions]) -> "Lock":
        """A reusable lock for `key`. Raises `InvalidOptions` for what cannot be used; does no I/O."""
        return Lock(self, key, options)

    async def with_lock(self, key: str, fn: "Callable[[Lease], Awaitable[T] | T]", **options: Unpack[LockOptions]) -> T:
        """Calls `fn(lease)`, sync or async, while holding `key`, and returns what it returns."""
        return await self.lock(key, **options).with_lock(fn)

    def locked(self, key: str, **options: Unpack[LockOptions]) -> Locked:
        """Decorates a function, async or plain, that holds `key` while it runs. See `dlock.locked`."""
        plain = sync.Client._sharing(self)
        return Locked(
            key, options, lambda key, options: sync.Lock(plain, key, options), lambda key, options: Lock(self, key, options)
        )

    async def ping(self) -> None:
        """One round trip to the backend; `BackendUnavailable` within `connect_timeout`, or `BackendRefused`."""
        await _ask(self._native.ping)

    async def inspect(self, key: str) -> Inspection:
        """Who holds a key and who waits for it: one place a client, and how many callers of this one. See `Inspection`."""
        return cast(Inspection, await _ask(self._native.inspect, key))

    async def list_locks(self, prefix: str = "") -> list[Inspection]:
        """The held keys that begin with `prefix`, in order."""
        return cast(list[Inspection], await _ask(self._native.list_locks, prefix))

    async def is_locked(self, key: str) -> bool:
        """Whether anybody holds the key."""
        return cast(bool, await _ask(self._native.is_locked, key))

    async def force_release(self, key: str, token: int | None = None, *, owner: str | None = None) -> bool:
        """Takes the key away from the holder with this token or owner id; True if that one held it.

        The holder learns of it at its next renewal: until then two may believe that they hold the key, and the fencing token is
        what protects the data.
        """
        return cast(bool, await _ask(self._native.force_release, key, holder_named(token, owner)))

    async def health(self) -> Health:
        """Makes a round trip within `op_timeout` and looks at the leases. A backend that does not answer is told, not raised."""
        return cast(Health, await current().run(self._native.health))

    def on(self, event: EventName, fn: Observe) -> Callable[[], None]:
        """Calls `fn(event)` on the running event loop whenever this happens; returns a function that ends it.

        The observers of a client on one loop hear of the events of a lease in order. One that raises is logged. Where they are too
        slow, events are dropped and counted (`stats().dropped_events`); locks never wait for an observer.
        """
        state = current()
        observers = self._observers.get(state)
        if observers is None or observers.subscription.over:
            observers = self._observers[state] = LoopObservers(self._native, state)
        return observers.add(event, fn)

    async def close(self, timeout: Seconds = 0) -> None:
        """Refuses new work, waits up to `timeout` for holders while their leases are renewed, then takes what is left.

        Until then a task that holds a lease of this client may acquire more, as may what it started (tasks, `asyncio.to_thread`),
        and goes on waiting for what it has asked for. Everybody else gets `ClientClosed` at once.

        In a web server, drain the server first, then close the client (after `yield` in a lifespan): its requests are new work.
        """
        await current().run(self._native.close, timeout)

    def close_on_signal(self, timeout: Seconds, signals: Iterable[int] = _signals.END) -> Callable[[], None]:
        """Has the first of these signals begin `close(timeout)`, on a thread; returns a function that ends that.

        Once the client is closed the signal does what it would have done at once without this: end the process, or whatever a
        handler does that was there before. A second one does not wait. Main thread only; and where the event loop has a handler of
        its own for the signal, as web servers have, close the client in their shutdown instead: after their last request, which is
        new work and would be refused.
        """
        return sync.Client._sharing(self).close_on_signal(timeout, signals)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self.close()


async def _ask(start: Callable[..., _native.Call], *arguments: Any) -> Any:
    """Asks about keys: while a client is being closed, only who holds a lease of it may."""
    return await current().run(start, _caller.of_task(asyncio.current_task()), *arguments)


class LoopObservers(Observers):
    """Observers on an event loop, which keeps them until they are ended or their client is gone."""

    def __init__(self, native: _native.Client, state: LoopState) -> None:
        self._number = state.next_number()
        super().__init__(native, state.completions, self._number)
        self._state = weakref.ref(state)
        state.listeners[self._number] = self.deliver

    def deliver(self) -> None:
        super().deliver()
        if self.subscription.over and (state := self._state()) is not None:
            state.listeners.pop(self._number, None)


class Lock(LockHandle[Lease], _native.AsyncLock):
    """A key with its options, made by `Client.lock`.

    Reusable, and several tasks may share one: each acquire gets a lease of its own.
    """

    __slots__ = ()

    _reactions = ("cancel", "raise", "ignore")
    _taker_name = "task"

    async def acquire(self, *, wait: Seconds | Unset | None = UNSET, **other: Never) -> Lease:
        """Waits for the key and returns the lease. `wait` overrides the lock's own: 0 tries once, None waits for ever.

        Raises `AcquireTimeout` when `wait` is over, `LockBusy` when it is 0 and the key is held, `RetriesExhausted` when the
        attempts of `retry` are used up, `BackendUnavailable` when the backend failed for `connect_timeout`. When it is cancelled, a
        grant that is under way is given back.
        """
        if other:
            refuse_words("acquire", other, "wait")
        return await _native.Acquiring(self, wait)

    async def try_acquire(self) -> Lease | None:
        """Tries once; None if somebody else holds the key."""
        try:
            return await self.acquire(wait=0)
        except LockBusy:
            return None

    async def is_locked(self) -> bool:
        """Whether anybody holds the key."""
        return cast(bool, await _ask(self._client._native.is_locked, self.key))

    async def with_lock(self, fn: Callable[[Lease], Awaitable[T] | T]) -> T:
        """Calls `fn(lease)`, sync or async, while holding the key, and returns what it returns.

        What can be awaited is awaited while the key is held; a generator is refused. Other lazy results (a `map`, a `QuerySet`, a
        stream) must be used up in `fn`.
        """
        check_callable(fn)
        if looks_lazy(fn):
            raise invalid("fn", "a generator function", f"a function that returns {_DONE}")
        async with self as lease:
            return await settled(fn(lease), f"one that returns {_DONE}")


async def connect(url: str | None = None, **options: Unpack[ClientOptions]) -> Client:
    """A client that has reached its backend; `BackendUnavailable` within `connect_timeout`, or `BackendRefused`."""
    client = Client(url, **options)
    await client.ping()
    return client


def configure(url: str | None = None, **options: Unpack[ClientOptions]) -> None:
    """Sets where the locks of the default client are. Before its first operation only, and for locks made before as well.

    Their options are checked once more when they are used. With `require_url=True` and no URL, here or in `DLOCK_URL`, it raises
    `InvalidOptions`.
    """
    DEFAULT.configure(url, options)


def lock(key: str, **options: Unpack[LockOptions]) -> Lock:
    """A reusable lock of the default client: `async with dlock.lock("k", ttl=30) as lease: ...`."""
    return Client._default().lock(key, **options)


def current_lease() -> Lease | sync.Lease:
    """The lease of the innermost function decorated with `locked` that is running; `LockError` where there is none.

    That of a plain function is a `dlock.sync.Lease`; `dlock.sync.current_lease()` says so to type checkers.
    """
    return cast(Lease | sync.Lease, _locked.current_lease())


def locked(key: str, **options: Unpack[LockOptions]) -> Locked:
    """Decorates a function, async or plain, that holds a key of the default client while it runs.

    `@dlock.locked("order:{order_id}", ttl=30)`: the key is filled from the arguments; `{self.id}` and `{order.id}` work as well.
    Inside, `dlock.current_lease()` is the lease. A plain function blocks as `dlock.sync` does, and its loss is raised at its end.
    With `reentrant` the function may call itself for the same key. Raises `InvalidOptions` for names that the function does not
    take.
    """
    return Locked(key, options, lambda key, options: sync.lock(key, **options), lambda key, options: lock(key, **options))


async def with_lock(key: str, fn: Callable[[Lease], Awaitable[T] | T], **options: Unpack[LockOptions]) -> T:
    """Calls `fn(lease)`, sync or async, while holding `key`, and returns what it returns."""
    return await Client._default().with_lock(key, fn, **options)
