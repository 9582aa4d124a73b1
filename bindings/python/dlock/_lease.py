"""A lease of asyncio. As a context manager it cancels its body when it is lost."""

import weakref
from asyncio import CancelledError, Future, Task
from typing import Any

from dlock._handles import LeaseHandle, warn_of_unit
from dlock._loop import LoopState, current
from dlock._native import AsyncLease
from dlock._options import Seconds
from dlock.errors import LockError, LockLost


class Lease(LeaseHandle, AsyncLease):
    """One grant of a lock. `async with lease` releases it at the end of the body.

    In asyncio, the loss of the lease cancels the body, as `asyncio.timeout()` does, and the body ends in `LockLost`.
    """

    __slots__ = ("_body", "_cancelled", "_cancelling", "_number", "_state")

    # The native part sets these at each grant.
    _state: LoopState | None  # of the loop that watches for a loss
    _number: int
    _body: weakref.ref[Task[Any]] | None  # the task to cancel; weak, because a loop that was interrupted may lose its tasks
    _cancelled: bool
    _cancelling: int

    async def extend(self, ttl: Seconds) -> None:
        """Makes the lease end `ttl` from now; later renewals use this `ttl` too.

        Raises `LockLost` or `NotHeld` if the lease has ended, `BackendUnavailable` if no answer came.

        In asyncio, the request goes on when the caller is cancelled.
        """
        warn_of_unit(ttl)
        await current().run(self._extend, ttl)

    async def wait_lost(self) -> str:
        """Waits until the lease is lost, and returns the reason. It never returns if the lease is released."""
        reason: str = await current().run(self._wait_lost)
        return reason

    def _enter(self, state: LoopState, task: Task[Any] | None, watched: bool) -> None:
        """Begins a body: from here on a loss cancels the running task. `watched`: the engine already reports it to this loop."""
        if self._body is not None:
            raise LockError(f'lock "{self.key}": the body of this lease has already begun', code="ALREADY_ENTERED", key=self.key)
        if task is None:
            raise LockError("async with: there is no current task", code="NO_TASK", key=self.key)
        self._body = weakref.ref(task)
        if self._on_lost != "cancel":
            return
        self._cancelling = task.cancelling()
        self._state = state
        if not watched:
            self._number = state.next_number()
            self._watch(state.completions, self._number)
        state.watch(self._number, self)

    def _on_loss(self) -> None:
        """Cancels the body. The loop calls this, never the task itself."""
        if self._body is not None and not self._cancelled and (body := self._body()) is not None:
            self._cancelled = True
            body.cancel()

    async def _end_body(
        self, kind: type[BaseException] | None, error: BaseException | None, loss: LockLost | None, answer: Future[bool] | None
    ) -> None:
        """Awaits the release that has begun, and raises what the end of the body means. Nothing cancels the task from here on."""
        body, self._body = self._body() if self._body is not None else None, None
        cancelled, self._cancelled = self._cancelled, False
        # If somebody else cancelled the task too, it must end: that wins.
        by_others = cancelled and body is not None and body.uncancel() > self._cancelling
        by_us = cancelled and not by_others
        if answer is not None:
            await answer
        if loss is None or self._on_lost == "ignore":
            return
        if kind is None or (by_us and issubclass(kind, CancelledError)):
            raise loss from error

    async def _end_inner_body(
        self, kind: type[BaseException] | None, error: BaseException | None, loss: LockLost | None, answer: Future[bool] | None
    ) -> None:
        """Ends a body inside another one of the same lease. Only the outermost explains a cancellation."""
        if answer is not None:
            await answer
        if loss is not None and kind is None and self._on_lost != "ignore":
            raise loss from error

    def _body_never_began(self) -> None:
        self._body = None
        self._unwatch()

    def _unwatch(self) -> None:
        if self._state is not None:
            self._state.unwatch(self._number)
            self._state = None
