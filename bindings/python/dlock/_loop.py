"""Brings the engine's answers to an event loop.

Each loop has one queue with one descriptor. Engine threads push `(number, outcome)` and wake the loop unless it is awake already.
The loop drains everything in one go.
"""

import asyncio
import select
import threading
import weakref
from asyncio import AbstractEventLoop, Future, TimerHandle
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from math import inf
from typing import Any, Protocol

from dlock._heartbeat import Heartbeats, Mortal
from dlock._log import LOG
from dlock._native import Call, Completions, tell
from dlock._process import in_child
from dlock._socket import SocketReader
from dlock.errors import ForkedError, LockError

# How often the thread of a loop without `add_reader` checks whether the loop was closed.
CHECK_SECONDS = 1.0


class Watched(Protocol):
    """A lease whose loss cancels its body."""

    @property
    def remaining(self) -> float: ...

    @property
    def _ends(self) -> int: ...

    @property
    def lost(self) -> bool: ...

    def _on_loss(self) -> None: ...


class LoopState:
    """What the package keeps for one event loop.

    Only the loop keeps it alive, through its reader. When the loop is closed, it goes, and its descriptor with it.
    """

    __slots__ = (
        "__weakref__",
        "_alarm",
        "_alarm_at",
        "_came",
        "_heartbeats",
        "_sockets",
        "_watched",
        "completions",
        "listeners",
        "loop",
        "next_number",
        "pending",
    )

    def __init__(self, loop: AbstractEventLoop) -> None:
        self.loop = weakref.ref(loop)
        self.completions = Completions()
        self.next_number = count(1).__next__
        self.pending: dict[int, Future[Any]] = {}
        self._came: deque[tuple[int, Any, BaseException | None]] = deque()
        self._watched: dict[int, Watched] = {}
        # What to call for outcomes under numbers that are no call's.
        self.listeners: dict[int, Callable[[], None]] = {}
        self._alarm: TimerHandle | None = None
        self._alarm_at = inf  # nanoseconds on the engine's clock
        self._heartbeats: Heartbeats | None = None
        # By the numbers of the sockets.
        self._sockets: dict[int, SocketReader] = {}
        reader = Reader(self)
        try:
            loop.add_reader(self.completions.fileno(), reader)
        except NotImplementedError:
            self.completions.reads_nothing()
            threading.Thread(target=_read_for_loop, args=(self, reader), name="dlock-wake", daemon=True).start()

    def drain(self) -> None:
        """Delivers all outcomes. A grant for a caller that has left is released when it is dropped here.

        An observer or a signal handler may raise in here. An outcome leaves `_came` only once it is delivered, and the next drain
        delivers the rest, so an exception loses none. The same holds if what is called here runs the loop.
        """
        came, pending = self._came, self.pending
        try:
            self.completions.drain_into(came)
            while came:
                number, value, error = came[0]
                future = pending.get(number)
                if future is None:
                    came.popleft()
                    if (lease := self._watched.get(number)) is not None:
                        lease._on_loss()
                    elif (listener := self.listeners.get(number)) is not None:
                        listener()
                    continue
                if not future.done():
                    tell(future, value, error)
                del pending[number]
                came.popleft()
        except BaseException:
            if came:
                self.completions.ring()
            raise

    def expect(self, number: int) -> Future[Any]:
        """The future that gets the outcome of a call."""
        loop = self.loop()
        assert loop is not None  # it is running
        future = self.pending[number] = loop.create_future()
        return future

    def read_for(self, call: Call) -> None:
        """Reads the answer of a call from its socket, on this loop. A loop that cannot leaves the call to the engine."""
        if (socket := call.socket) is None:
            return  # it is the engine's by now
        reader = self._sockets.get(socket) or SocketReader.start(self, socket, call)
        if reader is None:
            call.leave_to_engine()
        else:
            reader.call = call

    async def run(self, start: Callable[..., Call | None], *arguments: Any) -> Any:
        """Starts a call and awaits its outcome. Cancelling the caller ends the call."""
        number = self.next_number()
        call = start(self.completions, number, *arguments)
        future = self.expect(number)
        try:
            return await future
        except BaseException:
            if self.pending.pop(number, None) is not None and call is not None:
                call.abort()
            raise

    def watch(self, number: int, lease: Watched) -> None:
        """Cancels the lease's body when the engine reports a loss, or at the latest when the lease has expired.

        The timer is for a process that was paused: it runs before any task takes another step. One timer serves all leases of the
        loop. Renewals do not move it; when it fires, it checks all leases.
        """
        self._watched[number] = lease
        if (ends := lease._ends) < self._alarm_at:
            self._set_alarm(ends, lease.remaining)

    def unwatch(self, number: int) -> None:
        self._watched.pop(number, None)

    def send_heartbeats(self, lease: Mortal, every: float) -> None:
        """Sends a heartbeat every so many seconds, while the lease is held and this loop runs."""
        if self._heartbeats is None:
            self._heartbeats = Heartbeats(self.loop)
        self._heartbeats.add(lease, every)

    def _set_alarm(self, at: float, delay: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        if (loop := self.loop()) is not None:
            # A weak reference: a cycle would keep the descriptor of a closed loop until the next garbage collection.
            self._alarm = loop.call_later(delay, _look, weakref.ref(self))
            self._alarm_at = at

    def look(self) -> None:
        self._alarm, self._alarm_at = None, inf
        at, soonest, lost = inf, inf, []
        for lease in list(self._watched.values()):
            ends, remaining = lease._ends, lease.remaining
            if remaining <= 0:
                if lease.lost:
                    lost.append(lease)
            elif remaining < soonest:
                at, soonest = ends, remaining
        # Before any code of the program runs.
        if soonest < inf:
            self._set_alarm(at, soonest)
        for lease in lost:
            lease._on_loss()


class Reader:
    """What the loop calls when there is something to drain. A closed loop drops it, and then nobody waits for answers."""

    __slots__ = ("_state",)

    def __init__(self, state: LoopState) -> None:
        self._state = state

    def __call__(self) -> None:
        self._state.drain()

    def __del__(self) -> None:
        with suppress(ForkedError):
            self._state.completions.close()


def _look(known: weakref.ref[LoopState]) -> None:
    if (state := known()) is not None:
        state.look()


_states: dict[int, weakref.ref[LoopState]] = {}
in_child(_states.clear)


def current() -> LoopState:
    """The state of the running event loop."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError as error:
        message = "there is no running asyncio event loop: under another framework, or without one, use dlock.sync in a thread"
        raise LockError(message, code="NO_EVENT_LOOP") from error
    known = _states.get(id(loop))
    if known is not None and (state := known()) is not None and state.loop() is loop:
        return state
    return _register(loop)


def _register(loop: AbstractEventLoop) -> LoopState:
    LOG.start()
    state = LoopState(loop)
    number = id(loop)

    def forget(gone: weakref.ref[LoopState]) -> None:
        if _states.get(number) is gone:
            del _states[number]

    _states[number] = weakref.ref(state, forget)
    return state


def _read_for_loop(state: LoopState, reader: Reader) -> None:
    """Wakes a loop that cannot watch descriptors. It ends with the loop."""
    poll = select.poll()
    poll.register(state.completions.fileno(), select.POLLIN)
    drained = threading.Event()

    def drain() -> None:
        reader()
        drained.set()

    while (loop := state.loop()) is not None and not loop.is_closed():
        if not poll.poll(CHECK_SECONDS * 1000):
            continue
        drained.clear()
        try:
            loop.call_soon_threadsafe(drain)
        except RuntimeError:
            return
        del loop
        while not drained.wait(CHECK_SECONDS):
            if (loop := state.loop()) is None or loop.is_closed():
                return
            del loop
