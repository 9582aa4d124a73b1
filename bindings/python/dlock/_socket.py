"""Reads the answers of lone requests: from the socket of a client, on the thread of the loop that asked."""

from __future__ import annotations

import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from dlock._native import Call, Completions, Descriptor
from dlock.errors import ForkedError

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop


class Loop(Protocol):
    """What is needed of the state of a loop."""

    loop: weakref.ref[AbstractEventLoop]
    completions: Completions
    _sockets: dict[int, SocketReader]

    def drain(self) -> None: ...


class SocketReader:
    """What the loop calls when there is something to read on a socket.

    The loop goes on watching the socket between calls. It keeps this object, which must not keep the loop's state: a closed loop
    drops both at once.
    """

    __slots__ = ("__weakref__", "_descriptor", "_socket", "_state", "call")

    def __init__(self, state: Loop, socket: int, descriptor: Descriptor) -> None:
        self._state = weakref.ref(state)
        self._socket = socket
        self._descriptor = descriptor
        self.call: Call | None = None

    @staticmethod
    def start(state: Loop, socket: int, call: Call) -> SocketReader | None:
        """None if the call is the engine's by now, or if the loop cannot watch the socket."""
        try:
            if (descriptor := call.descriptor()) is None or (loop := state.loop()) is None:
                return None
            reader = SocketReader(state, socket, descriptor)
            loop.add_reader(descriptor.fileno(), reader)
        except (NotImplementedError, OSError, ValueError):
            return None
        state._sockets[socket] = reader
        return reader

    def __call__(self) -> None:
        # A child that goes on with its parent's loop leaves the parent's answers alone.
        with suppress(ForkedError):
            self._read()

    def _read(self) -> None:
        call, state = self.call, self._state()
        if state is None or call is None:
            # Nobody waits for it here: the server has hung up, or the engine reads.
            self.close()
            return
        try:
            if call.drive():
                return
            # What is drained may ask again, and set another call.
            if self.call is call:
                self.call = None
            state.drain()
        except BaseException:
            # A signal handler may raise in here. The loop is to look once more.
            state.completions.ring()
            raise

    def close(self) -> None:
        """Ends the watch. Who asks next begins another one."""
        self.call = None
        number = self._descriptor.fileno()
        if (state := self._state()) is None:
            return
        if state._sockets.get(self._socket) is self:
            del state._sockets[self._socket]
        if (loop := state.loop()) is not None:
            with suppress(OSError, ValueError):
                loop.remove_reader(number)
