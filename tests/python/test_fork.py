"""Rule 13: a child never uses its parent's leases, and a new client in it works."""

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable

import pytest

import dlock
from polling import until


def in_child(work: Callable[[], None]) -> None:
    """Runs `work` in a forked child; an error there is an error here."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    deadline = time.monotonic() + 20
    status = (0, 0)
    while status[0] == 0 and time.monotonic() < deadline:
        status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.005)
    if status[0] == 0:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert status == (child, 0), "the child hung or failed"


def test_r13_inherited_handles_raise_forked_error(url: str, key: str) -> None:
    client = dlock.sync.Client(url)
    lock = client.lock(key)
    lease = lock.acquire()

    def child() -> None:
        assert not lease.valid
        assert (lease.key, lease.token > 0) == (key, True)
        uses = [lease.check, lease.release, lock.acquire, lock.try_acquire, client.ping, client.close, lambda: client.inspect(key)]
        for use in uses:
            with pytest.raises(dlock.ForkedError, match="make a new Client"):
                use()

        async def asynchronously() -> None:
            if not url.startswith("memory"):
                async with dlock.Client(url) as own:
                    assert await own.lock(key).try_acquire() is None
                    assert await own.is_locked(key)

        asyncio.run(asynchronously())

    in_child(child)
    assert lease.valid
    assert lease.release() is True
    client.close()


def test_r13_the_async_handles_of_a_parent(url: str, key: str) -> None:
    client = dlock.Client(url)

    async def main() -> None:
        async with client.lock(key) as lease:
            in_child(lambda: child(lease))
            assert lease.valid
        assert lease.status == "released"
        await client.close()

    def child(lease: dlock.Lease) -> None:
        async def use() -> None:
            with pytest.raises(dlock.ForkedError):
                await lease.release()
            with pytest.raises(dlock.ForkedError):
                async with client.lock(key):
                    pass

        asyncio.set_event_loop(None)
        asyncio.run(use())

    asyncio.run(main())


def test_r13_an_unused_client_and_the_default_client_work_in_the_child(url: str, key: str) -> None:
    unused = dlock.sync.Client(url).lock(key)
    with dlock.sync.lock(key):
        pass

    def child() -> None:
        with unused as lease:
            assert lease.valid
        with dlock.sync.lock(key) as lease:
            assert lease.valid

    in_child(child)


def idle(started: "multiprocessing.synchronize.Event") -> None:
    started.set()
    signal.pause()


def hold_and_fork(key: str, pipe: "multiprocessing.connection.Connection") -> None:
    lease = dlock.sync.Client("local:").lock(key).acquire()
    context = multiprocessing.get_context("fork")
    started = context.Event()
    child = context.Process(target=idle, args=(started,))
    child.start()
    started.wait()
    pipe.send((lease.token, child.pid))
    signal.pause()


def test_r13_a_killed_parents_lock_is_free_at_once_in_spite_of_an_idle_child(key: str) -> None:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    parent = context.Process(target=hold_and_fork, args=(key, theirs))
    parent.start()
    token, idle_child = ours.recv()
    try:
        with dlock.sync.Client("local:") as client:
            lock = client.lock(key)
            assert lock.try_acquire() is None
            assert parent.pid is not None
            os.kill(parent.pid, signal.SIGKILL)
            killed = time.monotonic()
            with client.lock(key, wait=5) as lease:
                assert time.monotonic() - killed < 0.1
                assert lease.token > token
    finally:
        os.kill(idle_child, signal.SIGKILL)
        parent.join()


HOLD_AND_FORK_IN_C = """
import ctypes, sys, time
import dlock
lease = dlock.sync.Client("local:").lock(sys.argv[1]).acquire()
libc = ctypes.CDLL(None)
if (child := libc.fork()) == 0:
    libc.sleep(20)
    libc._exit(0)
print(lease.token, child, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("waited_for", [True, False])
def test_r13_a_fork_in_c_does_not_keep_a_killed_parents_lock(key: str, waited_for: bool) -> None:
    arguments = [sys.executable, "-c", HOLD_AND_FORK_IN_C, key]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as parent, dlock.sync.Client("local:") as client:
        assert parent.stdout is not None
        token, child = map(int, parent.stdout.readline().split())
        try:
            lock = client.lock(key, wait=5)
            assert client.is_locked(key)
            waiting = threading.Thread(target=lambda: taken.append((lock.acquire(), time.monotonic())))
            taken: list[tuple[dlock.sync.Lease, float]] = []
            if waited_for:
                waiting.start()
                until(lambda: client.stats().waiting == 1, "it waits")
            parent.kill()
            killed = time.monotonic()
            if not waited_for:
                parent.wait()
                assert not client.is_locked(key)
                waiting.start()
            waiting.join()
            [(lease, at)] = taken
            assert at - killed < 1
            assert lease.token > token
            os.kill(child, signal.SIGKILL)
            assert client.is_locked(key)
            assert lease.release()
        finally:
            os.kill(child, signal.SIGKILL)


def test_r13_importing_and_making_a_client_start_no_thread() -> None:
    code = "import dlock, os; dlock.Client('memory:').lock('k'); assert len(os.listdir('/proc/self/task')) == 1"
    until(lambda: True, "imports")
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code]) == 0


def test_r13_a_child_that_closes_every_descriptor_locks(url: str, key: str) -> None:
    """As daemons do. With the command line's features of tokio built into the extension it could not."""
    if url.startswith("memory"):
        url = "memory:"
    dlock.sync.Client(url).lock(f"{key} before").acquire().release()

    def child() -> None:
        os.closerange(3, 4096)
        with dlock.sync.Client(url).lock(key, wait=5):
            pass

    in_child(child)


def test_r13_a_child_that_closes_everything_takes_no_lease_of_its_parent(url: str, key: str) -> None:
    """It cannot wake its copy of the parent's engine. That does not mean that the engine has stopped."""

    async def main() -> None:
        client = dlock.Client(url)
        held = await client.lock(key, ttl=30).acquire()
        waiter = client.lock(key, wait=None).acquire()
        waiting = asyncio.ensure_future(waiter)
        while client.stats().waiting == 0:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.005)

        def child() -> None:
            os.closerange(3, 4096)
            # What the parent waits for is dropped here, and with it the call.
            waiter.close()
            time.sleep(1)

        in_child(child)
        waiting.cancel()
        async with dlock.Client(url) as other:
            assert url.startswith("memory") or await other.lock(key).try_acquire() is None
        assert held.valid
        assert await held.release()

    asyncio.run(main())


def test_a_fork_that_takes_long_while_another_thread_locks_ends() -> None:
    program = """if True:
        import os, time
        # Registered before dlock's own hooks, so it runs while those keep the lock files from being used.
        os.register_at_fork(before=lambda: time.sleep(0.02), after_in_parent=lambda: time.sleep(0.02))
        import threading
        import dlock.sync
        client = dlock.sync.Client("local:", namespace=f"fork-{os.getpid()}")
        with client.lock("k"):
            pass
        ended = threading.Event()

        def pairs():
            while not ended.is_set():
                with client.lock("k"):
                    pass

        thread = threading.Thread(target=pairs)
        thread.start()
        for _ in range(20):
            if (child := os.fork()) == 0:
                os._exit(0)
            os.waitpid(child, 0)
        ended.set()
        thread.join(10)
        print(thread.is_alive())
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"
