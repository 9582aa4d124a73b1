"""What a client lets programs see: figures, health, its backend's abilities, and the events for observers."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from dlock._log import logger
from dlock._native import Client, Completions, Event
from dlock.errors import ForkedError, invalid

EventName = Literal["acquired", "released", "renewed", "renewal_failed", "acquire_failed", "lost"]
ChosenBy = Literal["argument", "variable", "default"]
Observe = Callable[[Event], object]


@dataclass(frozen=True, slots=True)
class Lag:
    """How late something was, in seconds."""

    count: int
    total: float
    longest: float


@dataclass(frozen=True, slots=True)
class Calls:
    """Requests to the backend: how many have ended, how many of them failed, and their total time in seconds."""

    calls: int
    errors: int
    time: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """What a client has done since it was made, and what it is doing."""

    server: str
    """The backend's address, without its password."""
    chosen_by: ChosenBy
    """What chose the backend: the program's URL, `DLOCK_URL`, or the default."""
    held: int
    """Leases held now."""
    waiting: int
    """Attempts to acquire that are under way now."""
    acquired: int
    released: int
    """Releases that the backend confirmed."""
    release_failures: dict[str, int]
    """Releases without a confirmation, by status: `not_held`, `unknown`."""
    renewed: int
    """Renewals and extensions that the backend confirmed."""
    renewal_failures: int
    """Renewals without an answer. The engine retries each of them."""
    renewal_lag: Lag
    """How late renewals are confirmed, counted from when they were due."""
    lost: dict[str, int]
    """Leases lost, by reason."""
    acquire_failures: dict[str, int]
    """Attempts that got no lease, by the code of the error; `CANCELLED` if the caller left."""
    backend_calls: dict[str, Calls]
    """Requests to the backend, by operation."""
    renewing: int
    """Leases whose renewal request has no answer yet."""
    scheduled: int
    """Leases that are scheduled for their next renewal, or for their end."""
    background: int
    """Requests that go on after their callers have left."""
    queued_events: int
    """Events that are queued for observers."""
    event_capacity: int
    """How many events the queue of one event loop, or one thread, can hold."""
    dropped_events: int
    """Events that were dropped because the queue was full."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a client's backend can do."""

    scheme: str
    """The scheme of its URLs."""
    fair: bool
    """Whether it grants a key in order of arrival across processes."""
    crash_release: bool
    """Whether the end of a holder's process frees its keys at once, whatever the TTL."""
    counts_tokens: bool
    """Whether fencing tokens are the server's own count, which nobody can raise."""
    ttl_floor: float
    """The shortest TTL, in seconds."""
    batch: int
    """How many leases one renewal request can hold."""


@dataclass(frozen=True, slots=True)
class Health:
    """Whether a client can do its work."""

    status: Literal["ok", "degraded", "down"]
    """`ok`: this client can acquire and release now. `degraded`: it can, but renewals are late or leases are about to be lost.
    `down`: it cannot acquire, because the backend does not answer or refuses, or because the client is closed."""
    reasons: list[str]
    """Why the status is not `ok`."""
    server: str
    """The backend's address, without its password."""
    chosen_by: ChosenBy
    """What chose the backend: the program's URL, `DLOCK_URL`, or the default."""
    round_trip: float | None
    """How long the round trip took, in seconds; None if the status is `down`."""
    held: int
    lagging: int
    """Leases whose renewal is late."""
    at_risk: int
    """Leases that will be lost unless the backend answers soon."""
    renewal_lag: float
    """How late the latest renewal is, in seconds."""
    warnings: list[str]
    """Warnings of the backend about its servers and their versions. They do not change the status."""


class Observers:
    """The observers of one client that are called in one place: on an event loop, or on a thread.

    They share one queue, so that they get the events of a lease in order.
    """

    def __init__(self, native: Client, completions: Completions, number: int) -> None:
        self.subscription = native.subscribe(completions, number)
        self._functions: dict[str, tuple[Observe, ...]] = {}

    def add(self, event: str, observe: Observe) -> Callable[[], None]:
        """Calls `observe` with each such event. Returns a function that ends this."""
        if not callable(observe) or inspect.iscoroutinefunction(observe):
            shown = f"an object of type {type(observe).__name__}"
            raise invalid("fn", shown, "a plain function that takes the event; one that must await starts a task")
        self.subscription.listen([*self._functions, event])
        # A new tuple each time: the old one may be in use.
        self._functions[event] = (*self._functions.get(event, ()), observe)
        return lambda: self._remove(event, observe)

    def _remove(self, event: str, observe: Observe) -> None:
        functions = list(self._functions.get(event, ()))
        if observe in functions:
            functions.remove(observe)
            if functions:
                self._functions[event] = tuple(functions)
            else:
                del self._functions[event]
            try:
                self.subscription.listen([*self._functions])
                if not self._functions:
                    self.subscription.end()
            except ForkedError:
                pass  # a child has none of its parent's observers

    def deliver(self) -> None:
        """Calls the observers with the queued events. If one raises, that is logged, and the others are called all the same."""
        for event in self.subscription:
            for observe in self._functions.get(event.kind, ()):
                try:
                    observe(event)
                except Exception:
                    logger.exception("the observer of %r for lock %r failed", event.kind, event.key)
