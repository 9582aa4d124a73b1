"""Closes clients on a signal, for programs that ask for it. Without that the package installs no handler."""

import _thread
import os
import signal
import time
from collections.abc import Callable, Iterable
from typing import Any

END = (signal.SIGTERM, signal.SIGINT)
AGAIN = 0.05  # seconds


def close_on_signal(close: Callable[[], object], signals: Iterable[int]) -> Callable[[], None]:
    """Calls `close` on a thread at the first of these signals. Returns a function that cancels this.

    The signal takes its usual effect when `close` has returned, or when a second one comes. Only for the main thread.
    """
    return Drain(close).listen(signals)


class Drain:
    """The handlers that were there before, and how far the close has got."""

    def __init__(self, close: Callable[[], object]) -> None:
        self._close = close
        self._before: dict[int, Any] = {}
        self._pid = os.getpid()
        self._begun = False
        self._passed_on = False

    def listen(self, signals: Iterable[int]) -> Callable[[], None]:
        try:
            for number in signals:
                # A program that ignores the signal, for example under nohup, goes on ignoring it.
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._on_signal)
        except BaseException:
            self._end()
            raise
        return self._end

    def _end(self) -> None:
        for number in self._before:
            if signal.getsignal(number) == self._on_signal:
                signal.signal(number, self._before[number] or signal.SIG_DFL)

    def _on_signal(self, number: int, frame: Any) -> None:
        if self._begun or os.getpid() != self._pid:
            # Sent by `_drain` when the close has ended, or by somebody who does not wait. A forked child has nothing to close.
            self._pass_on(number, frame)
            return
        self._begun = True
        try:
            # Not `threading`: the code that this handler interrupts may hold its locks.
            _thread.start_new_thread(self._drain, (number,))
        except RuntimeError:
            self._pass_on(number, frame)

    def _drain(self, number: int) -> None:
        try:
            self._close()
        finally:
            # Only the main thread runs handlers, and it may miss the first signal if it is about to sleep.
            while not self._passed_on:
                os.kill(self._pid, number)
                time.sleep(AGAIN)

    def _pass_on(self, number: int, frame: Any) -> None:
        self._passed_on = True
        before = self._before[number]
        if callable(before):
            before(number, frame)
        else:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
