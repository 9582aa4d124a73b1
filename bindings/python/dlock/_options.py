"""The options of both faces, and the client behind the modules' own functions."""

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Literal, TypedDict

from dlock._log import LOG, logger
from dlock._native import DEFAULT_CHOSEN
from dlock._native import Client as NativeClient
from dlock._process import in_child
from dlock._words import unexpected
from dlock.errors import invalid

Seconds = float | timedelta
OnLost = Literal["cancel", "raise", "ignore"]


class Unset:
    """The type of `UNSET`, which stands for an argument that was not given where None has a meaning."""


UNSET: Final = Unset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """A limited number of attempts, instead of waiting in the queue. None stands for the default."""

    max_retries: int | None = None
    """How many attempts may follow the first one. Default 3; 0 tries once."""
    delay: Seconds | None = None
    """The pause before the first retry. Default 0.1 s."""
    backoff: float | None = None
    """Each pause is the one before, multiplied by this. Default 1; at most 100."""
    jitter: float | None = None
    """Random spread, from 0 to 1. The default, 0.5, picks each pause between 0.5 and 1.5 times its length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewal:
    """Tuning of renewal, for all leases of a client. The defaults suit up to 100,000 leases."""

    max_delay: Seconds | None = None
    """The longest pause after a renewal without an answer. Default 0.8 s."""
    base_delay: Seconds | None = None
    """The first such pause; each further one is twice as long. Default 0.05 s, but never more than a twentieth of the TTL."""
    call_timeout: Seconds | None = None
    """How long one renewal request may take. Default and maximum: `op_timeout`, and half of the time that is left of the lease."""
    batch: int | None = None
    """How many leases one request may renew. Default and maximum: the backend's limit, see `Capabilities`."""


class ClientOptions(TypedDict, total=False):
    """How a client talks to its backend."""

    namespace: str
    """The prefix of every key, without a `/`. Default `dlock`. On Redis and etcd, the key `b` of the namespace `a` is stored as
    `a/b`; with an empty namespace, keys are stored as they are."""
    op_timeout: Seconds
    """How long one request may take. Default 1 s."""
    connect_timeout: Seconds
    """How long connecting may take, and for how long an acquire keeps trying a failing backend. Default 5 s."""
    renewal: Renewal
    """How leases are renewed."""
    require_url: bool
    """Raises instead of using `local:` when neither the program nor `DLOCK_URL` names a backend, as `DLOCK_REQUIRE_URL=1` does.
    Default False."""


class LockOptions(TypedDict, total=False):
    """How a lock behaves."""

    ttl: Seconds
    """Lease time: without renewal the lease ends after it. Default 30 s."""
    wait: Seconds | None
    """How long an acquire waits: 0 tries once, None (the default) waits for ever."""
    renew: bool
    """Whether the engine renews the lease while it is held. Default True."""
    renewal_threshold: float
    """The engine renews when this share of the TTL is left, between 0 and 1. Default 2/3."""
    retry: Retry | None
    """A limited number of attempts instead of waiting; the last failure raises `RetriesExhausted`. `wait` limits their total time,
    and 0 tries once."""
    fair: bool
    """Grants in order of arrival, on backends that can; False may take a free key before those who wait. Default True."""
    max_hold: Seconds | None
    """The longest time that a lease may be held, however often it is renewed. Default None: no limit."""
    max_stall: Seconds | None
    """The lease ends when the event loop that acquired it has been blocked for this long. Default None. `dlock.sync` has no loop:
    there the holder calls `lease.heartbeat()` at least that often."""
    reentrant: bool
    """Whether a task, or in `dlock.sync` a thread, that holds the lock through this lock object may acquire it again. It gets the
    same lease, and the last release frees the key. Default False."""
    metadata: str | None
    """Text that `inspect` returns, beside host, pid and since."""
    op_timeout: Seconds | None
    """How long one request may take. None takes the client's."""
    on_lost: OnLost
    """What a loss does to the body: `cancel` it (the default in asyncio), `raise` LockLost at its end (the default in
    `dlock.sync`), or `ignore` the loss."""


def split_on_lost(options: LockOptions, allowed: Iterable[str]) -> tuple[str, dict[str, Any]]:
    """The option `on_lost`, checked, and the options of the engine."""
    engine_options: dict[str, Any] = {**options}
    on_lost = engine_options.pop("on_lost", UNSET)
    words = list(allowed)
    if on_lost is UNSET:
        return words[0], engine_options
    if on_lost not in words:
        raise invalid("on_lost", repr(on_lost), " or ".join(map(repr, words)))
    return on_lost, engine_options


def checked(options: LockOptions) -> LockOptions:
    """Refuses a TTL of None: in other libraries it means for ever, here it would silently be the default."""
    if "ttl" in options and options["ttl"] is None:
        raise invalid("ttl", "None", "seconds, or a timedelta: every lease ends, and is renewed until then")
    return options


def open_client(url: str | None, options: ClientOptions) -> NativeClient:
    """A client for a URL. Without one it is for `DLOCK_URL`, and if that is empty or not set for `local:`."""
    LOG.look_at_all()
    try:
        client = NativeClient(url, **options)
    except TypeError as error:
        raise _unexpected(options, error) from None
    if client.chosen_by == "default":
        logger.info(DEFAULT_CHOSEN)
    return client


def _unexpected(options: ClientOptions, error: TypeError) -> TypeError:
    known = ClientOptions.__annotations__.keys()
    return error if options.keys() <= known else unexpected("Client", options.keys(), known)


class Default:
    """The client behind the modules' own functions. The first use makes it; a forked child of a process that used it makes
    another."""

    def __init__(self) -> None:
        self._client: NativeClient | None = None
        self._guard = threading.Lock()
        in_child(self._forget)

    def get(self) -> NativeClient:
        client = self._client
        if client is None:
            with self._guard:
                client = self._client
                if client is None:
                    LOG.look_at_all()
                    client = self._client = NativeClient.of_program()
        return client

    def configure(self, url: str | None, options: ClientOptions) -> None:
        LOG.look_at_all()
        try:
            self.get().configure(url, **options)
        except TypeError as error:
            raise _unexpected(options, error) from None

    def _forget(self) -> None:
        # A client that the parent did not use stays, and `configure` in the child reaches the locks that were made of it.
        if self._client is not None and self._client.inherited:
            self._client = None
        self._guard = threading.Lock()


DEFAULT: Final = Default()
