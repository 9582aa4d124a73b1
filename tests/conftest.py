"""Fixtures that every suite in Python shares."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from services import EtcdServer, RedisServer


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One server for all tests that neither kill nor flush it; use keys of your own."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def etcd_server() -> Iterator[EtcdServer]:
    """One server for all tests that do not kill it; use keys of your own."""
    with EtcdServer() as server:
        yield server


@pytest.fixture
def private_redis() -> Iterator[RedisServer]:
    """A server that the test may freeze, kill or flush."""
    with RedisServer() as server:
        yield server


@pytest.fixture(autouse=True)
def _private_lock_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test meets lock files or a server that the user has configured."""
    monkeypatch.setenv("DLOCK_DIR", str(tmp_path / "locks"))
    for variable in ("DLOCK_URL", "DLOCK_REQUIRE_URL"):
        if variable in os.environ:
            monkeypatch.delenv(variable)
