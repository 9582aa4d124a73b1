"""What the tests of the Python face share."""

from uuid import uuid4

import pytest


@pytest.fixture(params=["memory", "local", "redis"])
def url(request: pytest.FixtureRequest) -> str:
    """One backend after the other, each with nothing in it that another test put there."""
    if request.param == "redis":
        server: str = request.getfixturevalue("redis_server").url
        return server
    return f"memory:{uuid4().hex}" if request.param == "memory" else "local:"


@pytest.fixture
def key() -> str:
    """A key of the test's own."""
    return uuid4().hex
