"""Rule 16: a server that is not there, or that says no, is named at once and in a plain sentence; rule 18: without a password."""

import asyncio
import base64
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import dlock
from dlock import sync
from services import EtcdServer, RedisServer, free_port

MANY = 100  # characters that a message may have beside a server's words


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def one_sentence(error: BaseException) -> str:
    said = str(error)
    assert "\\" not in said
    assert "\n" not in said
    return said


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("redis://127.0.0.1:{closed}", "Connection refused"),
        ("redis://no-such-host.invalid:6379", "no-such-host|name|lookup"),
        ("redis+unix:///no/such/socket", "No such file"),
        ("rediss://127.0.0.1:{closed}", "Connection refused"),
        ("redis+sentinel://127.0.0.1:{closed},127.0.0.1:1/shop", "Connection refused"),
        ("etcd://127.0.0.1:{closed}", "Connection refused"),
        ("etcd://127.0.0.1:{closed},127.0.0.1:1,127.0.0.1:2", "Connection refused"),
        ("etcd://no-such-host.invalid", "name|lookup"),
    ],
)
def test_r16_a_single_try_ends_as_soon_as_the_cause_is_definite(url: str, cause: str) -> None:
    url = url.format(closed=free_port())
    with sync.Client(url, op_timeout=20, connect_timeout=20) as client:
        lock = client.lock("k")
        for call in (lock.try_acquire, lambda: lock.acquire(wait=0), client.ping, lambda: client.inspect("k"), client.list_locks):
            started = time.monotonic()
            with pytest.raises(dlock.BackendUnavailable, match=f"(?i){cause}") as told:
                call()
            assert time.monotonic() - started < 10, "not after op_timeout"
            one_sentence(told.value)
        assert client.health().status == "down"

    async def main() -> None:
        async with dlock.Client(url, op_timeout=20, connect_timeout=20) as client:
            with pytest.raises(dlock.BackendUnavailable, match=f"(?i){cause}"):
                await asyncio.wait_for(client.lock("k").try_acquire(), 10)

    asyncio.run(main())


def test_r16_tries_without_a_pause_between_them_name_the_cause_each_time() -> None:
    with sync.Client(f"redis://127.0.0.1:{free_port()}", op_timeout=0.05) as client:
        for _ in range(12):
            with pytest.raises(dlock.BackendUnavailable, match="Connection refused"):
                client.lock("k").try_acquire()


def test_r16_a_wait_goes_on_until_a_server_is_there() -> None:
    with RedisServer() as server:
        server.kill()
        with sync.Client(server.url) as client:
            with pytest.raises(dlock.BackendUnavailable, match="Connection refused"):
                client.lock("k").try_acquire()
            server.start()
            client.lock("k", wait=20).acquire().release()
            lease = client.lock("k").try_acquire()
            assert lease is not None
            lease.release()


def test_r16_one_dead_endpoint_does_not_end_a_try(etcd_server: EtcdServer) -> None:
    dead = f"127.0.0.1:{free_port()}"
    with sync.Client(f"etcd://{dead},{etcd_server.url.removeprefix('etcd://')}") as client:
        for _ in range(5):
            lease = client.lock("one-dead").try_acquire()
            assert lease is not None
            lease.release()


@pytest.mark.parametrize(
    ("rights", "sentence"),
    [
        ("~* &* +@all -evalsha -eval", "the user has no right to the command evalsha"),
        ("~other:* &* +@all", "the user has no right to "),
        ("~* &none +@all", "the user has no right to the session's channel, dlock:s:"),
        ("~* &* +@all -set", "the user has no right to a command that "),
    ],
)
def test_r16_a_right_that_is_missing_on_redis_is_named(server: RedisServer, rights: str, sentence: str) -> None:
    server.command("ACL", "SETUSER", "bob", "reset", "on", ">pw", *rights.split())
    with sync.Client(f"redis://bob:pw@{server.host}:{server.port}") as client:
        for call in (client.lock("k").try_acquire, client.lock("k", wait=5).acquire):
            with pytest.raises(dlock.BackendRefused) as refused:
                call()
            assert f" refused: {sentence}" in one_sentence(refused.value)


def test_r16_what_redis_refuses_is_told_in_a_sentence(server: RedisServer, key: str, tmp_path: Path) -> None:
    address = f"{server.host}:{server.port}"
    server.command("ACL", "SETUSER", "ann", "reset", "on", ">pw", "~*", "&*", "+@all")

    def told(url: str, options: dict[str, str] | None = None) -> str:
        for name, value in (options or {}).items():
            server.command("CONFIG", "SET", name, value)
        with sync.Client(url, namespace="") as client, pytest.raises(dlock.BackendRefused) as refused:
            client.lock(key).try_acquire()
        assert "geheim" not in str(refused.value)
        return one_sentence(refused.value)

    assert "the server does not know this user with this password" in told(f"redis://ann:geheim@{address}")
    assert "the server has no database of this number" in told(f"redis://{address}/77777")
    try:
        assert "the server has reached its limit of memory" in told(server.url, {"maxmemory": "1"})
    finally:
        server.command("CONFIG", "SET", "maxmemory", "0")
    server.command("LPUSH", key, "x")
    assert "the key holds a value that is no lock's" in told(server.url)
    server.command("DEL", key)
    with RedisServer(requirepass="s3cret") as closed:
        assert "the server wants a password, and the URL has none" in told(f"redis://{closed.host}:{closed.port}")
    with RedisServer(maxclients="1") as full, socket.create_connection((full.host, full.port)):
        assert "the server has as many clients as it takes" in told(full.url)
    (tmp_path / "conf").write_text("rename-command EVALSHA ''\nrename-command EVAL ''\n")
    with RedisServer(include=str(tmp_path / "conf")) as without:
        assert "the server has no command " in told(without.url)


def test_r16_a_replica_cannot_serve_now(server: RedisServer) -> None:
    with RedisServer(replicaof=f"{server.host} {server.port}") as replica:
        with sync.Client(replica.url) as client, pytest.raises(dlock.BackendUnavailable, match="is a replica") as told:
            client.lock("k").try_acquire()
        one_sentence(told.value)


def test_r16_what_etcd_refuses_is_told_in_a_sentence() -> None:
    with EtcdServer() as server:
        server.call("auth/user/add", name="bob", password="pw")
        server.require_password("s3cret")
        for login, sentence in {
            "": "the server wants a user and a password, and the URL has none",
            "root:geheim@": "the server does not know this user with this password",
            "bob:pw@": "the user has no right to this key",
        }.items():
            with sync.Client(f"etcd://{login}{server.host}:{server.port}") as client:
                for call in (client.lock("k").try_acquire, client.lock("k", wait=5).acquire):
                    with pytest.raises(dlock.BackendRefused) as refused:
                        call()
                    said = one_sentence(refused.value)
                    assert sentence in said
                    assert "geheim" not in said


def test_r16_a_full_etcd_is_told_in_a_sentence() -> None:
    with EtcdServer(quota_backend_bytes="16384") as server, sync.Client(server.url) as client:
        with pytest.raises(dlock.BackendRefused) as refused:
            client.lock("k").try_acquire()
        assert "the server's database is full, and it takes no writes" in one_sentence(refused.value)


@pytest.mark.parametrize("scheme", ["redis", "rediss", "redis+sentinel", "etcd", "etcds"])
@pytest.mark.parametrize("password", ["57#Wc903z", "57/Wc903z", "57?Wc903z", "57@Wc903z", "57%Wc903z", "57[Wc903z"])
def test_r18_a_raw_character_in_a_password_is_told_how_to_be_written(scheme: str, password: str) -> None:
    for make in (dlock.Client, sync.Client):
        with pytest.raises(dlock.InvalidOptions) as told:
            make(f"{scheme}://u:{password}@127.0.0.1:6379/0")
        said = f"{told.value} {vars(told.value)}"
        assert "percent-encoded: # as %23" in said
        assert "Wc903z" not in said
        assert "57" not in said


def test_r17_what_a_foreign_holder_wrote_is_cut(server: RedisServer, key: str) -> None:
    value = "\x1b[31mmine\u202e" + "x" * 1_000_000
    with socket.create_connection((server.host, server.port)) as connection:
        head = f"*3\r\n$3\r\nSET\r\n${len(key)}\r\n{key}\r\n${len(value.encode())}\r\n"
        connection.sendall(head.encode() + value.encode() + b"\r\n")
        assert connection.recv(64) == b"+OK\r\n"
    with sync.Client(server.url, namespace="") as client:
        for call in (lambda: client.lock(key).acquire(wait=0), lambda: client.lock(key).acquire(wait=0.2)):
            with pytest.raises(dlock.NotAcquired) as told:
                call()
            said = str(told.value)
            assert len(said) < MANY + 300
            assert "\x1b" not in said
            assert "\u202e" not in said
            assert "mine" in said
            assert told.value.holder is not None
            assert len(told.value.holder.owner) < 2_000
        holder = client.inspect(key).holder
        assert holder is not None
        assert len(holder.owner) < 2_000
        assert len(str(client.list_locks(key))) < 5_000
    server.command("DEL", key)


def test_r17_what_an_etcd_holder_wrote_is_cut(etcd_server: EtcdServer, key: str) -> None:
    def encoded(text: str) -> str:
        return base64.b64encode(text.encode()).decode()

    with sync.Client(etcd_server.url) as client, client.lock(key):
        stored = next(name for name in etcd_server.keys("") if key in name)
        for value in ("\x1b[31mmine" + "x" * 1_000_000, f'me\n{{"host":"\\u001b[31mmine{"x" * 1_000_000}","pid":7,"since":1}}'):
            etcd_server.call("kv/put", key=encoded(stored), value=encoded(value), ignore_lease=True)
            with pytest.raises(dlock.LockBusy) as told:
                client.lock(key).acquire(wait=0)
            assert "mine" in str(told.value)
            assert len(str(told.value)) < MANY + 300
            assert "\x1b" not in str(told.value)
            holder = client.inspect(key).holder
            assert holder is not None
            assert len(repr(holder)) < 5_000


def test_r17_what_a_local_holder_wrote_is_cut(tmp_path: Path, key: str) -> None:
    with (
        sync.Client(f"local://{tmp_path}") as client,
        client.lock(key, metadata="x" * 4_000),
        pytest.raises(dlock.LockBusy) as told,
    ):
        client.lock(key).acquire(wait=0)
    assert len(str(told.value)) < MANY + 300
