"""Lets a signal handler raise at random instants while a lock is taken and released: `interrupted.py FACE URL INTERRUPTS`.

Job queues do so when a job's time is over, and Ctrl-C does. Whatever it hits, the key must be free afterwards. Prints how many
interrupts came inside a call of the lock, and fails where a lease was left behind.
"""

import asyncio
import gc
import random
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from traceback import walk_tb
from types import FrameType
from typing import Any

import dlock
from dlock import sync

FACE, URL, INTERRUPTS = sys.argv[1], sys.argv[2], int(sys.argv[3])
KEY = f"interrupted-{FACE}"
DEADLINE = 10.0
AGAIN = 0.5
HERE = Path(__file__).read_text().splitlines()
PACKAGE = str(Path(dlock.__file__).parent)

unraisable: list[Any] = []


def note(raised: Any) -> None:
    """What was raised to nobody in our code. Callbacks of the library's own weak references are interrupted too."""
    value = raised.exc_value
    ours = "dlock" in repr(raised.object) or any(
        frame.f_code.co_filename.startswith(PACKAGE) for frame, _ in walk_tb(value.__traceback__)
    )
    # A task that the loop itself has lost cannot await anything while it is closed.
    if ours and getattr(value, "code", "") != "NO_EVENT_LOOP" and "ignored GeneratorExit" not in str(value):
        unraisable.append((value, raised.object))


sys.unraisablehook = note


def is_inside(frame: FrameType | None) -> bool:
    """Native code has no frame: the line that calls it says `lock's`."""
    while frame is not None:
        if frame.f_code.co_filename.startswith(PACKAGE):
            return True
        if frame.f_code.co_filename == __file__ and "# the lock's" in HERE[frame.f_lineno - 1]:
            return True
        frame = frame.f_back
    return False


class Alarm:
    """Raises once, at a random instant."""

    def __init__(self) -> None:
        self.armed: type[BaseException] | None = None
        self.inside = 0
        signal.signal(signal.SIGALRM, self._ring)

    def _ring(self, _signal: int, frame: FrameType | None) -> None:
        if self.armed is not None:
            self.inside += is_inside(frame)
            kind, self.armed = self.armed, None
            raise kind("the job's time is over")
        if FACE == "async":
            # Somebody presses Ctrl-C again: the loop itself was interrupted, and lost one of its tasks.
            raise KeyboardInterrupt

    def arm(self, kind: type[BaseException], longest: float) -> None:
        self.armed = kind
        signal.setitimer(signal.ITIMER_REAL, random.random() * longest + 1e-5, AGAIN if FACE == "async" else 0)

    def disarm(self) -> None:
        self.armed = None
        signal.setitimer(signal.ITIMER_REAL, 0)


alarm = Alarm()


def plain(lock: sync.Lock) -> None:
    with lock:  # the lock's
        pass


def acquired(take: Callable[[], sync.Lease | None]) -> None:
    lease = None
    releasing = False
    try:
        lease = take()  # the lock's
        if lease is not None:
            releasing = True
            lease.release()  # the lock's
    except TimeoutError:
        # One interrupt a turn. That of a release comes when it has begun.
        if lease is not None and not releasing:
            lease.release()
        raise


def held_by_itself(lock: sync.Lock) -> None:
    with lock.acquire():  # the lock's
        pass


def twice(lock: sync.Lock) -> None:
    with lock, lock:  # the lock's
        pass


def stacked(lock: sync.Lock) -> None:
    with ExitStack() as stack:
        stack.enter_context(lock)  # the lock's


def leftovers(client: sync.Client | dlock.Client, locks: list[Any]) -> None:
    """Fails unless all has been released, at once or as soon as the backend has answered."""
    deadline = time.monotonic() + DEADLINE
    while client.stats().held or other.is_locked(KEY):
        if time.monotonic() > deadline:
            sys.exit(f"held after the interrupt {client.stats().held}, the key is locked: {other.is_locked(KEY)}")
        # A task that the loop itself has lost ends when it is collected.
        gc.collect()
        time.sleep(0.0005)
    if entered := [lock._entered for lock in locks if lock._entered]:
        sys.exit(f"still entered: {entered}")
    if unraisable:
        sys.exit(f"raised to nobody: {unraisable}")


def repeat(work: Callable[[], object], longest: float) -> None:
    alarm.arm(TimeoutError, longest)
    while alarm.armed is not None:
        work()


def interrupt_sync() -> None:
    client = sync.Client(URL)
    lock = client.lock(KEY, wait=DEADLINE)
    reentrant = client.lock(KEY, wait=DEADLINE, reentrant=True)
    decorated = client.locked(KEY, wait=DEADLINE)(lambda: None)
    works: list[Callable[[], object]] = [
        lambda: plain(lock),
        lambda: acquired(lock.acquire),
        lambda: acquired(lock.try_acquire),
        lambda: held_by_itself(lock),
        lambda: lock.with_lock(lambda _: None),
        lambda: twice(reentrant),
        lambda: stacked(lock),
        decorated,
    ]
    longest = pair(lambda: plain(lock)) * 4
    for turn in range(INTERRUPTS):
        work = works[turn % len(works)]
        with suppress(TimeoutError):
            repeat(work, longest)
        alarm.disarm()
        leftovers(client, [lock, reentrant])
        with lock:
            pass
    client.close()


def interrupt_async() -> None:
    client = dlock.Client(URL)
    lock = client.lock(KEY, wait=DEADLINE)
    reentrant = client.lock(KEY, wait=DEADLINE, reentrant=True)

    async def entered() -> None:
        async with lock:  # the lock's
            pass

    async def acquired() -> None:
        lease = None
        releasing = False
        try:
            lease = await lock.acquire()  # the lock's
            releasing = True
            await lease.release()  # the lock's
        except BaseException:
            if lease is not None and not releasing:
                await lease.release()
            raise

    async def twice() -> None:
        async with reentrant, reentrant:  # the lock's
            pass

    async def awaited(_: dlock.Lease) -> None:
        await asyncio.sleep(0)

    async def with_lock() -> None:
        await lock.with_lock(awaited)

    @client.locked(KEY, wait=DEADLINE)
    async def decorated() -> None:
        await asyncio.sleep(0)

    works = [entered, acquired, twice, with_lock, decorated]

    async def main(work: Callable[[], Any], kind: type[BaseException], longest: float) -> None:
        await work()
        alarm.arm(kind, longest)
        while alarm.armed is not None:
            await work()

    longest = pair(lambda: asyncio.run(entered())) * 2
    for turn in range(INTERRUPTS):
        kind = (KeyboardInterrupt, TimeoutError)[turn // len(works) % 2]
        work = works[turn % len(works)]
        with suppress(KeyboardInterrupt, TimeoutError):
            asyncio.run(main(work, kind, longest))
        alarm.disarm()
        leftovers(client, [lock, reentrant])
        asyncio.run(entered())
    asyncio.run(client.close())


def pair(work: Callable[[], object]) -> float:
    """What taking the key and releasing it takes, in seconds."""
    work()
    started = time.perf_counter()
    for _ in range(10):
        work()
    return (time.perf_counter() - started) / 10


other = sync.Client(URL)
random.seed(15)
interrupt_sync() if FACE == "sync" else interrupt_async()
assert not unraisable, unraisable
print(alarm.inside)
