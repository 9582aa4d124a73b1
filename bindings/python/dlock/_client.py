"""Client and lock for asyncio."""

import asyncio
import inspect
import warnings
import weakref
from asyncio import Task
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self, TypeVar, Unpack, cast

from dlock import _native
from dlock._holder import Inspection
from dlock._lease import Lease
from dlock._loop import current
from dlock._options import (
    DEFAULT,
    UNSET,
    ClientOptions,
    LockOptions,
    Seconds,
    Unset,
    open_client,
    split_on_lost,
    warn_dropped,
)
from dlock.errors import LockBusy, LockError

T = TypeVar("T")

# So many leases of a lock are remembered before those that have ended are looked for.
REMEMBERED = 8


class Client:
    """Makes locks on one backend. Lazy: it connects, and starts the engine, at its first use.

    `Client("redis://localhost:6379")`; without a URL `DLOCK_URL` is used, else `local:`. `async with client` closes it at the end.
    """

    __slots__ = ("_leases", "_native")

    def __init__(self, url: str | None = None, **options: Unpack[ClientOptions]) -> None:
        self._bind(open_client(url, options))

    def _bind(self, native: _native.Client) -> None:
        self._native = native
        # Our latest lease of each key, until it is released: to see a task wait for itself.
        self._leases: dict[str, weakref.ref[Lease]] = {}

    def __repr__(self) -> str:
        return f"<dlock.Client {self._native.server}>"

    def lock(self, key: str, **options: Unpack[LockOptions]) -> "Lock":
        """A reusable lock for `key`. Raises `InvalidOptions` for what cannot be used; does no I/O."""
        return Lock(self, key, options)

    async def with_lock(self, key: str, fn: "Callable[[Lease], Awaitable[T] | T]", **options: Unpack[LockOptions]) -> T:
        """Calls `fn(lease)`, sync or async, while holding `key`, and returns what it returns."""
        return await self.lock(key, **options).with_lock(fn)

    async def ping(self) -> None:
        """One round trip to the backend; `BackendUnavailable` within `connect_timeout`."""
        await current().run(self._native.ping)

    async def inspect(self, key: str) -> Inspection:
        """Who holds a key and who waits for it."""
        return cast(Inspection, await current().run(self._native.inspect, key))

    async def list_locks(self, prefix: str = "") -> list[Inspection]:
        """The held keys that begin with `prefix`, in order."""
        return cast(list[Inspection], await current().run(self._native.list_locks, prefix))

    async def is_locked(self, key: str) -> bool:
        """Whether anybody holds the key."""
        return cast(bool, await current().run(self._native.is_locked, key))

    async def force_release(self, key: str, holder: int | str) -> bool:
        """Takes the key away from the holder with this token or owner id; True if that one held it.

        The holder learns of it at its next renewal: until then two may believe that they hold the key, and the fencing token is
        what protects the data.
        """
        return cast(bool, await current().run(self._native.force_release, key, holder))

    async def close(self, timeout: Seconds = 0) -> None:
        """Refuses new acquires, waits up to `timeout` for holders while their leases are renewed, then takes what is left."""
        await current().run(self._native.close, timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self.close()


class Lock:
    """A key with its options, made by `Client.lock`.

    Reusable, and several tasks may share one: each acquire gets a lease of its own.
    """

    __slots__ = ("__weakref__", "_client", "_entered", "_native", "_on_lost", "_taken", "key")

    def __init__(self, client: Client, key: str, options: LockOptions) -> None:
        self._on_lost, engine_options = split_on_lost(options, ("cancel", "raise", "ignore"))
        self._native = client._native.lock(key, **engine_options)
        self.key: Final = key
        self._client = client
        # Leases of `async with` bodies under way, and of other acquires.
        self._entered: list[Lease] = []
        self._taken: list[weakref.ref[Lease]] = []

    def __del__(self) -> None:
        with suppress(AttributeError):  # its options were refused
            self._entered.clear()
            warn_dropped(self._native.forgotten(), self)

    def __repr__(self) -> str:
        return f"<dlock.Lock {self.key!r}>"

    async def acquire(self, *, wait: Seconds | Unset | None = UNSET) -> Lease:
        """Waits for the key and returns the lease. `wait` overrides the lock's own: 0 tries once, None waits for ever.

        Raises `AcquireTimeout` when `wait` is over, `LockBusy` when it is 0 and the key is held, `BackendUnavailable` when the
        backend failed for `connect_timeout`. When it is cancelled, a grant that is under way is given back.
        """
        lease = await self._get(wait, enter=False)
        if len(self._taken) >= REMEMBERED:
            self._taken = [known for known in self._taken if (old := known()) is not None and not old._released]
        self._taken.append(weakref.ref(lease))
        return lease

    async def try_acquire(self) -> Lease | None:
        """Tries once; None if somebody else holds the key."""
        try:
            return await self.acquire(wait=0)
        except LockBusy:
            return None

    async def release(self) -> bool:
        """Gives back the lease that this task took last with this lock, else the only one outstanding. See `Lease.release`."""
        task = asyncio.current_task()
        outstanding = self._outstanding()
        for lease in outstanding:
            if lease._taker is task:
                return await lease.release()
        if len(outstanding) == 1:
            return await outstanding[0].release()
        # None, or several, or one whose handle was discarded: the engine knows.
        return cast(bool, await current().run(self._native.release))

    async def is_locked(self) -> bool:
        """Whether anybody holds the key."""
        return await self._client.is_locked(self.key)

    async def with_lock(self, fn: Callable[[Lease], Awaitable[T] | T]) -> T:
        """Calls `fn(lease)`, sync or async, while holding the key, and returns what it returns."""
        async with self as lease:
            result = fn(lease)
            if inspect.isawaitable(result):
                return await cast(Awaitable[T], result)
            return result

    def __aenter__(self) -> Coroutine[Any, Any, Lease]:
        return self._get(UNSET, enter=True)

    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> Coroutine[Any, Any, None]:
        entered = self._entered
        lease = entered.pop() if len(entered) == 1 else self._entered_by(asyncio.current_task())
        return lease._leave(kind, error)

    async def _get(self, wait: Seconds | Unset | None, *, enter: bool) -> Lease:
        """Gets a lease, for `async with` if `enter`. One coroutine: each one more is paid for at every await."""
        state = current()
        task = asyncio.current_task(state.loop())
        leases = self._client._leases
        key = self.key
        if (known := leases.get(key)) is not None and (own := known()) is not None and own._taker is task and own.valid:
            self._warn_of_own_lease(wait, stacklevel=4 if enter else 5)
        number = state.next_number()
        watch = enter and self._on_lost == "cancel"
        if isinstance(wait, Unset):
            call = self._native.acquire(state.completions, number, watch)
        else:
            call = self._native.acquire_within(state.completions, number, watch, wait)
        future = state.expect(number)
        try:
            grant = await future
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
        if enter:
            try:
                lease._enter(state, task, watched=True)
            except BaseException:
                await lease.release()
                raise
            self._entered.append(lease)
        return lease

    def _warn_of_own_lease(self, wait: Seconds | Unset | None, stacklevel: int) -> None:
        if self._native.waits if isinstance(wait, Unset) else wait != 0:
            message = f"lock {self.key!r}: this task holds it already and now waits for itself"
            warnings.warn(message, RuntimeWarning, stacklevel)

    def _outstanding(self) -> list[Lease]:
        """The leases that were taken and not released, lost ones included, last first."""
        taken = [lease for known in self._taken if (lease := known()) is not None]
        return [lease for lease in reversed(taken + self._entered) if not lease._released]

    def _entered_by(self, task: Task[Any] | None) -> Lease:
        """Takes out the lease that this task entered last."""
        entered = self._entered
        for place in range(len(entered) - 1, -1, -1):
            if entered[place]._taker is task:
                return entered.pop(place)
        message = f"lock {self.key!r}: __aexit__: {len(entered)} bodies of other tasks are under way"
        raise LockError(message, code="AMBIGUOUS", key=self.key, operation="__aexit__")


_default: Client | None = None


def default_client() -> Client:
    """The client behind the module's own functions."""
    global _default  # noqa: PLW0603
    native = DEFAULT.get()
    if _default is None or _default._native is not native:
        _default = Client.__new__(Client)
        _default._bind(native)
    return _default


async def connect(url: str | None = None, **options: Unpack[ClientOptions]) -> Client:
    """A client that has reached its backend; `BackendUnavailable` within `connect_timeout`."""
    client = Client(url, **options)
    await client.ping()
    return client


def configure(url: str | None = None, **options: Unpack[ClientOptions]) -> None:
    """Sets what the module's own functions use. Before their first use only."""
    DEFAULT.configure(url, options)


def lock(key: str, **options: Unpack[LockOptions]) -> Lock:
    """A reusable lock of the default client: `async with dlock.lock("k", ttl=30) as lease: ...`."""
    return default_client().lock(key, **options)


async def with_lock(key: str, fn: Callable[[Lease], Awaitable[T] | T], **options: Unpack[LockOptions]) -> T:
    """Calls `fn(lease)`, sync or async, while holding `key`, and returns what it returns."""
    return await default_client().with_lock(key, fn, **options)
