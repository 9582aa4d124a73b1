"""What `inspect` returns about a key."""

from dataclasses import dataclass
from datetime import datetime

import dlock._guard  # noqa: F401


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a key, as far as the backend can tell."""

    owner: str
    """The owner id, or the raw value if another library wrote it."""
    token: int | None
    """The fencing token of the holder's grant."""
    remaining: float | None
    """How much of the lease is left according to the backend, in seconds; None if it has no end."""
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
    """The waiters in the backend's queue, the first one first. Each *client* that waits has one entry, however many of its tasks
    wait. Empty if the backend keeps no queue, as `local:`."""
    cluster: str | None
    """The cluster that counted the holder's token, on etcd. Tokens of two clusters cannot be compared."""
    waiting_here: int
    """How many tasks and threads wait for the key through this client, on every backend. Other clients' cannot be counted."""
