"""The questions that a client asks about keys: one row each, with the native method, what it takes and what it answers.

Both faces ask them, each in its own way: asyncio awaits the answer, `dlock.sync` blocks.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Concatenate, Generic, ParamSpec, TypeVar, cast

from dlock._caller import of_task, of_thread
from dlock._handles import ClientHandle
from dlock._holder import Inspection
from dlock._loop import current
from dlock._native import Call, Caller, Client, Completions, block, taker

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Question(Generic[P, R]):
    """What is asked with arguments `P` and answered with `R`."""

    start: Callable[Concatenate[Client, Completions, int, Caller, P], Call]


PING: Question[[], None] = Question(Client.ping)
INSPECT: Question[[str], Inspection] = Question(Client.inspect)
LIST_LOCKS: Question[[str], list[Inspection]] = Question(Client.list_locks)
IS_LOCKED: Question[[str], bool] = Question(Client.is_locked)
FORCE_RELEASE: Question[[str, int | str], bool] = Question(Client.force_release)


async def ask(client: ClientHandle, question: Question[P, R], *arguments: P.args, **_: P.kwargs) -> R:
    """Awaits the answer. The engine learns which task asks: while a client is being closed, it answers only those that hold a
    lease."""
    start = partial(question.start, client._native)
    return cast(R, await current().run(start, of_task(asyncio.current_task()), *arguments))


def ask_blocking(client: ClientHandle, question: Question[P, R], *arguments: P.args, **_: P.kwargs) -> R:
    """Blocks until the answer has come. The engine learns which thread asks, as with `ask`."""
    start = partial(question.start, client._native)
    return cast(R, block(start, of_thread(taker()), *arguments))
