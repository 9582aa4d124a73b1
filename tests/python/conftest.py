"""What the tests of the Python face share."""

from uuid import uuid4

import pytest


@pytest.fixture(params=["memory", "local", "redis", "etcd"])
def url(request: pytest.FixtureRequest) -> str:
    """One backend after the other, each with nothing in it that another test put there."""
    if request.param in ("redis", "etcd"):
        server: str = request.getfixturevalue(f"{request.param}_server").url
        return server
    return f"memory:{uuid4().hex}" if request.param == "memory" else "local:"


@pytest.fixture
def short_ttl(url: str) -> float:
    """Seconds; about as short as the backend takes."""
    return 2.0 if url.startswith("etcd") else 0.3


@pytest.fixture
def key() -> str:
    """A key of the test's own."""
    return uuid4().hex
