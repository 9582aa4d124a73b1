"""`dlock.sync`: the same names, blocking."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import dlock
from dlock import sync
from polling import until


def test_with_holds_and_releases(url: str, key: str) -> None:
    with sync.Client(url) as client:
        lock = client.lock(key, ttl=5)
        with lock as lease:
            assert lease.valid
            assert client.is_locked(key)
            assert [held.key for held in client.list_locks(key)] == [key]
            lease.extend(10)
            assert lease.ttl == 10
            with sync.Client(url) as other:
                assert other.lock(key).try_acquire() is None
                with pytest.raises(dlock.AcquireTimeout):
                    other.lock(key).acquire(wait=0.05)
        assert lease.status == "released"
        assert lock.with_lock(lambda lease: lease.token) > lease.token
        with pytest.raises(dlock.NotHeld):
            lock.release()


def test_a_loss_raises_at_check_and_at_the_end(key: str) -> None:
    with sync.Client("memory:") as client:
        with pytest.raises(dlock.LockLost), client.lock(key, max_hold=0.05) as lease:
            assert lease.wait_lost() == "max_hold"
            with pytest.raises(dlock.LockLost):
                lease.check()
        with client.lock(key, max_hold=0.05, on_lost="ignore") as lease:
            lease.wait_lost()
        with pytest.raises(KeyError), client.lock(key, max_hold=0.05) as lease:
            lease.wait_lost()
            raise KeyError
        with pytest.raises(dlock.InvalidOptions, match="on_lost"):
            client.lock(key, on_lost="cancel")


def test_a_lease_is_entered_once(key: str) -> None:
    with dlock.sync.Client("memory:") as client, client.lock(key).acquire() as lease:
        with pytest.raises(dlock.LockError, match="has already begun"), lease:
            pass
        assert lease.valid


def test_threads_take_turns(url: str, key: str) -> None:
    counter = 0
    with sync.Client(url) as client:
        lock = client.lock(key)

        def count() -> None:
            nonlocal counter
            for _ in range(20):
                with lock:
                    seen = counter
                    time.sleep(0.0001)
                    counter = seen + 1

        threads = [threading.Thread(target=count) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert counter == 100


def test_a_blocked_call_lets_other_threads_run(key: str) -> None:
    url = f"memory:{key}"
    with sync.Client(url) as client, sync.Client(url) as other, client.lock(key) as lease:
        waiter = threading.Thread(target=lambda: other.lock(key).acquire().release())
        waiter.start()
        until(lambda: client.inspect(key).queue, "the other thread waits")
        assert lease.release()
        waiter.join()


def test_inside_a_running_loop_there_is_a_warning(key: str) -> None:
    async def main() -> None:
        with pytest.warns(RuntimeWarning, match="blocks the running event loop"):
            sync.Client("memory:").ping()

    asyncio.run(main())


def test_r16_a_thread_that_waits_for_itself_is_warned(key: str) -> None:
    client = sync.Client("memory:")
    with client.lock(key), pytest.warns(RuntimeWarning, match="waiting to acquire it again"), pytest.raises(dlock.AcquireTimeout):
        client.lock(key, wait=0.01).acquire()


BLOCKED = """
import sys, dlock.sync
client = dlock.sync.Client(sys.argv[1])
held = client.lock("ctrl-c").acquire()
print("blocked", flush=True)
try:
    dlock.sync.Client(sys.argv[1]).lock("ctrl-c").acquire()
except KeyboardInterrupt:
    print("interrupted", flush=True)
held.release()
assert not client.inspect("ctrl-c").queue
"""


def test_ctrl_c_answers_within_100_ms() -> None:
    command = [sys.executable, "-W", "error", "-c", BLOCKED, "memory:ctrl-c"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as blocked:
        assert blocked.stdout.readline() == "blocked\n"
        until(lambda: "poll" in wchan(blocked.pid), "the main thread waits")
        started = time.monotonic()
        os.kill(blocked.pid, signal.SIGINT)
        assert blocked.stdout.readline() == "interrupted\n"
        assert time.monotonic() - started < 0.1
    assert blocked.returncode == 0


def wchan(pid: int) -> str:
    """What a process waits for in the kernel."""
    with open(f"/proc/{pid}/syscall") as file:
        return "poll" if file.read().split()[0] in ("7", "271") else ""


PATCHED = """
from gevent import monkey
monkey.patch_all()
import gevent, dlock.sync
client = dlock.sync.Client("memory:")
order = []
def work(number):
    with client.lock("k"):
        order.append(number)
        gevent.sleep(0.01)
        order.append(number)
gevent.joinall([gevent.spawn(work, number) for number in range(5)], raise_error=True, timeout=10)
assert order == [number for number in range(5) for _ in range(2)], order
"""


def test_greenlets_take_turns_under_gevent() -> None:
    subprocess.run([sys.executable, "-c", PATCHED], check=True, timeout=30)
