"""Rules 15, 16 and 18: bad input fails before any I/O, and errors say what happened."""

import asyncio
import copy
import pickle
import re
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

import dlock
from services import RedisServer, free_port

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
        ("metadata", {"metadata": {}}),
        ("metadata", {"metadata": 7}),
        ("renew", {"renew": "no"}),
        ("fair", {"fair": 1}),
        ("renewal_threshold", {"renewal_threshold": "half"}),
        ("ttl", {"ttl": "abc"}),
        ("ttl", {"ttl": 10**400}),
        ("wait", {"wait": [5]}),
        ("on_lost", {"on_lost": "panic"}),
        ("on_lost", {"on_lost": None}),
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


@pytest.mark.parametrize("key", ["", "x" * 513, "a\nb", None, 7, b"k", "\ud800"])
@pytest.mark.parametrize("client", [dlock.Client(NOBODY), dlock.sync.Client(NOBODY)])
def test_r15_bad_keys_are_named(client: Any, key: Any) -> None:
    with pytest.raises(dlock.InvalidOptions) as bad:
        client.lock(key)
    assert bad.value.field == "key"


WRONG_ARGUMENTS: list[tuple[str, Callable[[Any], Any]]] = [
    ("key", lambda client: client.inspect(None)),
    ("key", lambda client: client.is_locked(7)),
    ("key", lambda client: client.with_lock(None, print)),
    ("key", lambda client: client.force_release(None, 1)),
    ("prefix", lambda client: client.list_locks(5)),
    ("holder", lambda client: client.force_release("k", None)),
    ("holder", lambda client: client.force_release("k", -1)),
    ("holder", lambda client: client.force_release("k", True)),
    ("holder", lambda client: client.force_release("k", 1.5)),
    ("holder", lambda client: client.force_release("k")),
    ("holder", lambda client: client.force_release("k", "an owner")),
    ("holder", lambda client: client.force_release("k", owner=1)),
    ("holder", lambda client: client.force_release("k", 1, owner="an owner")),
    ("timeout", lambda client: client.close_on_signal("soon")),
    ("timeout", lambda client: client.close_on_signal(-1)),
    ("timeout", lambda client: client.close("soon")),
    ("wait", lambda client: client.lock("k").acquire(wait="abc")),
    ("fn", lambda client: client.with_lock("k", None)),
    ("fn", lambda client: client.lock("k").with_lock("print")),
]


@pytest.mark.parametrize(("field", "call"), WRONG_ARGUMENTS)
def test_r15_arguments_of_the_wrong_type_are_named(field: str, call: Callable[[Any], Any]) -> None:
    async def awaited() -> None:
        await call(dlock.Client(NOBODY))

    for attempt in (lambda: call(dlock.sync.Client(NOBODY)), lambda: asyncio.run(awaited())):
        with pytest.raises(dlock.InvalidOptions) as bad:
            attempt()
        assert bad.value.field == field
        assert bad.value.value
        assert bad.value.allowed


def test_r15_a_lease_names_what_it_cannot_use(key: str) -> None:
    async def main() -> None:
        async with dlock.Client("memory:").lock(key) as lease:
            with pytest.raises(dlock.InvalidOptions, match=r"^ttl: 'abc' is not valid"):
                await lease.extend("abc")
            with pytest.raises(dlock.InvalidOptions, match=r"^renew: 'no' is not valid: True or False"):
                lease.auto_renew("no")

    asyncio.run(main())
    with dlock.sync.Client("memory:").lock(key) as lease:
        with pytest.raises(dlock.InvalidOptions, match=r"^ttl: "):
            lease.extend({})
        with pytest.raises(dlock.InvalidOptions, match=r"^renew: "):
            lease.auto_renew(None)


def test_r15_sync_takes_no_coroutine_function() -> None:
    async def body(_lease: object) -> None: ...

    with pytest.raises(dlock.InvalidOptions, match="coroutine function"):
        dlock.sync.Client(NOBODY).with_lock("k", body)


def test_r18_values_that_may_hold_a_password_are_not_shown() -> None:
    for call in (
        lambda: dlock.Client({"password": "geheim"}),
        lambda: dlock.Client(b"redis://:geheim@host"),
        lambda: dlock.Client("redis://:geheim\udc80@host"),
        lambda: dlock.Client("memory:").lock("k", metadata={"password": "geheim"}),
    ):
        with pytest.raises(dlock.InvalidOptions) as bad:
            call()
        assert "geheim" not in f"{bad.value} {vars(bad.value)}"
        assert "an object of type" in str(bad.value)


@pytest.mark.parametrize("face", [dlock, dlock.sync])
def test_an_empty_url_is_refused_and_an_empty_variable_is_as_unset(face: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(dlock.InvalidOptions, match=r'^url: "" is not valid'):
        face.Client("")
    monkeypatch.setenv("DLOCK_URL", "")
    assert "local:" in repr(face.Client())
    monkeypatch.setenv("DLOCK_URL", "memory:named")
    assert "memory:named" in repr(face.Client())


@pytest.mark.parametrize(
    "url",
    [
        "ftp://x",
        "redis://h/notanumber",
        "nonsense",
        "redis://:geheim@h:99999999",
        "rediss://:geheim@h?ca=/none",
        "redis+sentinel://:geheim@h1,h2",
    ],
)
def test_r15_bad_urls_are_named_without_their_password(url: str) -> None:
    with pytest.raises(dlock.InvalidOptions) as bad:
        dlock.Client(url)
    assert bad.value.field == "url"
    assert "geheim" not in str(bad.value)
    assert "geheim" not in repr(vars(bad.value))


@pytest.mark.parametrize(
    ("url", "server"),
    [
        (
            "redis+sentinel://:geheim@127.0.0.1:1,127.0.0.1:2/shop/3?sentinel_user=geheim",
            "redis+sentinel://127.0.0.1:1,127.0.0.1:2/shop/3",
        ),
        ("rediss://:geheim@127.0.0.1:1/2?client_name=job", "rediss://127.0.0.1:1/2"),
        ("redis+unix:///nowhere?pass=geheim&client_name=job", "redis+unix:///nowhere"),
        ("etcds://me:geheim@127.0.0.1:1,127.0.0.1:2", "etcds://127.0.0.1:1,127.0.0.1:2"),
    ],
)
def test_urls_of_every_kind_reach_the_engine(url: str, server: str) -> None:
    with dlock.sync.Client(url, connect_timeout=0.3) as client:
        with pytest.raises(dlock.BackendUnavailable) as unavailable:
            client.ping()
        assert unavailable.value.server == server
        assert server in repr(client)
        assert "geheim" not in f"{client!r} {unavailable.value}"


@pytest.mark.parametrize("url", ["redis://:geheim@127.0.0.1:{port}", "redis://127.0.0.1:{port}"])
def test_r16_a_server_that_says_no_refuses_and_is_no_broken_connection(url: str) -> None:
    with RedisServer(requirepass="s3cret") as server, dlock.sync.Client(url.format(port=server.port)) as client:
        for call in (client.ping, client.lock("k").acquire, client.lock("k").try_acquire, lambda: client.inspect("k")):
            with pytest.raises(dlock.BackendRefused) as refused:
                call()
            error = refused.value
            assert (error.code, error.server) == ("BACKEND_REFUSED", f"redis://127.0.0.1:{server.port}")
            assert not isinstance(error, ConnectionError)
            assert " refused: " in str(error)
            assert "geheim" not in f"{error} {error.__cause__}"


def test_unknown_keywords_are_type_errors() -> None:
    with pytest.raises(TypeError, match="tll"):
        dlock.Client("memory:").lock("k", tll=3)
    with pytest.raises(TypeError, match="tls"):
        dlock.Client("memory:", tls=3)
    with pytest.raises(dlock.InvalidOptions, match=r"^namespace: 5"):
        dlock.Client("memory:", namespace=5)


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


CLASSES = [getattr(dlock, name) for name in dlock.errors.__all__]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_r16_the_code_belongs_to_the_class(kind: type[dlock.LockError]) -> None:
    words = "_".join(re.findall("[A-Z][a-z]+", kind.__name__)).upper()
    code = "FORKED" if kind is dlock.ForkedError else words
    made = kind("told by celery")
    for error in (made, copy.copy(made), copy.deepcopy(made), pickle.loads(pickle.dumps(made)), kind(), kind("x", key="k")):
        assert (type(error), error.code, type(error).code) == (kind, code, code)
    assert str(made) == "told by celery"
    mine = type("Mine", (kind,), {})
    assert mine("x").code == code
    assert type("Other", (kind,), {"code": "OTHER"})("x").code == "OTHER"
    assert kind("x", code="OWN").code == "OWN"


class JobIsRunning(dlock.LockBusy):
    def __init__(self, job: str, since: int) -> None:
        super().__init__(f"job {job} is running since {since}", key=job)


def test_errors_of_the_users_own_can_be_pickled_and_copied() -> None:
    made = JobIsRunning("j", 7)
    for error in (made, copy.copy(made), copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert (type(error), str(error), error.key, error.code) == (JobIsRunning, "job j is running since 7", "j", "LOCK_BUSY")


def test_handles_that_are_pickled_or_copied_say_what_to_do() -> None:
    def refused(handle: object, name: str) -> None:
        for attempt in (*(partial(pickle.dumps, protocol=number) for number in range(6)), copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="cannot be pickled or copied") as told:
                attempt(handle)
            assert f"<dlock.{name}" in str(told.value)
            assert "make a client and a lock from them there" in str(told.value)
            assert "geheim" not in str(told.value)

    refused(dlock.Client("redis://:geheim@127.0.0.1:1"), "Client redis://127.0.0.1:1")
    with dlock.sync.Client("memory:") as client:
        lock = client.lock("k")
        refused(client, "sync.Client")
        refused(lock, "sync.Lock 'k'")
        with lock as lease:
            for handle, name in ((client, "sync.Client"), (lock, "sync.Lock 'k'"), (lease, "sync.Lease 'k'")):
                refused(handle, name)
            assert lease.valid
        assert not client.is_locked("k")

    async def main() -> None:
        async with dlock.Client("memory:") as client:
            refused(client, "Client")
            async with (lock := client.lock("k")) as lease:
                refused(lock, "Lock 'k'")
                refused(lease, "Lease 'k'")
            assert not await client.is_locked("k")

    asyncio.run(main())


def test_one_base_catches_all() -> None:
    names = [name for name in dlock.errors.__all__ if name != "LockError"]
    assert all(issubclass(getattr(dlock, name), dlock.LockError) for name in names)
    assert issubclass(dlock.LockBusy, dlock.NotAcquired)
    assert issubclass(dlock.AcquireTimeout, dlock.NotAcquired)
