"""Tells the engine which caller asks for a key, a task or a thread, and which one started it.

The engine needs it twice. While a client is being closed, a caller that holds a lease of it may acquire more, and so may what it
started. And a caller that times out waiting for a key which its starter holds gets a warning.

Contexts show which caller started which: tasks, the children of a `TaskGroup` and `asyncio.to_thread` begin with a copy of their
starter's context. A plain `threading.Thread` does so only from Python 3.14 on; before that its starter is unknown. These functions
must run in the context of the task or thread that asks, before the request leaves: its first request sets the variable there.
"""

import weakref
from asyncio import Task
from contextvars import ContextVar
from typing import Any

from dlock._native import Caller

_UNKNOWN = Caller.unknown()


class _Asker:
    """A caller, and its task or thread: a context may be a copy of another task's, or be shared."""

    __slots__ = ("caller", "taker")

    def __init__(self, taker: Any, caller: Caller) -> None:
        self.taker = taker
        self.caller = caller


_asker: ContextVar[_Asker | None] = ContextVar("dlock.asker", default=None)


def of_task(task: Task[Any] | None) -> Caller:
    """The caller for the running task."""
    if task is None:
        return _UNKNOWN
    known = _asker.get()
    # A weak reference: a context that others inherit must not keep the task alive.
    if known is not None and type(known.taker) is weakref.ref and known.taker() is task:
        return known.caller
    return _begin(known, weakref.ref(task))


def of_thread(thread: object) -> Caller:
    """The caller for the running thread or greenlet, which `thread` identifies."""
    known = _asker.get()
    if known is not None and known.taker == thread:
        return known.caller
    return _begin(known, thread)


def _begin(starter: _Asker | None, taker: Any) -> Caller:
    """The caller for a taker that asks for the first time. The caller from whose context it began is its starter."""
    caller = Caller(starter.caller if starter is not None else None)
    _asker.set(_Asker(taker, caller))
    return caller
