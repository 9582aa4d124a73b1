"""What happens when the process forks, and when it ends."""

import atexit
import os
from collections.abc import Callable

from dlock import _native

EXIT_SECONDS = 2.0

_forgetters: list[Callable[[], None]] = []


def in_child(forget: Callable[[], None]) -> None:
    """Has what belongs to the parent forgotten in a forked child."""
    _forgetters.append(forget)


def _after_fork_in_child() -> None:
    _native.after_fork_in_child()
    for forget in _forgetters:
        forget()


os.register_at_fork(
    before=_native.before_fork,
    after_in_parent=_native.after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)
# After the interpreter has joined its threads: until then they may hold locks. What is held then is given back.
atexit.register(_native.shutdown, EXIT_SECONDS)
