"""The functions of the module `dlock.sync`: the methods of a client, for the default client of the whole program."""

from collections.abc import Callable, Iterable
from typing import TypeVar, Unpack

from dlock._client_sync import Client
from dlock._holder import Inspection
from dlock._lock_sync import Lease, Lock
from dlock._locked import Locked
from dlock._locked import current_lease as any_current_lease
from dlock._native import block
from dlock._observe import Capabilities, EventName, Health, Observe, Stats
from dlock._options import DEFAULT, ClientOptions, LockOptions, Seconds
from dlock._signals import END
from dlock.errors import LockError

T = TypeVar("T")


def connect(url: str | None = None, **options: Unpack[ClientOptions]) -> Client:
    """Makes a client that has reached its backend. Raises `BackendUnavailable` within `connect_timeout`, or `BackendRefused`."""
    client = Client(url, **options)
    client.ping()
    return client


def configure(url: str | None = None, **options: Unpack[ClientOptions]) -> None:
    """Sets where the locks of the default client are. It must come before the client's first operation.

    Locks that were made before follow, and their options are checked again when they are used. With `require_url=True` and no URL,
    here or in `DLOCK_URL`, it raises `InvalidOptions`.
    """
    DEFAULT.configure(url, options)


def lock(key: str, **options: Unpack[LockOptions]) -> Lock:
    """A reusable lock of the default client: `with dlock.sync.lock("k", ttl=30) as lease: ...`."""
    return Client._default().lock(key, **options)


def with_lock(key: str, fn: Callable[[Lease], T], **options: Unpack[LockOptions]) -> T:
    """`Client.with_lock` of the default client."""
    return Client._default().with_lock(key, fn, **options)


def locked(key: str, **options: Unpack[LockOptions]) -> Locked:
    """Decorates a function that holds a key of the default client while it runs.

    `@dlock.sync.locked("order:{order_id}", ttl=30)`: the arguments fill in the key; `{self.id}` and `{order.id}` work too. Inside,
    `dlock.sync.current_lease()` is the lease. With `reentrant` the function may call itself for the same key. Raises
    `InvalidOptions` for names that the function does not take.

    In `dlock.sync`, it takes plain functions only.
    """
    return Locked(key, options, lambda key, options: lock(key, **options))


def current_lease() -> Lease:
    """The lease of the innermost function decorated with `locked` that is running. Raises `LockError` if there is none.

    In `dlock.sync`, that must be a plain function.
    """
    lease = any_current_lease()
    if isinstance(lease, Lease):
        return lease
    raise LockError("current_lease: the innermost lease is one of asyncio", code="NO_LEASE", operation="current_lease")


def ping() -> None:
    """`Client.ping` of the default client."""
    Client._default().ping()


def inspect(key: str) -> Inspection:
    """`Client.inspect` of the default client."""
    return Client._default().inspect(key)


def list_locks(prefix: str = "") -> list[Inspection]:
    """`Client.list_locks` of the default client."""
    return Client._default().list_locks(prefix)


def is_locked(key: str) -> bool:
    """`Client.is_locked` of the default client."""
    return Client._default().is_locked(key)


def force_release(key: str, token: int | None = None, *, owner: str | None = None) -> bool:
    """`Client.force_release` of the default client."""
    return Client._default().force_release(key, token, owner=owner)


def stats() -> Stats:
    """`Client.stats` of the default client."""
    return Client._default().stats()


def capabilities() -> Capabilities:
    """`Client.capabilities` of the default client."""
    return Client._default().capabilities()


def metrics() -> str:
    """`Client.metrics` of the default client."""
    return Client._default().metrics()


def health() -> Health:
    """`Client.health` of the default client."""
    return Client._default().health()


def on(event: EventName, fn: Observe) -> Callable[[], None]:
    """`Client.on` of the default client."""
    return Client._default().on(event, fn)


def close(timeout: Seconds = 0) -> None:
    """`Client.close` of the default client. `reopen` lets it work again."""
    Client._default().close(timeout)


def close_on_signal(timeout: Seconds, signals: Iterable[int] = END) -> Callable[[], None]:
    """`Client.close_on_signal` of the default client."""
    return Client._default().close_on_signal(timeout, signals)


def reopen() -> None:
    """`Client.reopen` of the default client."""
    Client._default().reopen()


def reset_default_client() -> None:
    """For tests: puts the default client back to its state at the start of the program.

    Its leases and observers end, its figures begin at zero, and `configure` or `DLOCK_URL` set anew where its locks are. Locks that
    were made before, and decorated functions, follow.
    """
    block(Client._default()._native.reset)
