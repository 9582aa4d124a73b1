"""What can be read about a key."""

from dataclasses import dataclass
from datetime import datetime

from dlock import _guard  # noqa: F401


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a key, as far as the backend can tell."""

    owner: str
    """The owner id; the raw value where another library wrote it."""
    token: int | None
    """The fencing token of the holder's grant."""
    remaining: float | None
    """What is left of the lease as the backend sees it, in seconds; None where it has no end."""
    host: str | None
    pid: int | None
    since: datetime | None
    """When the holder began its attempt."""
    metadata: str | None
    """The `metadata` option of the holder's lock."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """Who holds a key and who waits for it."""

    key: str
    holder: Holder | None
    """None if the key is free."""
    queue: list[str]
    """The places in the backend's queue, first in line first: one for each *client* that waits, however many of its tasks do. Empty
    where the backend keeps no queue, as on `local:`."""
    cluster: str | None
    """Which cluster's count the holder's token is, where it is one: tokens of two clusters cannot be compared."""
    waiting_here: int
    """How many tasks and threads wait for the key through the client that was asked, on every backend. Those of other clients
    nobody can count."""
