"""What the engine logs, as records of Python's `logging`: the logger `dlock`, with a child for each part of the engine.

Engine threads never touch Python. Records wait in a queue, and a thread of ours, started with the first operation, passes them on. What
nobody listens to is not even made: the engine is told the level of the loggers, which it learns when clients and locks are made.
"""

import _thread
import logging
from typing import Final

from dlock import _native, _process
from dlock._wait import wait_readable

logger: Final = logging.getLogger("dlock")

# As the engine names its parts.
_CHILDREN: Final = [
    logger.getChild(name)
    for name in ("acquire", "give_back", "held", "lease", "observe", "places", "renewal", "session", "backend.local", "backend.redis", "backend.etcd")
]

_level = logging.CRITICAL
_started = False


def look() -> None:
    """Tells the engine the level of the logger. Called often: no more than a comparison as a rule."""
    level = logger.getEffectiveLevel()
    if level != _level:
        look_at_all()


def look_at_all() -> None:
    """Tells the engine the lowest level of the logger and its children."""
    global _level
    _level = logger.getEffectiveLevel()
    _native.set_log_level(min(_level, *(child.getEffectiveLevel() for child in _CHILDREN)))


def start() -> None:
    """Starts the thread, once in each process."""
    global _started
    if _started:
        return
    _started = True
    look_at_all()
    completions = _native.Completions()
    _native.listen_to_logs(completions)
    # Not by `threading`: that waits until the thread runs, and under gevent another greenlet would be served meanwhile.
    _thread.start_new_thread(_pass_on, (completions,))


def _pass_on(completions: _native.Completions) -> None:
    while True:
        wait_readable(completions.fileno())
        completions.drain()
        flush()
        look_at_all()


def flush() -> None:
    """Passes on what the engine has logged."""
    records, dropped = _native.take_logs()
    for level, name, message, fields in records:
        text = " ".join([message, *(f"{field}={value}" for field, value in fields.items())])
        logging.getLogger(name).log(level, "%s", text, extra={"dlock": fields})
    if dropped:
        logger.warning("%d log records of the engine were dropped", dropped)


def _forget() -> None:
    global _started
    _started = False
    _native.take_logs()  # the parent's


_process.in_child(_forget)
_process.at_end(flush)
