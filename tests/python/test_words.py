"""Words of other lock libraries: each is refused, and the error names ours."""

import asyncio
import warnings
from datetime import timedelta
from typing import Any

import pytest

import dlock
from dlock import sync

CLIENTS = (dlock.Client("memory:"), sync.Client("memory:"))
OF_LOCK = {
    "timeout": "ttl=",
    "expire": "ttl=",
    "lock_timeout": "ttl=",
    "auto_release_time": "ttl=",
    "lease_time": "ttl=",
    "leaseTime": "ttl=",
    "blocking_timeout": "wait=",
    "blocking": "wait=0",
    "sleep": "nobody polls",
    "poll_interval": "nobody polls",
    "thread_local": "any thread may release",
    "auto_renewal": "renew=False",
    "retry_times": "retry=",
    "num_extensions": "max_hold=",
}


@pytest.mark.parametrize(("word", "ours"), OF_LOCK.items())
def test_a_word_of_another_library_is_answered_with_ours(word: str, ours: str) -> None:
    options: dict[str, Any] = {word: 30}
    for client in CLIENTS:
        for make in (client.lock, client.locked):
            with pytest.raises(TypeError) as refused:
                make("k", **options)
            assert f"got an unexpected keyword argument {word!r}" in str(refused.value)
            assert ours in str(refused.value)
    for function in (dlock.lock, sync.lock, dlock.locked, sync.locked):
        with pytest.raises(TypeError, match=word):
            function("k", **options)
    with pytest.raises(TypeError, match=word):
        sync.with_lock("k", lambda lease: lease, **options)


@pytest.mark.parametrize(
    ("word", "ours"),
    [
        ("blocking_timeout", "wait="),
        ("timeout", "wait="),
        ("blocking", "wait=0"),
        ("blocking", "try_acquire"),
        ("sleep", "nobody polls"),
        ("token", "lease.token"),
        ("ttl", "client.lock(key, ttl=...)"),
        ("expire", "ttl="),
        ("lease_time", "ttl="),
    ],
)
def test_a_word_of_another_library_at_acquire_is_answered_with_ours(word: str, ours: str) -> None:
    options: Any = {word: 5}
    with pytest.raises(TypeError) as refused:
        sync.Client("memory:").lock("k").acquire(**options)
    with pytest.raises(TypeError) as refused_soon:
        asyncio.run(dlock.Client("memory:").lock("k").acquire(**options))
    for error in (refused, refused_soon):
        assert f"acquire() got an unexpected keyword argument {word!r}" in str(error.value)
        assert ours in str(error.value)


@pytest.mark.parametrize(
    ("word", "ours"), [("host", "url"), ("timeout", "op_timeout="), ("prefix", "namespace="), ("ttl", "lock(key, ttl=")]
)
def test_a_word_of_another_librarys_client_is_answered_with_ours(word: str, ours: str) -> None:
    options: Any = {word: 5}
    for make in (dlock.Client, sync.Client, sync.connect, dlock.configure):
        with pytest.raises(TypeError) as refused:
            make("memory:", **options)
        assert ours in str(refused.value)


def test_a_word_that_is_nobodys_is_compared_with_ours() -> None:
    with pytest.raises(TypeError, match=r"'tll': did you mean ttl=\?"):
        sync.Client("memory:").lock("k", tll=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="'colour': it takes fair, "):
        sync.Client("memory:").lock("k", colour=3)  # type: ignore[call-arg]


@pytest.mark.parametrize("client", CLIENTS, ids=["asyncio", "sync"])
def test_r15_a_ttl_of_none_is_refused(client: Any) -> None:
    for make in (client.lock, client.locked):
        with pytest.raises(dlock.InvalidOptions, match=r"^ttl: None is not valid") as refused:
            make("k", ttl=None)
        assert refused.value.field == "ttl"


@pytest.mark.parametrize("ttl", [30_000, 30_000.0, 1_000, 5_000, 60_000])
def test_a_ttl_that_looks_like_milliseconds_is_asked_about(ttl: float) -> None:
    question = rf"ttl: {ttl:.0f} is in s, .*did you mean {ttl / 1000:g}\?"
    for client in CLIENTS:
        with pytest.warns(RuntimeWarning, match=question) as warned:
            client.lock("k", ttl=ttl)
        assert warned[0].filename == __file__
    with sync.Client("memory:").lock("k") as lease, pytest.warns(RuntimeWarning, match=question):
        lease.extend(ttl)


def test_r15_a_ttl_over_the_limit_that_would_do_as_milliseconds_is_asked_about() -> None:
    for client in CLIENTS:
        with pytest.raises(dlock.InvalidOptions, match=r"^ttl: 90000 s is not valid: .*did you mean 90\?"):
            client.lock("k", ttl=90_000)
        with pytest.raises(dlock.InvalidOptions, match=r"86400 s$"):
            client.lock("k", ttl=timedelta(days=2))


@pytest.mark.parametrize("ttl", [0.5, 30, 900, 1_800, 3_600, 36_000, 43_200, 86_400, timedelta(seconds=30_000)])
def test_a_ttl_that_is_meant_so_is_not_asked_about(ttl: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for client in CLIENTS:
            client.lock("k", ttl=ttl)
