"""Rule 14: a signal begins a drain where the program asked for it. What both faces do under load is in the behaviour suite."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import dlock
from dlock import sync

# A body that ends when its stdin does.
SYNC = """
import signal, sys, dlock
from dlock import sync
url, key = sys.argv[1:]
client = sync.Client(url)
{before}
client.close_on_signal({timeout})
with client.lock(key, ttl={ttl}):
    print("held", flush=True)
    sys.stdin.read()
    assert client.stats().held == 1 and not sum(client.stats().lost.values())
{after}
"""

ASYNC = """
import asyncio, signal, sys, dlock
url, key = sys.argv[1:]
async def main():
    client = dlock.Client(url)
    client.close_on_signal(20)
    async with client.lock(key, ttl={ttl}):
        print("held", flush=True)
        await asyncio.to_thread(sys.stdin.read)
    await asyncio.Event().wait()
{loop}
asyncio.run(main())
"""


@pytest.fixture(params=["local", "redis", "etcd"])
def shared_url(request: pytest.FixtureRequest) -> str:
    return "local:" if request.param == "local" else request.getfixturevalue(f"{request.param}_server").url


@pytest.fixture
def ttl(shared_url: str) -> float:
    return 2.0 if shared_url.startswith("etcd") else 0.3


@contextmanager
def running(program: str, url: str, key: str) -> Iterator[subprocess.Popen[str]]:
    words = [sys.executable, "-c", program, url, key]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def drains(process: subprocess.Popen[str], url: str, key: str, ttl: float) -> tuple[int, str]:
    """The key stays the process's own for two TTLs; its body ends then, and so does the process."""
    with sync.Client(url) as client:
        enough = time.monotonic() + 2 * ttl
        while time.monotonic() < enough:
            assert client.is_locked(key)
        _, said = process.communicate(timeout=10)
        assert not client.is_locked(key)
    return process.returncode, said


def test_r14_a_signal_drains_a_program_without_an_event_loop(shared_url: str, key: str, ttl: float) -> None:
    before = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))"
    after = "import time; time.sleep(20)"
    with running(SYNC.format(before=before, timeout=20, ttl=ttl, after=after), shared_url, key) as process:
        process.send_signal(signal.SIGTERM)
        code, said = drains(process, shared_url, key, ttl)
    assert (code, said) == (7, ""), "the handler that was there before comes after the drain"


def test_r14_ctrl_c_drains_and_then_is_what_it_was(shared_url: str, key: str, ttl: float) -> None:
    with running(ASYNC.format(loop="", ttl=ttl), shared_url, key) as process:
        process.send_signal(signal.SIGINT)
        code, said = drains(process, shared_url, key, ttl)
    assert (code, said.splitlines()[-1]) == (-signal.SIGINT, "KeyboardInterrupt")


def test_r14_a_signal_drains_on_uvloop(key: str) -> None:
    loop = "import uvloop; uvloop.install()"
    with running(ASYNC.format(loop=loop, ttl=0.3), "local:", key) as process:
        process.send_signal(signal.SIGTERM)
        assert drains(process, "local:", key, 0.3)[0] == -signal.SIGTERM


def test_a_second_signal_does_not_wait(key: str) -> None:
    with running(SYNC.format(before="", timeout=60, ttl=30, after=""), "local:", key) as process:
        process.send_signal(signal.SIGTERM)
        time_is_up = time.monotonic() + 10
        while process.poll() is None and time.monotonic() < time_is_up:
            process.send_signal(signal.SIGTERM)
            time.sleep(0.01)
        assert process.wait(5) == -signal.SIGTERM


def test_r13_a_forked_child_has_nothing_to_drain(key: str) -> None:
    client = sync.Client("local:")
    end = client.close_on_signal(60)
    try:
        with client.lock(key):
            ready, told = os.pipe()
            child = os.fork()
            if child == 0:
                os.write(told, b"!")
                time.sleep(60)
                os._exit(3)
            os.read(ready, 1)
            os.kill(child, signal.SIGTERM)
            _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGTERM
        client.ping()
    finally:
        end()
        client.close()


def test_what_was_there_before_is_put_back() -> None:
    client = dlock.Client("memory:")
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
    client.close_on_signal(5)()
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    client.close_on_signal(5, [signal.SIGUSR1])
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN, "what is ignored stays ignored"
    with pytest.raises(OSError, match="Invalid"):
        client.close_on_signal(5, [signal.SIGTERM, signal.SIGKILL])
    signal.signal(signal.SIGUSR1, before[2])
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)] == before
    failed: list[ValueError] = []

    def elsewhere() -> None:
        try:
            client.close_on_signal(5)
        except ValueError as error:
            failed.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert len(failed) == 1, "only the main thread has signals"
