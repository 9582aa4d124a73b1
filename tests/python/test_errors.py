"""Rules 15, 16 and 18: bad input fails before any I/O, and errors say what happened."""

import asyncio
import copy
import pickle
import time
from datetime import timedelta
from typing import Any

import pytest

import dlock
from services import free_port

NOBODY = "redis://127.0.0.1:1"


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("ttl", {"ttl": 0.01}),
        ("ttl", {"ttl": float("nan")}),
        ("ttl", {"ttl": float("inf")}),
        ("ttl", {"ttl": -1}),
        ("ttl", {"ttl": 100_000}),
        ("ttl", {"ttl": "30"}),
        ("ttl", {"ttl": True}),
        ("ttl", {"ttl": timedelta(days=2)}),
        ("wait", {"wait": -1}),
        ("max_hold", {"max_hold": 0}),
        ("op_timeout", {"op_timeout": 0}),
        ("renewal_threshold", {"renewal_threshold": 1.5}),
        ("metadata", {"metadata": "x" * 5000}),
        ("on_lost", {"on_lost": "panic"}),
    ],
)
def test_r15_bad_options_are_named(field: str, options: dict[str, Any]) -> None:
    for client in (dlock.Client(NOBODY), dlock.sync.Client(NOBODY)):
        with pytest.raises(dlock.InvalidOptions) as bad:
            client.lock("k", **options)
        error = bad.value
        assert isinstance(error, ValueError)
        assert (error.code, error.field) == ("INVALID_OPTIONS", field)
        assert error.value
        assert error.allowed
        assert error.allowed in str(error)


@pytest.mark.parametrize("key", ["", "x" * 513, "a\nb"])
def test_r15_bad_keys_are_named(key: str) -> None:
    with pytest.raises(dlock.InvalidOptions) as bad:
        dlock.Client(NOBODY).lock(key)
    assert bad.value.field == "key"


@pytest.mark.parametrize("url", ["ftp://x", "redis://h/notanumber", "nonsense", "redis://:geheim@h:99999999"])
def test_r15_bad_urls_are_named_without_their_password(url: str) -> None:
    with pytest.raises(dlock.InvalidOptions) as bad:
        dlock.Client(url)
    assert bad.value.field == "url"
    assert "geheim" not in str(bad.value)
    assert "geheim" not in repr(vars(bad.value))


def test_unknown_keywords_are_type_errors() -> None:
    with pytest.raises(TypeError, match="tll"):
        dlock.Client("memory:").lock("k", tll=3)
    with pytest.raises(TypeError, match="tls"):
        dlock.Client("memory:", tls=3)
    with pytest.raises(TypeError):
        dlock.Client("memory:").lock(7)


def test_r16_an_unreachable_server_is_named_in_time() -> None:
    port = free_port()

    async def main() -> None:
        started = time.monotonic()
        with pytest.raises(dlock.BackendUnavailable) as down:
            await dlock.connect(f"redis://:geheim@127.0.0.1:{port}", connect_timeout=0.5)
        assert time.monotonic() - started < 1.5
        error = down.value
        assert isinstance(error, ConnectionError)
        assert f"127.0.0.1:{port}" in str(error)
        assert (error.operation, error.code) == ("connect", "BACKEND_UNAVAILABLE")
        assert error.__cause__ is not None
        assert "geheim" not in f"{error} {error.__dict__} {error.__cause__}"
        assert "geheim" not in repr(dlock.Client(f"redis://:geheim@127.0.0.1:{port}"))

    asyncio.run(main())


def test_errors_can_be_pickled_and_copied() -> None:
    with pytest.raises(dlock.InvalidOptions) as bad:
        dlock.Client("memory:").lock("")
    for twin in (pickle.loads(pickle.dumps(bad.value)), copy.copy(bad.value)):
        assert (type(twin), str(twin), vars(twin)) == (dlock.InvalidOptions, str(bad.value), vars(bad.value))


def test_one_base_catches_all() -> None:
    names = [name for name in dlock.errors.__all__ if name != "LockError"]
    assert all(issubclass(getattr(dlock, name), dlock.LockError) for name in names)
    assert issubclass(dlock.LockBusy, dlock.NotAcquired)
    assert issubclass(dlock.AcquireTimeout, dlock.NotAcquired)
