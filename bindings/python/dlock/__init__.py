"""Distributed locks with fencing tokens: with no server, on Redis or on etcd, by changing one URL.

    async with dlock.lock("report", ttl=30) as lease:
        ...

`dlock.sync` has the same names for programs without an event loop.
"""

__distribution__ = "dlock-engine"

from dlock._guard import explained

try:
    from dlock._native import __version__
except ImportError as error:
    raise ImportError(explained(error), name=error.name, path=error.path) from error

import dlock.sync as sync  # noqa: PLR0402
from dlock._client import Client
from dlock._decorators import locked
from dlock._holder import Holder, Inspection
from dlock._lease import Lease
from dlock._lock import Lock
from dlock._locked import current_lease
from dlock._native import Event
from dlock._observe import Capabilities, Health, Stats
from dlock._options import ClientOptions, LockOptions, Renewal, Retry
from dlock._program import (
    capabilities,
    close,
    close_on_signal,
    configure,
    connect,
    force_release,
    health,
    inspect,
    is_locked,
    list_locks,
    lock,
    metrics,
    on,
    ping,
    reopen,
    reset_default_client,
    stats,
    with_lock,
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
