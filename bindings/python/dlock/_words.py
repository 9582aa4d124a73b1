"""The words of other lock libraries, and what they are called here: for those who write what they are used to."""

from collections.abc import Collection
from difflib import get_close_matches

import dlock._guard  # noqa: F401

_TTL = "the lease time is ttl=, in seconds"
_WAIT = "how long to wait for the key is wait=, in seconds"
_ONCE = "wait=0 tries once, and wait=None waits for ever"
_PUSH = "there is nothing to set: the release wakes the next waiter, nobody polls"
_RETRY = "bounded attempts are retry=dlock.Retry(max_retries=..., delay=...)"
_URL = "the server, with its password and database, is the url: dlock.Client('redis://:password@host:6379/0')"

# Of redis-py, python-redis-lock, pottery, aioredlock, redlock-py and filelock.
_OF_LOCK = {
    "timeout": f"{_TTL}; {_WAIT}",
    "expire": _TTL,
    "expires": _TTL,
    "ex": _TTL,
    "px": _TTL,
    "lock_timeout": _TTL,
    "auto_release_time": _TTL,
    "lease_time": _TTL,
    "leaseTime": _TTL,
    "lifetime": _TTL,
    "blocking_timeout": _WAIT,
    "acquire_timeout": _WAIT,
    "context_manager_timeout": _WAIT,
    "blocking": _ONCE,
    "context_manager_blocking": _ONCE,
    "sleep": _PUSH,
    "poll_interval": _PUSH,
    "poll_intervall": _PUSH,
    "retry_count": _RETRY,
    "retry_times": _RETRY,
    "retry_delay": _RETRY,
    "retry_delay_min": _RETRY,
    "retry_delay_max": _RETRY,
    "auto_renewal": "leases renew themselves unless renew=False",
    "auto_extend": "leases renew themselves unless renew=False",
    "num_extensions": "leases renew themselves; max_hold= ends one after so many seconds",
    "thread_local": "there is nothing to set: each acquire returns a lease of its own, which any thread may release",
    "is_singleton": "reentrant=True lets a holder enter the same lock again",
    "id": "each lease has an owner of its own; metadata= is what others see of it",
    "name": "the first argument is the key",
    "prefix": "keys have the namespace of their client: dlock.Client(url, namespace=...)",
    "namespace": "it is an option of the client: dlock.Client(url, namespace=...)",
    "redis": _URL,
    "redis_client": _URL,
    "client": "a lock is made by its client: client.lock(key)",
}
_OF_ACQUIRE = {
    **dict.fromkeys(("timeout", "blocking_timeout", "acquire_timeout"), _WAIT),
    "blocking": f"{_ONCE}; try_acquire() returns None where the key is held",
    **dict.fromkeys(("sleep", "poll_interval", "poll_intervall"), _PUSH),
    **dict.fromkeys(
        ("ttl", "expire", "ex", "px", "lock_timeout", "lease_time", "leaseTime", "lifetime"),
        "it is an option of the lock: client.lock(key, ttl=...), in seconds",
    ),
    "token": "each lease gets an owner and a fencing token of its own: lease.owner, lease.token",
    "retry": "it is an option of the lock: client.lock(key, retry=...)",
}
_OF_CLIENT = {
    **dict.fromkeys(("host", "port", "db", "password", "username", "unix_socket_path", "ssl", "connection"), _URL),
    **dict.fromkeys(("client", "redis", "redis_client"), _URL),
    **dict.fromkeys(("timeout", "socket_timeout"), "how long one request may take is op_timeout=, in seconds"),
    "socket_connect_timeout": "how long connecting may take is connect_timeout=, in seconds",
    **dict.fromkeys(("prefix", "lock_prefix", "key_prefix"), "what is put before every key is namespace="),
    **dict.fromkeys(("ttl", "expire", "lease_time", "leaseTime"), "it is an option of a lock: client.lock(key, ttl=...)"),
    **dict.fromkeys(("wait", "blocking_timeout"), "it is an option of a lock: client.lock(key, wait=...)"),
}
_KNOWN = {"acquire": _OF_ACQUIRE, "Client": _OF_CLIENT}


def unexpected(call: str, given: Collection[str], taken: Collection[str]) -> TypeError:
    """The error for an unknown keyword. It names our word for it, if there is one."""
    word = min((name for name in given if name not in taken), default="")
    message = f"{call}() got an unexpected keyword argument {word!r}"
    if ours := _KNOWN.get(call, _OF_LOCK).get(word):
        return TypeError(f"{message}: {ours}")
    if near := get_close_matches(word, taken, 1):
        return TypeError(f"{message}: did you mean {near[0]}=?")
    return TypeError(f"{message}: it takes {', '.join(sorted(taken))}" if taken else message)
