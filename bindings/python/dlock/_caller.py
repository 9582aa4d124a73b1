"""Who asks for a key: a task or a thread, and by whom it was started.

The engine decides what follows. While a client is being closed, a caller that holds a lease of it may acquire more, and so may
what it started. A caller that waits in vain for a key which its starter holds is warned.

Contexts say who started whom: tasks, the children of a `TaskGroup` and `asyncio.to_thread` begin with a copy of their starter's
context. A plain `threading.Thread` does so from Python 3.14 on only; before, nobody knows who started it. What this needs of its
callers is to be called in the context of the task or thread that asks, before the call leaves: the variable is set there when it
first asks.
"""

import weakref
from asyncio import Task
from contextvars import ContextVar
from typing import Any

from dlock._native import Caller

_UNKNOWN = Caller.unknown()


class _Asker:
    """A caller, and the task or thread it stands for: a context may have come from another one, or be shared."""

    __slots__ = ("caller", "taker")

    def __init__(self, taker: Any, caller: Caller) -> None:
        self.taker = taker
        self.caller = caller


_asker: ContextVar[_Asker | None] = ContextVar("dlock.asker", default=None)


def of_task(task: Task[Any] | None) -> Caller:
    """The task that is running."""
    if task is None:
        return _UNKNOWN
    known = _asker.get()
    # Weakly: a context that others inherit must not keep the task.
    if known is not None and type(known.taker) is weakref.ref and known.taker() is task:
        return known.caller
    return _begin(known, weakref.ref(task))


def of_thread(thread: object) -> Caller:
    """The thread, or the greenlet, that is running, by what it is known by."""
    known = _asker.get()
    if known is not None and known.taker == thread:
        return known.caller
    return _begin(known, thread)


def _begin(starter: _Asker | None, taker: Any) -> Caller:
    """It asks for the first time: whoever the context comes from has started it."""
    caller = Caller(starter.caller if starter is not None else None)
    _asker.set(_Asker(taker, caller))
    return caller
