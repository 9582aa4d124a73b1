"""A lease: what a holder has. As a context manager it cancels its body when it is lost."""

import asyncio
import weakref
from asyncio import CancelledError, Future, Task
from collections.abc import Awaitable
from types import TracebackType
from typing import Any, Self

from dlock import _native
from dlock._handles import LeaseHandle, warn_of_unit
from dlock._loop import LoopState, current
from dlock._options import Seconds
from dlock.errors import ForkedError, LockError


class Lease(LeaseHandle):
    """One grant of a lock.

    `async with lease` gives it back at the end of the body and cancels the body when the lease is lost, the way `asyncio.timeout()`
    does: the body ends in `LockLost`.
    """

    __slots__ = ("_body", "_cancelled", "_cancelling", "_number", "_state")

    def __init__(
        self,
        _grant: _native.Grant,
        key: str,
        number: int,
        on_lost: str,
        taker: Task[Any] | None,
        leases: dict[str, weakref.ref[LeaseHandle]],
    ) -> None:
        self._key = key
        self._leases = leases
        self._on_lost = on_lost
        self._released = False
        self._taker = taker
        self._state: LoopState | None = None  # where a loss is watched for
        self._number = number
        self._body: Task[Any] | None = None  # the task to cancel
        self._cancelled = False
        self._cancelling = 0

    async def release(self) -> bool:
        """Gives the key back; local validity and renewal end at once.

        True if the backend confirmed it; else `status` says how it stands, and the engine goes on trying until the lease would
        have run out. Waits at most `op_timeout`. A cancelled release goes on in the background.

        With `reentrant`, each release takes one acquire back, and the last one gives back the key.
        """
        return await self._begin_release(current())

    async def extend(self, ttl: Seconds) -> None:
        """Sets the life of the lease: `ttl` from now, and for later renewals. It goes on when this is cancelled.

        Raises `LockLost` or `NotHeld` if the lease has ended, `BackendUnavailable` if no answer came.
        """
        warn_of_unit(ttl)
        await current().run(self._extend, ttl)

    async def wait_lost(self) -> str:
        """Waits until the lease is lost and says why. Does not return for a lease that is given back."""
        reason: str = await current().run(self._wait_lost)
        return reason

    async def __aenter__(self) -> Self:
        self.check()
        state = current()
        self._enter(state, asyncio.current_task(), watched=False)
        return self

    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> Awaitable[None]:
        if kind is None and self.valid and not self._cancelled:
            return self._leave_well()
        return self._leave(kind, error)

    def _enter(self, state: LoopState, task: Task[Any] | None, *, watched: bool) -> None:
        """From here on a loss cancels the running task. `watched`: the engine was told already whom to tell."""
        if self._body is not None:
            raise LockError(f'lock "{self.key}": the lease was entered before', code="ALREADY_ENTERED", key=self.key)
        if task is None:
            raise LockError("async with: there is no current task", code="NO_TASK", key=self.key)
        self._body = task
        if self._on_lost != "cancel":
            return
        self._cancelling = task.cancelling()
        self._state = state
        if not watched:
            self._number = state.next_number()
            self._watch(state.completions, self._number)
        state.watch(self._number, self)

    def _on_loss(self) -> None:
        """Called by the loop, never by the task itself."""
        if self._body is not None and not self._cancelled:
            self._cancelled = True
            self._body.cancel()

    def _leave_well(self) -> Future[None]:
        """`_leave` where nothing has to be explained. No coroutine, which would be paid for at every await."""
        self._body = None
        state = self._state
        if state is None:
            state = current()
        else:  # as `_unwatch` does, without one more call at each release
            state.unwatch(self._number)
            self._state = None
        number = state.next_number()
        if self._end(state.completions, number):
            self._let_go()
        return state.expect(number)

    async def _leave(self, kind: type[BaseException] | None, error: BaseException | None) -> None:
        """Gives the lease back and says what the body's end means. Nothing cancels the task from here on."""
        body, self._body = self._body, None
        cancelled, self._cancelled = self._cancelled, False
        loss = None if self.valid else self._loss()
        # Whoever else cancelled the task wants it to end: that wins.
        by_others = cancelled and body is not None and body.uncancel() > self._cancelling
        by_us = cancelled and not by_others
        state = self._state or current()
        self._unwatch()
        try:
            await self._begin_release(state)
        except ForkedError:
            if kind is None:
                raise
        if loss is None or self._on_lost == "ignore":
            return
        if kind is None or (by_us and issubclass(kind, CancelledError)):
            raise loss from error

    async def _leave_inner(self, kind: type[BaseException] | None, error: BaseException | None) -> None:
        """Ends a body inside of another one of the same lease. A cancellation is for the outermost to explain."""
        loss = None if self.valid else self._loss()
        await self._begin_release(current())
        if loss is not None and kind is None and self._on_lost != "ignore":
            raise loss from error

    def _begin_release(self, state: LoopState) -> Future[bool]:
        number = state.next_number()
        if self._release(state.completions, number):
            self._unwatch()
            self._let_go()
        return state.expect(number)

    def _unwatch(self) -> None:
        if self._state is not None:
            self._state.unwatch(self._number)
            self._state = None
