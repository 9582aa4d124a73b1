"""Signs of life: an event loop that runs says so, for the leases that end when it does not."""

import weakref
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable
from math import inf
from typing import Protocol

from dlock import _guard  # noqa: F401

# Signs in the time that `max_stall` allows without one.
SIGNS = 4


class Mortal(Protocol):
    """A lease that ends without signs of life."""

    def heartbeat(self) -> bool: ...


class Pulse:
    """The leases of one loop. A timer runs only while there are any; it keeps neither them nor the loop's state alive."""

    __slots__ = ("__weakref__", "_every", "_leases", "_loop", "_timer")

    def __init__(self, loop: Callable[[], AbstractEventLoop | None]) -> None:
        self._loop = loop
        self._leases: list[weakref.ref[Mortal]] = []
        self._every = inf
        self._timer: TimerHandle | None = None

    def add(self, lease: Mortal, max_stall: float) -> None:
        self._leases.append(weakref.ref(lease))
        every = max_stall / SIGNS
        if every < self._every:
            self._every = every
            self._arm()

    def beat(self) -> None:
        self._leases = [known for known in self._leases if (lease := known()) is not None and lease.heartbeat()]
        if self._leases:
            self._arm()
        else:
            self._timer, self._every = None, inf

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if (loop := self._loop()) is not None:
            self._timer = loop.call_later(self._every, _beat, weakref.ref(self))


def _beat(known: weakref.ref[Pulse]) -> None:
    if (pulse := known()) is not None:
        pulse.beat()
