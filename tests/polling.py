"""Waiting for something to become true, instead of sleeping and hoping."""

import asyncio
import time
from collections.abc import Awaitable, Callable

PATIENCE = 10.0
PAUSE = 0.005


def until(condition: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    """Returns once `condition()` is true; fails after `patience` seconds."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"not in {patience} s: {what}"
        time.sleep(PAUSE)


async def eventually(condition: Callable[[], Awaitable[object]], what: str, patience: float = PATIENCE) -> None:
    """`until` for a condition that has to be awaited."""
    deadline = time.monotonic() + patience
    while not await condition():
        assert time.monotonic() < deadline, f"not in {patience} s: {what}"
        await asyncio.sleep(PAUSE)
