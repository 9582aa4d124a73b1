"""What is asked for when pairs are made, and what is noted meanwhile."""

import time
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True)
class Pairs:
    keys: list[str]
    seconds: float
    hold: float
    pause: float
    waits: bool
    stamps: bool

    @classmethod
    def of(cls, work: dict[str, Any]) -> Self:
        of = work.get
        return cls(work["keys"], work["seconds"], of("hold", 0.0), of("pause", 0.0), of("waits", False), of("stamps", False))


class Record:
    def __init__(self, asked: Pairs) -> None:
        self.by_task = [0] * len(asked.keys)
        self._asked = asked
        self._waits: list[float] = []
        self._granted: list[float] = []
        self._released: list[float] = []
        self._last_holder: dict[str, int] = {}
        # One for each task: threads do not add to the same number.
        self._handovers = [0] * len(asked.keys)
        self.started = time.monotonic()

    def granted(self, number: int, key: str, began: float) -> None:
        """A task that began to acquire at `began` has the key."""
        if self._asked.waits:
            self._waits.append(time.monotonic() - began)
        if self._asked.stamps:
            self._granted.append(time.monotonic())
        if self._last_holder.get(key) != number:
            self._last_holder[key] = number
            self._handovers[number] += 1

    def releases(self) -> None:
        if self._asked.stamps:
            self._released.append(time.monotonic())

    def answer(self) -> dict[str, Any]:
        return {
            "pairs": sum(self.by_task),
            "seconds": time.monotonic() - self.started,
            "handovers": sum(self._handovers),
            "by_task": self.by_task,
            "waits": self._waits,
            "granted": self._granted,
            "released": self._released,
        }
