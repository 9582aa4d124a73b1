"""A signal that begins a drain, for programs that ask for it. By itself the package installs no handler."""

import _thread
import os
import signal
import time
from collections.abc import Callable, Iterable
from typing import Any

END = (signal.SIGTERM, signal.SIGINT)
AGAIN = 0.05  # seconds


def close_on_signal(close: Callable[[], object], signals: Iterable[int]) -> Callable[[], None]:
    """Has the first of these signals call `close`, on a thread; returns what takes that back.

    What the signal did before is put off until `close` has returned, or until a second one comes. Main thread only.
    """
    return Drain(close).listen(signals)


class Drain:
    """What was there before us, and how far we have got."""

    def __init__(self, close: Callable[[], object]) -> None:
        self._close = close
        self._before: dict[int, Any] = {}
        self._pid = os.getpid()
        self._begun = False
        self._passed_on = False

    def listen(self, signals: Iterable[int]) -> Callable[[], None]:
        try:
            for number in signals:
                # A program that was told to ignore it, by nohup for one, goes on doing so.
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._hear)
        except BaseException:
            self._end()
            raise
        return self._end

    def _end(self) -> None:
        for number in self._before:
            if signal.getsignal(number) == self._hear:
                signal.signal(number, self._before[number] or signal.SIG_DFL)

    def _hear(self, number: int, frame: Any) -> None:
        if self._begun or os.getpid() != self._pid:
            # Ours, after the drain, or that of somebody who will not wait. A forked child has nothing to drain.
            self._pass_on(number, frame)
            return
        self._begun = True
        try:
            # Not `threading`: its locks may be held by the very code that we interrupt.
            _thread.start_new_thread(self._drain, (number,))
        except RuntimeError:
            self._pass_on(number, frame)

    def _drain(self, number: int) -> None:
        try:
            self._close()
        finally:
            # Only the main thread runs handlers, and one that is about to sleep may miss the first word.
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
