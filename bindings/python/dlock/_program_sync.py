"""The client of the whole program for `dlock.sync`: what a client has, as functions of that module."""

from collections.abc import Callable, Iterable
from typing import Unpack

from dlock import _native, _signals, sync
from dlock._holder import Inspection
from dlock._observe import Capabilities, EventName, Health, Observe, Stats
from dlock._options import DEFAULT, ClientOptions, Seconds


def configure(url: str | None = None, **options: Unpack[ClientOptions]) -> None:
    """Sets where the locks of the default client are. See `dlock.configure`."""
    DEFAULT.configure(url, options)


def ping() -> None:
    """`Client.ping` of the default client."""
    sync.Client._default().ping()


def inspect(key: str) -> Inspection:
    """`Client.inspect` of the default client."""
    return sync.Client._default().inspect(key)


def list_locks(prefix: str = "") -> list[Inspection]:
    """`Client.list_locks` of the default client."""
    return sync.Client._default().list_locks(prefix)


def is_locked(key: str) -> bool:
    """`Client.is_locked` of the default client."""
    return sync.Client._default().is_locked(key)


def force_release(key: str, token: int | None = None, *, owner: str | None = None) -> bool:
    """`Client.force_release` of the default client."""
    return sync.Client._default().force_release(key, token, owner=owner)


def stats() -> Stats:
    """`Client.stats` of the default client."""
    return sync.Client._default().stats()


def capabilities() -> Capabilities:
    """`Client.capabilities` of the default client."""
    return sync.Client._default().capabilities()


def metrics() -> str:
    """`Client.metrics` of the default client."""
    return sync.Client._default().metrics()


def health() -> Health:
    """`Client.health` of the default client."""
    return sync.Client._default().health()


def on(event: EventName, fn: Observe) -> Callable[[], None]:
    """`Client.on` of the default client."""
    return sync.Client._default().on(event, fn)


def close(timeout: Seconds = 0) -> None:
    """`Client.close` of the default client. `reopen` lets it work again."""
    sync.Client._default().close(timeout)


def close_on_signal(timeout: Seconds, signals: Iterable[int] = _signals.END) -> Callable[[], None]:
    """`Client.close_on_signal` of the default client."""
    return sync.Client._default().close_on_signal(timeout, signals)


def reopen() -> None:
    """`Client.reopen` of the default client."""
    sync.Client._default().reopen()


def reset_default_client() -> None:
    """For tests: makes the default client what it was when the program began. See `dlock.reset_default_client`."""
    _native.block(sync.Client._default()._native.reset)
