"""The client of the whole program: what a client has, as functions of the module. `dlock.sync` has the same ones."""

from collections.abc import Callable, Iterable

from dlock import _signals
from dlock._client import Client
from dlock._holder import Inspection
from dlock._loop import current
from dlock._observe import Capabilities, EventName, Health, Observe, Stats
from dlock._options import Seconds


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


def close_on_signal(timeout: Seconds, signals: Iterable[int] = _signals.END) -> Callable[[], None]:
    """`Client.close_on_signal` of the default client."""
    return Client._default().close_on_signal(timeout, signals)


def reopen() -> None:
    """`Client.reopen` of the default client."""
    Client._default().reopen()


async def reset_default_client() -> None:
    """For tests: makes the default client what it was when the program began.

    What it holds is taken away, its observers end, it counts anew, and `configure` and `DLOCK_URL` say once more where its locks
    are. Locks that were made before, and decorated functions, follow.
    """
    await current().run(Client._default()._native.reset)
