"""What the engine logs, as records of Python's `logging`: the logger `dlock`, with a child for each part of the engine.

Engine threads never touch Python. Records wait in a queue, and a thread of ours, started with the first operation, passes them on.
What nobody listens to is not even made: the engine is told the level of the loggers, whenever a client or a lock is made.
"""

import _thread
import logging
from typing import Final

from dlock import _native, _process
from dlock._wait import wait_readable

logger: Final = logging.getLogger("dlock")

# One for each part of the engine that logs.
_CHILDREN: Final = [logging.getLogger(name) for name in _native.log_targets()]


class Log:
    """The engine's log on its way to `logging`: one a process."""

    def __init__(self) -> None:
        self._level = logging.CRITICAL + 1
        self._started = False

    def look(self) -> None:
        """Tells the engine the level of the logger. Called often: no more than a comparison as a rule."""
        if logger.getEffectiveLevel() != self._level:
            self.look_at_all()

    def look_at_all(self) -> None:
        """Tells the engine the lowest level of the logger and its children."""
        self._level = logger.getEffectiveLevel()
        _native.set_log_level(min(self._level, *(child.getEffectiveLevel() for child in _CHILDREN)))

    def start(self) -> None:
        """Starts the thread, once in each process."""
        if self._started:
            return
        self._started = True
        self.look_at_all()
        completions = _native.Completions()
        _native.listen_to_logs(completions)
        # Not by `threading`: that waits until the thread runs, and under gevent another greenlet would be served meanwhile.
        _thread.start_new_thread(self._pass_on, (completions,))

    def _pass_on(self, completions: _native.Completions) -> None:
        while True:
            wait_readable(completions.fileno())
            completions.drain()
            self.flush()
            self.look_at_all()

    def flush(self) -> None:
        """Passes on what the engine has logged."""
        records, dropped = _native.take_logs()
        for level, name, message, fields in records:
            text = " ".join([message, *(f"{field}={value}" for field, value in fields.items())])
            logging.getLogger(name).log(level, "%s", text, extra={"dlock": fields})
        if dropped:
            logger.warning("%d log records of the engine were dropped", dropped)

    def forget(self) -> None:
        """In a forked child: the thread is the parent's, and so is what waits."""
        self._started = False
        _native.take_logs()


LOG: Final = Log()
_process.in_child(LOG.forget)
_process.at_end(LOG.flush)
