"""What the native part calls in Python. It does so only where nothing is lost if a signal handler raises."""

import threading
from asyncio import Future
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from dlock._caller import of_task as caller_of_task
from dlock._caller import of_thread as caller_of_thread
from dlock._handles import refuse_words
from dlock._log import LOG
from dlock._loop import current
from dlock._options import UNSET
from dlock._process import let_daemon_end
from dlock._wait import wait_readable
from dlock._warn import warn_caller, warn_dropped
from dlock.errors import LockError

__all__ = [
    "UNSET",
    "already_entered",
    "ambiguous",
    "answer",
    "caller_of_task",
    "caller_of_thread",
    "inside",
    "let_daemon_end",
    "of_thread",
    "refuse_words",
    "start_log",
    "wait_readable",
    "warn_dropped",
    "warn_in_loop",
]

T = TypeVar("T")

# What a thread, or a greenlet, keeps about itself until it ends.
of_thread = threading.local()


async def answer(future: Future[bool]) -> bool:
    """Awaits the answer to a release that has begun."""
    return await future


async def inside(call: Callable[..., Awaitable[T]], arguments: Sequence[Any]) -> T:
    """Defers a call that needs a running event loop until there is one: `loop.run_until_complete(lease.release())`."""
    current()
    return await call(*arguments)


def start_log() -> None:
    LOG.start()


def warn_in_loop() -> None:
    warn_caller("dlock.sync blocks the running event loop: use `async with` there", RuntimeWarning)


def already_entered(key: str) -> LockError:
    return LockError(f'lock "{key}": the body of this lease has already begun', code="ALREADY_ENTERED", key=key)


def ambiguous(key: str, operation: str, bodies: int, taker: str) -> LockError:
    message = f'lock "{key}": {operation}: this {taker} has no body of the lock, and {bodies} bodies of other {taker}s are running'
    return LockError(message, code="AMBIGUOUS", key=key, operation=operation)
