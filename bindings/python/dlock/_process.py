"""What happens when the process forks, and when it ends."""

import atexit
import os
import threading
from collections.abc import Callable

from dlock import _native

_ending = threading.Event()
_forgetters: list[Callable[[], None]] = []
_last_words: list[Callable[[], None]] = []


def in_child(forget: Callable[[], None]) -> None:
    """Has what belongs to the parent forgotten in a forked child."""
    _forgetters.append(forget)


def at_end(say: Callable[[], None]) -> None:
    """Has this called when the interpreter ends, after everything was given back."""
    _last_words.append(say)


def let_daemon_end() -> None:
    """At exit, a daemon thread that was blocked in a call ends here in silence, as it would in any other call that blocks."""
    if _ending.is_set() and threading.current_thread().daemon:
        threading.Event().wait()


def _exit() -> None:
    _ending.set()
    _native.shutdown()
    for say in _last_words:
        say()


def _after_fork_in_child() -> None:
    _native.after_fork_in_child()
    for forget in _forgetters:
        forget()


os.register_at_fork(
    before=_native.before_fork,
    after_in_parent=_native.after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)
_native.trust_hooks()
# After the interpreter has joined its threads: until then they may hold locks. What is held then is given back.
atexit.register(_exit)
