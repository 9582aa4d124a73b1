"""Client and lock for asyncio."""

import asyncio
import inspect
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterable
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
from dlock.errors import AcquireTimeout, LockBusy

T = TypeVar("T")


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


class Lock(LockHandle[Lease]):
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
        refuse_words("acquire", other, "wait")
        lease = await self._get(wait, enter=False)
        self._remember(lease)
        return lease

    async def try_acquire(self) -> Lease | None:
        """Tries once; None if somebody else holds the key."""
        try:
            return await self.acquire(wait=0)
        except LockBusy:
            return None

    async def release(self) -> bool:
        """Gives back the lease that this task took last with this lock, else the only one outstanding. See `Lease.release`."""
        lease = self._to_release(asyncio.current_task())
        if lease is not None:
            return await lease.release()
        # None, or several, or one whose handle was discarded: the engine knows.
        return cast(bool, await current().run(self._native.release))

    async def is_locked(self) -> bool:
        """Whether anybody holds the key."""
        return cast(bool, await _ask(self._client._native.is_locked, self.key))

    async def with_lock(self, fn: Callable[[Lease], Awaitable[T] | T]) -> T:
        """Calls `fn(lease)`, sync or async, while holding the key, and returns what it returns."""
        check_callable(fn)
        async with self as lease:
            result = fn(lease)
            if inspect.isawaitable(result):
                return await cast(Awaitable[T], result)
            return result

    def __aenter__(self) -> Coroutine[Any, Any, Lease]:
        return self._get(UNSET, enter=True)

    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> Awaitable[None]:
        entered = self._entered
        lease = entered.pop() if len(entered) == 1 else self._to_leave(asyncio.current_task(), "__aexit__")
        if self._reentrant and lease in entered:
            return lease._leave_inner(kind, error)
        if kind is None and lease.valid and not lease._cancelled:
            return lease._leave_well()
        return lease._leave(kind, error)

    async def _get(self, wait: Seconds | Unset | None, *, enter: bool) -> Lease:
        """Gets a lease, for `async with` if `enter`. One coroutine: each one more is paid for at every await."""
        state = current()
        task = asyncio.current_task(state.loop())
        leases = self._client._leases
        key = self.key
        if key in leases:
            if self._reentrant and task is not None and (own := self._again(task)) is not None:
                if enter:
                    self._enter_again(own, state, task)
                return own
            self._warn_of_own_lease(task, wait)
        caller = _caller.of_task(task)
        number = state.next_number()
        watch = enter and self._on_lost == "cancel"
        if isinstance(wait, Unset):
            call = self._native.acquire(state.completions, number, watch, caller)
        else:
            call = self._native.acquire_within(state.completions, number, watch, caller, wait)
        future = state.expect(number)
        try:
            grant = await future
        except AcquireTimeout:
            self._warn_of_starter(caller)
            raise
        except BaseException:
            state.give_up(number, call, future)
            raise
        lease = Lease(grant, key, number, self._on_lost, task, leases)
        if not lease.valid:
            # It ran out before it got here: the process was paused, or the loop blocked with renewal off.
            loss = lease._loss()
            await lease.release()
            if loss is not None:
                raise loss
        leases[key] = weakref.ref(lease)
        if self._max_stall is not None:
            state.give_signs(lease, self._max_stall)
        if enter:
            try:
                lease._enter(state, task, watched=True)
            except BaseException:
                await lease.release()
                raise
            self._entered.append(lease)
        return lease

    def _enter_again(self, lease: Lease, state: LoopState, task: asyncio.Task[Any]) -> None:
        """Begins a body inside of what the same task does with the same lease."""
        if lease not in self._entered:
            # It was acquired without a body.
            lease._enter(state, task, watched=False)
        self._entered.append(lease)


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
