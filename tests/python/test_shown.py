"""What people get to see: `repr`, log lines, and the lines that warnings point at."""

import asyncio
import logging
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest

import dlock
from dlock import sync


def test_r18_reprs_show_key_token_and_state_but_no_password(key: str) -> None:
    client = dlock.Client("redis://me:geheim@127.0.0.1:1?db=1")
    assert repr(client) == "<dlock.Client redis://127.0.0.1:1/1>"
    assert repr(sync.Client("redis://:geheim@h/3")) == "<dlock.sync.Client redis://h:6379/3>"
    assert repr(client.lock(key)) == f"<dlock.Lock '{key}'>"

    async def main() -> None:
        async with dlock.Client("memory:").lock(key) as lease:
            assert repr(lease) == f"<dlock.Lease '{key}' token={lease.token} held>"
        assert repr(lease) == f"<dlock.Lease '{key}' token={lease.token} released>"

    asyncio.run(main())
    with sync.Client("memory:").lock(key, max_hold=0.05, on_lost="ignore") as lease:
        assert repr(lease) == f"<dlock.sync.Lease '{key}' token={lease.token} held>"
        lease.wait_lost()
        assert repr(lease) == f"<dlock.sync.Lease '{key}' token={lease.token} lost>"


def test_r13_a_repr_works_in_a_forked_child(key: str) -> None:
    with sync.Client("memory:").lock(key) as lease:
        child = os.fork()
        if child == 0:
            os._exit(0 if repr(lease) == f"<dlock.sync.Lease '{key}' token={lease.token} of the parent process>" else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_local_that_nobody_asked_for_is_logged(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level(logging.INFO, "dlock")
    dlock.Client("local:")
    monkeypatch.setenv("DLOCK_URL", "memory:named")
    dlock.Client()
    assert not caplog.records
    monkeypatch.delenv("DLOCK_URL")
    for face in (dlock, sync):
        caplog.clear()
        face.Client()
        (record,) = caplog.records
        assert (record.name, record.levelno) == ("dlock", logging.INFO)
        assert "DLOCK_URL" in record.message
        assert "local:" in record.message


def lines_warned_of(call: Callable[[], Any]) -> list[tuple[str, int]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [(warning.filename, warning.lineno) for warning in caught]


def test_a_blocked_loop_is_warned_of_at_the_users_line(key: str) -> None:
    async def main() -> None:
        client = sync.Client("memory:")
        lock = client.lock(key)
        held: list[sync.Lease] = []

        def with_body() -> None:
            with lock:
                pass

        calls: list[tuple[Callable[[], Any], int]] = [
            (lambda: client.list_locks(key), 1),
            (lambda: client.is_locked(key), 1),
            (lambda: held.append(lock.acquire()), 1),
            (lambda: held.pop().release(), 1),
            (lambda: client.with_lock(key, print), 2),
        ]
        for call, warned in calls:
            assert lines_warned_of(call) == [(__file__, call.__code__.co_firstlineno)] * warned
        body = with_body.__code__.co_firstlineno + 1
        assert lines_warned_of(with_body) == [(__file__, body)] * 2

    asyncio.run(main())


def test_r16_a_wait_for_oneself_is_warned_of_at_the_users_line(key: str) -> None:
    def line() -> int:
        return sys._getframe(1).f_lineno

    async def main() -> None:
        client = dlock.Client("memory:")
        async with client.lock(key):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                with pytest.raises(dlock.AcquireTimeout):
                    await client.with_lock(key, print, wait=0.01)
                expected = line() - 1
            assert [(warning.filename, warning.lineno) for warning in caught] == [(__file__, expected)]

    asyncio.run(main())
    with sync.Client("memory:") as client, client.lock(key), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(dlock.AcquireTimeout):
            client.with_lock(key, print, wait=0.01)
        expected = line() - 1
    assert [(warning.filename, warning.lineno) for warning in caught] == [(__file__, expected)]
