"""Rule 14: at exit what is held is released; no panic, no hang, no signal handler."""

import subprocess
import sys
import time

import pytest

import dlock

HELD = """
import asyncio, sys, dlock
url, key = sys.argv[1:]
client = dlock.Client(url)
async def main():
    global lease, waiting
    lock = client.lock(key, ttl=30)
    lease = await lock.acquire()
    waiting = [asyncio.ensure_future(client.lock(key, ttl=30).acquire()) for _ in range(10)]
    await asyncio.sleep(0.05)
    {end}
{run}
"""

ENDS = {
    "return": ("return", "asyncio.run(main())"),
    "sys.exit": ("sys.exit(0)", "try:\n    asyncio.run(main())\nexcept SystemExit: pass"),
    "loop left open": ("pass", "loop = asyncio.new_event_loop()\nloop.run_until_complete(main())"),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("scheme", ["local", "redis", "etcd"])
def test_r14_exit_with_leases_held_and_calls_in_flight(scheme: str, end: str, key: str, request: pytest.FixtureRequest) -> None:
    url = "local:" if scheme == "local" else request.getfixturevalue(f"{scheme}_server").url
    leave, run = ENDS[end]
    started = time.monotonic()
    program = HELD.format(end=leave, run=run)
    done = subprocess.run([sys.executable, "-c", program, url, key], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr
    assert "panic" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert time.monotonic() - started < 5
    with dlock.sync.Client(url) as client:
        found = client.inspect(key)
        assert (found.holder, found.queue) == (None, [])


THREADS = """
import sys, threading, dlock.sync
client = dlock.sync.Client(sys.argv[1])
held = client.lock(sys.argv[2], ttl=30).acquire()
blocked = threading.Thread(target=lambda: client.lock(sys.argv[2]).acquire(), daemon=True)
blocked.start()
import signal
assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
"""


def test_r14_exit_with_a_thread_blocked_in_a_call(url: str, key: str) -> None:
    done = subprocess.run([sys.executable, "-c", THREADS, url, key], capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    with dlock.sync.Client(url) as client:
        assert not client.is_locked(key)
