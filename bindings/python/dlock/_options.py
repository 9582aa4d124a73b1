"""What both faces take: options, URLs, and the client behind the module's own functions."""

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Literal, TypedDict

from dlock import _native, _process
from dlock._log import LOG, logger
from dlock._words import unexpected
from dlock.errors import invalid

Seconds = float | timedelta
OnLost = Literal["cancel", "raise", "ignore"]


class Unset:
    """The type of `UNSET`: an argument that was not given, where None has a meaning."""


UNSET: Final = Unset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Bounded attempts instead of waiting to be woken. What is None stands for the default."""

    max_retries: int | None = None
    """How many attempts may follow the first one. Default 3; 0 tries once."""
    delay: Seconds | None = None
    """The pause before the first retry. Default 0.1 s."""
    backoff: float | None = None
    """What each pause is multiplied with to get the next. Default 1; at most 100."""
    jitter: float | None = None
    """How far a pause is drawn around its length: the default, 0.5, draws it from half of it to one and a half. From 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewal:
    """Tuning of renewal, for all leases of a client. The defaults are good to 100,000 leases."""

    max_delay: Seconds | None = None
    """The longest pause after renewals that got no answer. Default 0.8 s."""
    base_delay: Seconds | None = None
    """The first such pause; it doubles with each one more. Default 0.05 s; never longer than a twentieth of the TTL."""
    call_timeout: Seconds | None = None
    """The longest time that one renewal request may take. Default, and at most: `op_timeout`, or half of what is left."""
    batch: int | None = None
    """The most leases in one request. Default, and at most: what the backend takes."""


class ClientOptions(TypedDict, total=False):
    """How a client talks to its backend."""

    namespace: str
    """Put before every key; no `/` in it. Default `dlock`. Empty for the names as the server has them: there the key `b` of the
    namespace `a` is `a/b` on Redis and etcd."""
    op_timeout: Seconds
    """How long one request may take. Default 1 s."""
    connect_timeout: Seconds
    """How long connecting may take, and for how long a failing backend is tried. Default 5 s."""
    renewal: Renewal
    """How leases are renewed."""
    require_url: bool
    """Refuses `local:` where neither the program nor `DLOCK_URL` names a backend, as `DLOCK_REQUIRE_URL=1` does. Default False."""


class LockOptions(TypedDict, total=False):
    """How a lock behaves."""

    ttl: Seconds
    """Lease time: without renewal the lease ends then. Default 30 s."""
    wait: Seconds | None
    """How long acquire waits: 0 tries once, None (the default) waits for ever."""
    renew: bool
    """Renew by itself while held. Default True."""
    renewal_threshold: float
    """Renew when the remaining share of the TTL falls to this. Default 2/3."""
    retry: Retry | None
    """Bounded attempts instead of waiting; `RetriesExhausted` ends them. `wait` bounds the whole, and a `wait` of 0 tries once."""
    fair: bool
    """Arrival order where the backend can. Default True."""
    max_hold: Seconds | None
    """The lease ends after this long, renewed or not. Default None."""
    max_stall: Seconds | None
    """The lease ends when the event loop that took it has not run for this long. Default None. `dlock.sync` has no loop: there the
    holder calls `lease.heartbeat()` at least that often."""
    reentrant: bool
    """Whether a task, or in `dlock.sync` a thread, that holds the lock through this very object may acquire it again: it gets the
    same lease, and the last release gives the key back. Default False."""
    metadata: str | None
    """Text that `inspect` shows beside host, pid and since."""
    op_timeout: Seconds | None
    """How long one request may take; the client's where None."""
    on_lost: OnLost
    """What a loss does to the body: `cancel` it (the default of asyncio), `raise` LockLost at its end (of sync), or `ignore`."""


def split_on_lost(options: LockOptions, allowed: Iterable[str]) -> tuple[str, dict[str, Any]]:
    """The options that are ours, checked, and those of the engine."""
    engine_options: dict[str, Any] = {**options}
    on_lost = engine_options.pop("on_lost", UNSET)
    words = list(allowed)
    if on_lost is UNSET:
        return words[0], engine_options
    if on_lost not in words:
        raise invalid("on_lost", repr(on_lost), " or ".join(map(repr, words)))
    return on_lost, engine_options


def checked(options: LockOptions) -> LockOptions:
    """Refuses what would be taken for the default and means something else where people come from."""
    if "ttl" in options and options["ttl"] is None:
        raise invalid("ttl", "None", "seconds, or a timedelta: every lease ends, and is renewed until then")
    return options


def open_client(url: str | None, options: ClientOptions) -> _native.Client:
    """A client for a URL; without one for `DLOCK_URL`, else `local:`. An empty variable is as good as none."""
    LOG.look_at_all()
    try:
        client = _native.Client(url, **options)
    except TypeError as error:
        raise _unexpected(options, error) from None
    if client.chosen_by == "default":
        logger.info(_native.DEFAULT_CHOSEN)
    return client


def _unexpected(options: ClientOptions, error: TypeError) -> TypeError:
    known = ClientOptions.__annotations__.keys()
    return error if options.keys() <= known else unexpected("Client", options.keys(), known)


class Default:
    """The client behind the module's own functions: made at its first use, and anew in a forked child of a process that used it."""

    def __init__(self) -> None:
        self._client: _native.Client | None = None
        self._guard = threading.Lock()
        _process.in_child(self._forget)

    def get(self) -> _native.Client:
        client = self._client
        if client is None:
            with self._guard:
                client = self._client
                if client is None:
                    LOG.look_at_all()
                    client = self._client = _native.Client.of_program()
        return client

    def configure(self, url: str | None, options: ClientOptions) -> None:
        LOG.look_at_all()
        try:
            self.get().configure(url, **options)
        except TypeError as error:
            raise _unexpected(options, error) from None

    def _forget(self) -> None:
        # Locks that were made before the fork, and not used, stay this client's: what configures it is for them too.
        if self._client is not None and self._client.inherited:
            self._client = None
        self._guard = threading.Lock()


DEFAULT: Final = Default()
