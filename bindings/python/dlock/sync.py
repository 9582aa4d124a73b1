"""dlock without an event loop: the same names, with plain `with` and calls that block.

A blocked call does not hold the GIL, answers Ctrl-C at once, and lets other greenlets run under gevent or eventlet. A loss cannot
cancel the body: `lease.check()` raises `LockLost`, and so does the end of a body that went on.
"""

from dlock._client_sync import Client
from dlock._lock_sync import Lease, Lock
from dlock._program_sync import (
    capabilities,
    close,
    close_on_signal,
    configure,
    connect,
    current_lease,
    force_release,
    health,
    inspect,
    is_locked,
    list_locks,
    lock,
    locked,
    metrics,
    on,
    ping,
    reopen,
    reset_default_client,
    stats,
    with_lock,
)

__all__ = [
    "Client",
    "Lease",
    "Lock",
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
    "with_lock",
]
