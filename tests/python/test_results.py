"""What is still to run when a function returns would run without the lock: it is awaited, or refused and ended."""

import asyncio
import functools
import gc
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from types import coroutine
from typing import Any

import pytest

import dlock
from dlock import sync


def traced(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator written with a plain `def`, as most are."""

    @functools.wraps(fn)
    def wrapper(*arguments: Any) -> Any:
        return fn(*arguments)

    return wrapper


class Called:
    async def __call__(self, *_: Any) -> int:
        await asyncio.sleep(0)
        return 7


class Promise:
    """An awaitable that is no coroutine."""

    closed = False

    def __await__(self) -> Any:
        return asyncio.sleep(0, 7).__await__()

    def close(self) -> None:
        self.closed = True


async def work(*_: Any) -> int:
    await asyncio.sleep(0)
    return 7


def nested(*_: Any) -> Any:
    async def outer() -> Any:
        return work()

    return outer()


@coroutine
def old(*_: Any) -> Any:
    yield
    return 7


def values(*_: Any) -> Iterator[int]:
    yield 7


async def async_values(*_: Any) -> AsyncIterator[int]:
    yield 7


ASYNC = [work, traced(work), functools.partial(work, 1), traced(functools.partial(work)), traced(traced(work)), Called()]
HIDDEN = [lambda *_: work(), lambda *_: Promise(), nested, lambda *_: functools.partial(work)()]
LAZY = [values, async_values, lambda *_: values(), lambda *_: async_values(), functools.partial(values, 1), traced(values)]


@pytest.fixture(autouse=True)
def nothing_is_left_to_await() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
        gc.collect()


@pytest.mark.parametrize("fn", [*ASYNC, *HIDDEN, old])
def test_what_can_be_awaited_is_awaited_while_the_key_is_held(key: str, fn: Callable[..., Any]) -> None:
    async def main() -> None:
        client = dlock.Client("memory:")
        assert await client.with_lock(key, fn) == 7
        assert not await client.is_locked(key)

    asyncio.run(main())


@pytest.mark.parametrize("fn", ASYNC)
def test_locked_sees_a_coroutine_function_through_its_wrappers(key: str, fn: Callable[..., Any]) -> None:
    client = dlock.Client("memory:")
    held = []

    async def main() -> None:
        inner = client.locked(key)(fn)
        assert await inner() == 7

    asyncio.run(main())
    with pytest.raises(dlock.InvalidOptions):
        sync.Client("memory:").locked(key)(fn)
    with pytest.raises(dlock.InvalidOptions):
        sync.Client("memory:").with_lock(key, fn)
    assert not held


def test_a_wrapped_coroutine_function_runs_under_the_lock(key: str) -> None:
    inside = most = 0

    @dlock.Client("memory:").locked(key)
    @traced
    async def job() -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0)
        inside -= 1

    async def main() -> None:
        await asyncio.gather(*(job() for _ in range(4)))

    asyncio.run(main())
    assert most == 1


@pytest.mark.parametrize("fn", HIDDEN)
def test_an_awaitable_of_a_plain_function_is_refused_and_ended(key: str, fn: Callable[..., Any]) -> None:
    client = sync.Client("memory:")
    with pytest.raises(dlock.InvalidOptions, match="async def"):
        dlock.Client("memory:").locked(key)(fn)()
    with pytest.raises(dlock.InvalidOptions, match="async def"):
        client.locked(key)(fn)()
    with pytest.raises(dlock.InvalidOptions, match=r"dlock\.with_lock"):
        client.with_lock(key, fn)
    assert client.stats().held == 0
    assert not client.is_locked(key)


def test_what_is_refused_is_closed_or_cancelled(key: str) -> None:
    promise = Promise()
    with pytest.raises(dlock.InvalidOptions):
        sync.Client("memory:").with_lock(key, lambda _: promise)
    assert promise.closed

    async def main() -> None:
        task = asyncio.create_task(asyncio.sleep(60))
        with pytest.raises(dlock.InvalidOptions):
            dlock.Client("memory:").locked(key)(lambda: task)()
        await asyncio.wait([task])
        assert task.cancelled()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a plain function blocks the loop
        asyncio.run(main())


@pytest.mark.parametrize("fn", LAZY)
def test_a_generator_is_refused(key: str, fn: Callable[..., Any]) -> None:
    client = sync.Client("memory:")

    async def main() -> None:
        client = dlock.Client("memory:")
        with pytest.raises(dlock.InvalidOptions, match="generator"):
            await client.with_lock(key, fn)
        assert not await client.is_locked(key)

        async def returns() -> Any:
            return fn()

        with pytest.raises(dlock.InvalidOptions, match="generator"):
            await client.locked(key)(returns)()
        assert not await client.is_locked(key)

    asyncio.run(main())
    with pytest.raises(dlock.InvalidOptions, match="generator"):
        client.with_lock(key, fn)
    with pytest.raises(dlock.InvalidOptions, match="generator"):
        client.locked(key)(fn)()
    assert not client.is_locked(key)
