"""Distributed locks with fencing tokens: with no server or on Redis, by changing one URL.

    async with dlock.lock("report", ttl=30) as lease:
        ...

`dlock.sync` has the same names for programs without an event loop.
"""

__distribution__ = "dlock-engine"

from dlock import _guard

try:
    from dlock._native import __version__
except ImportError as error:
    raise ImportError(_guard.explained(error), name=error.name, path=error.path) from error

from dlock import sync
from dlock._client import Client, Lock, configure, connect, current_lease, lock, locked, with_lock
from dlock._holder import Holder, Inspection
from dlock._lease import Lease
from dlock._native import Event
from dlock._observe import Capabilities, Health, Stats
from dlock._options import ClientOptions, LockOptions, Renewal, Retry
from dlock._program import (
    capabilities,
    close,
    close_on_signal,
    force_release,
    health,
    inspect,
    is_locked,
    list_locks,
    metrics,
    on,
    ping,
    reopen,
    reset_default_client,
    stats,
)
from dlock.errors import (
    AcquireTimeout,
    BackendRefused,
    BackendUnavailable,
    ClientClosed,
    ForkedError,
    InvalidOptions,
    LockBusy,
    LockError,
    LockLost,
    NotAcquired,
    NotHeld,
    RetriesExhausted,
)

__all__ = [
    "AcquireTimeout",
    "BackendRefused",
    "BackendUnavailable",
    "Capabilities",
    "Client",
    "ClientClosed",
    "ClientOptions",
    "Event",
    "ForkedError",
    "Health",
    "Holder",
    "Inspection",
    "InvalidOptions",
    "Lease",
    "Lock",
    "LockBusy",
    "LockError",
    "LockLost",
    "LockOptions",
    "NotAcquired",
    "NotHeld",
    "Renewal",
    "RetriesExhausted",
    "Retry",
    "Stats",
    "__version__",
    "capabilities",
    "close",
    "close_on_signal",
    "configure",
    "connect",
    "current_lease",
    "force_release",
    "health",
    "inspect",
    "is_locked",
    "list_locks",
    "lock",
    "locked",
    "metrics",
    "on",
    "ping",
    "reopen",
    "reset_default_client",
    "stats",
    "sync",
    "with_lock",
]
