"""The functions of the module `dlock`: the methods of a client, for the default client of the whole program."""

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar, Unpack

from dlock._client import Client
from dlock._holder import Inspection
from dlock._lease import Lease
from dlock._lock import Lock
from dlock._loop import current
from dlock._observe import Capabilities, EventName, Health, Observe, Stats
from dlock._options import DEFAULT, ClientOptions, LockOptions, Seconds
from dlock._signals import END

T = TypeVar("T")


async def connect(url: str | None = None, **options: Unpack[ClientOptions]) -> Client:
    """Makes a client that has reached its backend. Raises `BackendUnavailable` within `connect_timeout`, or `BackendRefused`."""
    client = Client(url, **options)
    await client.ping()
    return client


def configure(url: str | None = None, **options: Unpack[ClientOptions]) -> None:
    """Sets where the locks of the default client are. It must come before the client's first operation.

    Locks that were made before follow, and their options are checked again when they are used. With `require_url=True` and no URL,
    here or in `DLOCK_URL`, it raises `InvalidOptions`.
    """
    DEFAULT.configure(url, options)


def lock(key: str, **options: Unpack[LockOptions]) -> Lock:
    """A reusable lock of the default client: `async with dlock.lock("k", ttl=30) as lease: ...`."""
    return Client._default().lock(key, **options)


async def with_lock(key: str, fn: Callable[[Lease], Awaitable[T] | T], **options: Unpack[LockOptions]) -> T:
    """`Client.with_lock` of the default client."""
    return await Client._default().with_lock(key, fn, **options)


async def ping() -> None:
    """`Client.ping` of the default client."""
    await Client._default().ping()


async def inspect(key: str) -> Inspection:
    """`Client.inspect` of the default client."""
    return await Client._default().inspect(key)


async def list_locks(prefix: str = "") -> list[Inspection]:
    """`Client.list_locks` of the default client."""
    return await Client._default().list_locks(prefix)


async def is_locked(key: str) -> bool:
    """`Client.is_locked` of the default client."""
    return await Client._default().is_locked(key)


async def force_release(key: str, token: int | None = None, *, owner: str | None = None) -> bool:
    """`Client.force_release` of the default client."""
    return await Client._default().force_release(key, token, owner=owner)


def stats() -> Stats:
    """`Client.stats` of the default client."""
    return Client._default().stats()


def capabilities() -> Capabilities:
    """`Client.capabilities` of the default client."""
    return Client._default().capabilities()


def metrics() -> str:
    """`Client.metrics` of the default client."""
    return Client._default().metrics()


async def health() -> Health:
    """`Client.health` of the default client."""
    return await Client._default().health()


def on(event: EventName, fn: Observe) -> Callable[[], None]:
    """`Client.on` of the default client."""
    return Client._default().on(event, fn)


async def close(timeout: Seconds = 0) -> None:
    """`Client.close` of the default client. `reopen` lets it work again."""
    await Client._default().close(timeout)


def close_on_signal(timeout: Seconds, signals: Iterable[int] = END) -> Callable[[], None]:
    """`Client.close_on_signal` of the default client."""
    return Client._default().close_on_signal(timeout, signals)


def reopen() -> None:
    """`Client.reopen` of the default client."""
    Client._default().reopen()


async def reset_default_client() -> None:
    """For tests: puts the default client back to its state at the start of the program.

    Its leases and observers end, its figures begin at zero, and `configure` or `DLOCK_URL` set anew where its locks are. Locks that
    were made before, and decorated functions, follow.
    """
    await current().run(Client._default()._native.reset)
