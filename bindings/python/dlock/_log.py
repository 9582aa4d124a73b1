"""Passes the engine's log on to Python's `logging`: to the logger `dlock`, with a child for each part of the engine.

Engine threads never run Python code. They queue records, and a thread that starts with the first operation passes them on. The
engine makes no records below the level of the loggers, which it learns whenever a client or a lock is made.
"""

import _thread
import logging
from typing import Final

from dlock._native import Completions, listen_to_logs, log_targets, set_log_level, take_logs
from dlock._process import at_end, in_child
from dlock._wait import wait_readable

logger: Final = logging.getLogger("dlock")

# One for each part of the engine that logs.
_CHILDREN: Final = [logging.getLogger(name) for name in log_targets()]


class Log:
    """The engine's log on its way to `logging`. A process has one."""

    def __init__(self) -> None:
        self._level = logging.CRITICAL + 1
        self._started = False

    def look(self) -> None:
        """Tells the engine the level of the logger, if it has changed. It is called often and usually only compares."""
        if logger.getEffectiveLevel() != self._level:
            self.look_at_all()

    def look_at_all(self) -> None:
        """Tells the engine the lowest level of the logger and its children."""
        self._level = logger.getEffectiveLevel()
        set_log_level(min(self._level, *(child.getEffectiveLevel() for child in _CHILDREN)))

    def start(self) -> None:
        """Starts the thread, once in each process."""
        if self._started:
            return
        self._started = True
        self.look_at_all()
        completions = Completions()
        listen_to_logs(completions)
        # Not `threading`: it waits until the thread runs, and under gevent other greenlets would run meanwhile.
        _thread.start_new_thread(self._pass_on, (completions,))

    def _pass_on(self, completions: Completions) -> None:
        while True:
            wait_readable(completions.fileno())
            completions.drain()
            self.flush()
            self.look_at_all()

    def flush(self) -> None:
        """Passes on the records that the engine has queued."""
        records, dropped = take_logs()
        for level, name, message, fields in records:
            text = " ".join([message, *(f"{field}={value}" for field, value in fields.items())])
            logging.getLogger(name).log(level, "%s", text, extra={"dlock": fields})
        if dropped:
            logger.warning("%d log records of the engine were dropped", dropped)

    def forget(self) -> None:
        """In a forked child: the thread and the queued records are the parent's."""
        self._started = False
        take_logs()


LOG: Final = Log()
in_child(LOG.forget)
at_end(LOG.flush)
