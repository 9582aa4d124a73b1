"""Heartbeats: while an event loop runs, it confirms the leases that have `max_stall` and would end without heartbeats."""

import weakref
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable
from math import inf
from typing import Protocol

import dlock._guard  # noqa: F401


class Mortal(Protocol):
    """A lease that ends without heartbeats."""

    def heartbeat(self) -> bool: ...


class Heartbeats:
    """The leases of one loop that need heartbeats. Its timer runs only while there are any, and keeps nothing alive."""

    __slots__ = ("__weakref__", "_every", "_leases", "_loop", "_timer")

    def __init__(self, loop: Callable[[], AbstractEventLoop | None]) -> None:
        self._loop = loop
        self._leases: list[weakref.ref[Mortal]] = []
        self._every = inf
        self._timer: TimerHandle | None = None

    def add(self, lease: Mortal, every: float) -> None:
        self._leases.append(weakref.ref(lease))
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


def _beat(known: weakref.ref[Heartbeats]) -> None:
    if (heartbeats := known()) is not None:
        heartbeats.beat()
