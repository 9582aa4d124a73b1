"""The libraries, each imported only when it is asked for: they do not all live in one environment."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import raw
from asyncio_work import Library as AsyncLibrary
from blocking_work import Library

TTL = 30


@asynccontextmanager
async def dlock_asyncio(url: str) -> AsyncIterator[AsyncLibrary]:
    import dlock

    async with dlock.Client(url) as client:

        def try_once(key: str) -> Callable[[], Awaitable[bool]]:
            lock = client.lock(key, ttl=TTL)

            async def once() -> bool:
                return await lock.try_acquire() is not None

            return once

        yield AsyncLibrary(lambda key, ttl: client.lock(key, ttl=ttl), try_once)


@contextmanager
def dlock_blocking(url: str) -> Iterator[Library]:
    import dlock.sync

    with dlock.sync.Client(url) as client:

        def try_once(key: str) -> Callable[[], bool]:
            lock = client.lock(key, ttl=TTL)
            return lambda: lock.try_acquire() is not None

        yield Library(lambda key, ttl: client.lock(key, ttl=ttl), try_once)


@asynccontextmanager
async def redis_py_asyncio(url: str) -> AsyncIterator[AsyncLibrary]:
    from redis.asyncio import Redis

    async with Redis.from_url(url, max_connections=10_000) as server:

        def try_once(key: str) -> Callable[[], Awaitable[bool]]:
            lock = server.lock(key, timeout=TTL)
            return lambda: lock.acquire(blocking=False)

        yield AsyncLibrary(lambda key, ttl: server.lock(key, timeout=ttl), try_once)


@contextmanager
def redis_py_blocking(url: str) -> Iterator[Library]:
    from redis import Redis

    with Redis.from_url(url, max_connections=10_000) as server:

        def try_once(key: str) -> Callable[[], bool]:
            lock = server.lock(key, timeout=TTL)
            return lambda: lock.acquire(blocking=False)

        yield Library(lambda key, ttl: server.lock(key, timeout=ttl), try_once)


@contextmanager
def python_redis_lock(url: str) -> Iterator[Library]:
    import redis_lock
    from redis import Redis

    with Redis.from_url(url, max_connections=10_000) as server:

        def try_once(key: str) -> Callable[[], bool]:
            lock = redis_lock.Lock(server, key, expire=TTL)
            return lambda: bool(lock.acquire(blocking=False))

        yield Library(lambda key, ttl: redis_lock.Lock(server, key, expire=int(ttl)), try_once)


def folder_of(url: str) -> Path:
    """Where a library that locks files keeps them: where `local:` keeps its own."""
    return Path(urlsplit(url).path)


@contextmanager
def filelock_blocking(url: str) -> Iterator[Library]:
    from filelock import FileLock, Timeout

    folder = folder_of(url)

    def try_once(key: str) -> Callable[[], bool]:
        lock = FileLock(folder / f"{key}.lock")

        def once() -> bool:
            try:
                lock.acquire(blocking=False)
            except Timeout:
                return False
            return True

        return once

    yield Library(lambda key, _ttl: FileLock(folder / f"{key}.lock"), try_once)


@asynccontextmanager
async def filelock_asyncio(url: str) -> AsyncIterator[AsyncLibrary]:
    from filelock import AsyncFileLock, Timeout

    folder = folder_of(url)

    def try_once(key: str) -> Callable[[], Awaitable[bool]]:
        lock = AsyncFileLock(folder / f"{key}.lock")

        async def once() -> bool:
            try:
                await lock.acquire(blocking=False)
            except Timeout:
                return False
            return True

        return once

    yield AsyncLibrary(lambda key, _ttl: AsyncFileLock(folder / f"{key}.lock"), try_once)


@contextmanager
def portalocker(url: str) -> Iterator[Library]:
    from portalocker import Lock
    from portalocker.exceptions import LockException

    folder = folder_of(url)

    def try_once(key: str) -> Callable[[], bool]:
        lock = Lock(folder / f"{key}.lock", timeout=0, fail_when_locked=True)

        def once() -> bool:
            try:
                lock.acquire()
            except LockException:
                return False
            return True

        return once

    yield Library(lambda key, _ttl: Lock(folder / f"{key}.lock", timeout=60), try_once)


@contextmanager
def etcd3(url: str) -> Iterator[Library]:
    import etcd3 as library

    server = urlsplit(url)
    client = library.client(host=server.hostname, port=server.port)

    def try_once(key: str) -> Callable[[], bool]:
        lock = client.lock(key, ttl=TTL)
        return lambda: bool(lock.acquire(timeout=0))

    yield Library(lambda key, ttl: client.lock(key, ttl=int(ttl)), try_once)


@asynccontextmanager
async def raw_asyncio(url: str) -> AsyncIterator[AsyncLibrary]:
    def lock(_key: str, _ttl: float) -> AbstractAsyncContextManager[object]:
        return raw.LoopPair(url)

    yield AsyncLibrary(lock)


@contextmanager
def raw_blocking(url: str) -> Iterator[Library]:
    def lock(_key: str, _ttl: float) -> AbstractContextManager[object]:
        return raw.BlockingPair(url)

    yield Library(lock)


ASYNCIO: dict[str, Callable[[str], AbstractAsyncContextManager[AsyncLibrary]]] = {
    "dlock-asyncio": dlock_asyncio,
    "redis-py-asyncio": redis_py_asyncio,
    "filelock-asyncio": filelock_asyncio,
    "raw-asyncio": raw_asyncio,
}
BLOCKING: dict[str, Callable[[str], AbstractContextManager[Library]]] = {
    "dlock-blocking": dlock_blocking,
    "redis-py-blocking": redis_py_blocking,
    "python-redis-lock": python_redis_lock,
    "filelock-blocking": filelock_blocking,
    "portalocker": portalocker,
    "etcd3": etcd3,
    "raw-blocking": raw_blocking,
}
