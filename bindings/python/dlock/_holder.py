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
    """The owner ids that wait, first in line first, where the backend keeps a queue."""
    cluster: str | None
    """Which cluster's count the holder's token is, where it is one: tokens of two clusters cannot be compared."""
