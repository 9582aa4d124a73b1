"""A program whose engine stops, since it closes descriptors of the engine: `stopped.py FACE URL WHAT`. It prints JSON.

FACE is `blocking`, `awaiting` or `releasing`. WHAT is closed: `pollers`, `wakers` (what wakes them), `both`, or `both-unasked`:
then nobody asks for anything afterwards.
"""

import asyncio
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import dlock

# Short, so that the engine has something to do soon.
TTL = 2.0
# What the caller of each ended in, and after how long.
told: dict[str, list[Any]] = {}


def note(name: str, outcome: object, since: float) -> None:
    told[name] = [outcome if isinstance(outcome, bool | str) else type(outcome).__name__, time.monotonic() - since]


def pollers() -> set[str]:
    """The descriptors that event loops of this process poll with: asyncio's, and those of the engine."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            found |= {fd} if os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:[eventpoll]" else set()
        except OSError:
            continue  # that of the listing itself
    return found


def wakers(poller: str) -> set[str]:
    """What wakes the event loop that polls with this descriptor."""
    with open(f"/proc/self/fdinfo/{poller}", encoding="ascii") as info:
        polled = [line.split()[1] for line in info if line.startswith("tfd:")]
    return {fd for fd in polled if os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:[eventfd]"}


def call(name: str, do: Callable[[], object]) -> None:
    """Notes what comes of a call; of several with one name, the last counts."""
    since = time.monotonic()
    try:
        note(name, do(), since)
    except Exception as error:
        note(name, error, since)


def until(test: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not test():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.005)


def finder_url(url: str) -> str:
    """Where calls that find out about the stop acquire. Files of `local:` could take the numbers of descriptors that were closed,
    and a wake that goes to a file tells nobody.
    """
    return "memory:" if url.startswith("local") else url


def other_keys() -> Iterator[str]:
    """A key for each call: one that was granted before the stop stays held until its TTL is over."""
    return (f"other {os.getpid()} {number}" for number in itertools.count())


def blocking(url: str, what: str, close: Callable[[], None]) -> None:
    client = dlock.sync.Client(url, namespace=f"blocking-{what}")
    held = client.lock("held", ttl=TTL).acquire()
    waiters = [
        threading.Thread(target=call, args=(f"waiter {number}", lambda: client.lock("held", wait=None).acquire()), daemon=True)
        for number in range(3)
    ]
    loss = threading.Thread(target=call, args=("loss", held.wait_lost), daemon=True)
    for thread in [*waiters, loss]:
        thread.start()
    until(lambda: client.stats().waiting == 3)
    close()
    if what != "both-unasked":
        # Whoever wakes the thread finds out. A call that comes while it is awake, or that needs no engine, does not wake it.
        finder, keys = dlock.sync.Client(finder_url(url)), other_keys()
        until(lambda: call("finder", lambda: finder.lock(next(keys)).acquire()) or "waiter 0" in told)
    for thread in waiters:
        thread.join(20)
    # The leases ended before anybody was answered.
    told["valid"] = [held.valid, 0]
    loss.join(20)
    call("release", held.release)
    call("next", lambda: client.lock("next").acquire().release())
    if not url.startswith(("redis", "etcd")):
        # Nobody else ends what these backends keep.
        call("again", lambda: client.lock("held", wait=10).acquire().release())
    call("close", client.close)
    call("closed", lambda: client.lock("next").acquire())


def releasing(url: str, what: str, close: Callable[[], None]) -> None:
    """Releases while nobody knows yet that the engine has stopped."""
    client = dlock.sync.Client(url, namespace=f"releasing-{what}")
    held = client.lock("held", ttl=60).acquire()
    close()
    time.sleep(0.02)
    if what == "pollers":
        # Wakes the thread, which then ends.
        threading.Thread(target=call, args=("finder", lambda: client.lock("other").acquire()), daemon=True).start()
        until(lambda: "finder" in told)
    call("release", held.release)
    told["status"] = [held.status, 0]

    def again() -> bool:
        return client.lock("held", wait=10).acquire().release()

    call("again", again)
    if told["release"][0] is True and told["again"][0] == "BackendUnavailable":
        # The thread was awake and has released. It was the call after that which found out.
        call("again", again)


async def awaiting(url: str, what: str, close: Callable[[], None]) -> None:
    client = dlock.Client(url, namespace=f"awaiting-{what}")
    held = await client.lock("held", ttl=TTL).acquire()

    async def ask(name: str, awaitable: Any) -> None:
        since = time.monotonic()
        try:
            note(name, await awaitable, since)
        except Exception as error:
            note(name, error, since)

    waiters = [asyncio.create_task(ask(f"waiter {number}", client.lock("held", wait=None).acquire())) for number in range(3)]
    loss = asyncio.create_task(ask("loss", held.wait_lost()))
    while client.stats().waiting < 3:  # noqa: ASYNC110 - nothing tells of it
        await asyncio.sleep(0.005)
    close()
    if what != "both-unasked":
        finder, keys = dlock.Client(finder_url(url)), other_keys()
        while "waiter 0" not in told:
            await asyncio.sleep(0.005)
            await ask("finder", finder.lock(next(keys)).acquire())
    await asyncio.wait_for(asyncio.gather(*waiters), 20)
    # The leases ended before anybody was answered.
    told["valid"] = [held.valid, 0]
    await asyncio.wait_for(loss, 20)
    await ask("release", held.release())

    async def pair(name: str) -> bool:
        return await (await client.lock(name, wait=10).acquire()).release()

    await ask("next", pair("next"))
    if not url.startswith(("redis", "etcd")):
        await ask("again", pair("held"))
    await ask("close", client.close())
    await ask("closed", client.lock("next").acquire())


def main() -> None:
    face, url, what = sys.argv[1:]
    before: set[str] = set()

    def close() -> None:
        found = pollers() - before
        closed = set() if what == "wakers" else set(found)
        if what != "pollers":
            closed |= {fd for poller in found for fd in wakers(poller)}
        for fd in closed:
            os.close(int(fd))

    if face != "awaiting":
        before = pollers()
        {"blocking": blocking, "releasing": releasing}[face](url, what, close)
    else:

        async def run() -> None:
            nonlocal before
            before = pollers()
            await awaiting(url, what, close)

        asyncio.run(run())
    print(json.dumps(told))


main()
