"""`dlock.locked` takes coroutine functions and plain ones, so it joins both faces. No other module knows both clients."""

from typing import Unpack

from dlock._client import Client
from dlock._client_sync import Client as PlainClient
from dlock._locked import Locked
from dlock._options import LockOptions


def locked(key: str, **options: Unpack[LockOptions]) -> Locked:
    """Decorates a function that holds a key of the default client while it runs.

    `@dlock.locked("order:{order_id}", ttl=30)`: the arguments fill in the key; `{self.id}` and `{order.id}` work too. Inside,
    `dlock.current_lease()` is the lease. With `reentrant` the function may call itself for the same key. Raises `InvalidOptions`
    for names that the function does not take.

    In asyncio, it takes coroutine functions and plain ones. A plain function blocks as `dlock.sync` does, and a loss is raised at
    its end.
    """
    return Locked(
        key,
        options,
        lambda key, options: PlainClient._default().lock(key, **options),
        lambda key, options: Client._default().lock(key, **options),
    )
