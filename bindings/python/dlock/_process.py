"""What happens when the process forks, and when it ends."""

import atexit
import os
import threading
from collections.abc import Callable

from dlock._native import after_fork_in_child, after_fork_in_parent, before_fork, shutdown, trust_hooks

_ending = threading.Event()
_forgetters: list[Callable[[], None]] = []
_at_end: list[Callable[[], None]] = []


def in_child(forget: Callable[[], None]) -> None:
    """Calls `forget` in a forked child, to drop what belongs to the parent."""
    _forgetters.append(forget)


def at_end(finish: Callable[[], None]) -> None:
    """Calls `finish` when the interpreter ends, after every lease was released."""
    _at_end.append(finish)


def let_daemon_end() -> None:
    """At exit, keeps a daemon thread that was blocked in a call from going on, as any other blocking call would."""
    if _ending.is_set() and threading.current_thread().daemon:
        threading.Event().wait()


def _exit() -> None:
    _ending.set()
    shutdown()
    for finish in _at_end:
        finish()


def _after_fork_in_child() -> None:
    after_fork_in_child()
    for forget in _forgetters:
        forget()


os.register_at_fork(
    before=before_fork,
    after_in_parent=after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)
trust_hooks()
# `atexit` runs this after the interpreter has joined its threads, which may hold locks until then. What is still held is released.
atexit.register(_exit)
