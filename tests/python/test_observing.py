"""What a client shows of itself: figures, events, metrics, health, logs."""

import asyncio
import copy
import gc
import io
import logging
import os
import pickle
import subprocess
import sys
import threading
import weakref
from typing import Any

import pytest

import dlock
from dlock import sync
from polling import eventually, until


def test_stats_count_what_happened(url: str, key: str) -> None:
    async def main() -> None:
        async with dlock.Client(url) as client:
            assert client.stats().acquired == 0
            async with client.lock(key, ttl=5):
                assert await client.lock(key).try_acquire() is None
                stats = client.stats()
                assert (stats.held, stats.acquired, stats.waiting, stats.scheduled) == (1, 1, 0, 1)
            stats = client.stats()
            assert (stats.held, stats.released, stats.acquire_failures["LOCK_BUSY"], stats.lost["gone"]) == (0, 1, 1, 0)
            assert stats.backend_calls["acquire"].calls == 2
            assert stats.backend_calls["release"].time >= 0
            assert (stats.renewal_lag.count, stats.dropped_events) == (0, 0)

    asyncio.run(main())


def test_observers_hear_the_life_of_a_lease_in_order_on_their_loop(url: str, key: str) -> None:
    async def main() -> None:
        heard: list[dlock.Event] = []
        threads = set()

        def observe(event: dlock.Event) -> None:
            heard.append(event)
            threads.add(threading.current_thread())

        async with dlock.Client(url) as client:
            for name in ("released", "renewed", "acquired", "lost"):
                client.on(name, observe)
            async with client.lock(key, ttl=2 if url.startswith("etcd") else 0.3) as lease:
                await eventually(lambda: asyncio.sleep(0, any(event.kind == "renewed" for event in heard)), "a renewal")
            await eventually(lambda: asyncio.sleep(0, heard[-1].kind == "released"), "the release")
        kinds = [event.kind for event in heard]
        assert (kinds[0], kinds[-1], set(kinds[1:-1])) == ("acquired", "released", {"renewed"})
        assert {(event.key, event.token, event.owner) for event in heard} == {(key, lease.token, lease.owner)}
        assert heard[0].waited is not None
        assert heard[0].held is None
        assert heard[-1].held is not None
        assert 0 < heard[-1].held < 10
        assert heard[-1].reason == "released"
        assert threads == {threading.current_thread()}

    asyncio.run(main())


def test_sync_observers_are_called_on_a_thread_of_ours(url: str, key: str) -> None:
    heard: list[tuple[str, int | None]] = []
    threads = set()

    def observe(event: dlock.Event) -> None:
        heard.append((event.kind, event.token))
        threads.add(threading.current_thread().name)

    with sync.Client(url) as client:
        ends = [client.on("acquired", observe), client.on("released", observe)]
        with client.lock(key) as lease:
            pass
        until(lambda: len(heard) == 2, "both events")
        assert heard == [("acquired", lease.token), ("released", lease.token)]
        assert threads == {"dlock-observe"}
        for end in ends:
            end()
            end()
        until(lambda: all(thread.name != "dlock-observe" for thread in threading.enumerate()), "the thread ends with its observers")
        with client.lock(key):
            pass
        client.on("released", observe)
        with client.lock(key):
            pass
        until(lambda: len(heard) == 3, "an observer that came later")


def test_an_observer_may_ask_its_client_and_its_lock(key: str) -> None:
    told = []
    with sync.Client("memory:") as client:
        lock = client.lock(key)
        client.on("acquired", lambda _event: told.append((client.stats().held, client.is_locked(key))))
        client.on("released", lambda _event: told.append((client.stats().held, lock.is_locked())))
        with lock:
            until(lambda: told == [(1, True)], "what it was told in the body")
        until(lambda: told == [(1, True), (0, False)], "what it was told afterwards")


def test_an_event_can_be_kept_shown_compared_and_sent(key: str) -> None:
    heard: list[dlock.Event] = []
    with sync.Client("memory:") as client:
        for name in ("acquired", "released", "acquire_failed"):
            client.on(name, heard.append)
        with client.lock(key) as lease:
            assert client.lock(key).try_acquire() is None
        until(lambda: len(heard) == 3, "the events")
    gc.collect()
    acquired, failed, released = heard
    assert (acquired.key, acquired.token, acquired.owner, acquired.held) == (key, lease.token, lease.owner, None)
    assert (failed.kind, failed.token, failed.owner, failed.reason) == ("acquire_failed", None, None, "LOCK_BUSY")
    assert failed.waited is not None
    assert repr(acquired) == (
        f"Event(kind='acquired', key={key!r}, token={lease.token}, owner={lease.owner!r}, waited={acquired.waited}, held=None, "
        "reason=None)"
    )
    for event in heard:
        fields = event._asdict()
        assert fields == {name: getattr(event, name) for name in dlock.Event.__match_args__}
        for same in (dlock.Event(**fields), copy.copy(event), pickle.loads(pickle.dumps(event))):
            assert same == event
            assert hash(same) == hash(event)
    assert len(set(heard)) == 3
    assert acquired != released
    assert acquired != tuple(acquired._asdict().values())
    with pytest.raises(AttributeError):
        acquired.key = "another"  # type: ignore[misc]
    match released:
        case dlock.Event("released", found, token, reason=reason):
            assert (found, token, reason) == (key, lease.token, "released")
        case _:
            pytest.fail(f"{released} matches nothing")


def test_r15_an_event_is_checked() -> None:
    with pytest.raises(dlock.InvalidOptions, match="renewal_failed"):
        dlock.Event("aquired", "k")  # type: ignore[arg-type]
    for fields in ({"waited": -1.0}, {"held": float("nan")}, {"owner": "me"}):
        with pytest.raises(ValueError, match=r"."):
            dlock.Event("lost", "k", **fields)  # type: ignore[arg-type]


def test_an_observer_that_leaves_hears_no_more(key: str) -> None:
    """Not even of what has come with the same batch."""

    async def main() -> None:
        async with dlock.Client("memory:") as client:
            heard = []

            def once(event: dlock.Event) -> None:
                heard.append(event)
                end()

            others: list[dlock.Event] = []
            end = client.on("acquired", once)
            client.on("acquired", others.append)
            for _ in range(20):
                async with client.lock(key):
                    pass
            await eventually(lambda: asyncio.sleep(0, len(others) == 20), "the other observer")
            assert len(heard) == 1

    asyncio.run(main())


def test_an_observer_that_raises_is_logged_and_harms_nothing(key: str, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        heard = []

        def bad(_event: dlock.Event) -> None:
            raise KeyError("an observer's own fault")

        async with dlock.Client("memory:") as client:
            client.on("acquired", bad)
            client.on("acquired", heard.append)
            for _ in range(2):
                async with client.lock(key):
                    pass
            await eventually(lambda: asyncio.sleep(0, len(heard) == 2), "the other observer")

    asyncio.run(main())
    failed = [record for record in caplog.records if "observer" in record.message]
    assert len(failed) == 2
    assert failed[0].name == "dlock"
    assert failed[0].exc_info


def test_r15_observers_are_checked() -> None:
    async def main() -> None:
        client: Any = dlock.Client("memory:")
        with pytest.raises(dlock.InvalidOptions, match=r"aquired.*renewal_failed"):
            client.on("aquired", print)

        async def coroutine(_event: dlock.Event) -> None: ...

        for bad in (None, coroutine):
            with pytest.raises(dlock.InvalidOptions, match="fn"):
                client.on("acquired", bad)

    asyncio.run(main())
    with pytest.raises(dlock.LockError, match="event loop"):
        dlock.Client("memory:").on("acquired", print)


def test_r17_an_observer_goes_with_its_client_and_with_its_loop(key: str) -> None:
    client = dlock.Client("memory:")

    class Observer:
        def __call__(self, _event: dlock.Event) -> None: ...

    gone = []

    async def listen(client: dlock.Client) -> None:
        observer = Observer()
        gone.append(weakref.ref(observer))
        client.on("acquired", observer)
        async with client.lock(key):
            pass

    for _ in range(3):
        asyncio.run(listen(client))
    gc.collect()
    assert [observer() for observer in gone] == [None] * 3

    async def short_lived() -> None:
        for _ in range(3):
            await listen(dlock.Client("memory:"))
        gc.collect()
        await eventually(lambda: asyncio.sleep(0, all(observer() is None for observer in gone)), "observers go with their clients")

    asyncio.run(short_lived())


def test_a_blocked_loop_drops_events_beyond_the_bound_and_no_locks(key: str) -> None:
    async def main() -> None:
        async with dlock.Client("memory:") as client:
            heard = []
            client.on("acquire_failed", heard.append)
            lease = await client.lock(key).acquire()
            capacity = client.stats().event_capacity

            def blocking() -> None:
                # Another face on the same engine, while this loop runs nothing.
                other = sync.Client.__new__(sync.Client)
                other._bind(client._native)
                lock = other.lock(key)
                for _ in range(capacity + 7):
                    assert lock.try_acquire() is None

            thread = threading.Thread(target=blocking)
            thread.start()
            thread.join()
            assert client.stats().dropped_events >= 7 - len(heard)
            await eventually(lambda: asyncio.sleep(0, len(heard) == capacity), "all that the queue held")
            assert await lease.release()

    asyncio.run(main())


def test_r19_metrics_are_text_without_keys(url: str, key: str) -> None:
    with sync.Client(url) as client, sync.Client(url) as other:
        with client.lock(key):
            text = client.metrics()
        assert "dlock_leases_held 1\n" in text
        assert text.endswith("# EOF\n")
        assert 'dlock_backend_call_seconds_count{operation="acquire",outcome="ok"} 1\n' in text
        assert key not in text
        assert "dlock_leases_acquired_total 0\n" in other.metrics()


def test_health_is_a_round_trip(url: str, key: str) -> None:
    async def main() -> None:
        client = dlock.Client(url)
        async with client.lock(key):
            health = await client.health()
        assert (health.status, health.reasons, health.held, health.at_risk, health.warnings) == ("ok", [], 1, 0, [])
        assert health.round_trip is not None
        assert health.round_trip < 5
        await client.close()
        assert (await client.health()).status == "down"

    asyncio.run(main())
    health = sync.Client("redis://:geheim@127.0.0.1:1", op_timeout=0.2).health()
    assert (health.status, health.round_trip, health.server) == ("down", None, "redis://127.0.0.1:1")
    assert len(health.reasons) == 1
    assert "geheim" not in str(health)


def test_health_is_down_where_no_lock_can_be_had(private_redis: object) -> None:
    async def ask() -> tuple[dlock.Health, BaseException | None]:
        async with dlock.Client(private_redis.url) as client:
            try:
                await (await client.lock("k", wait=0).acquire()).release()
            except dlock.LockError as error:
                return await client.health(), error
            return await client.health(), None

    def down(told: str) -> None:
        health, error = asyncio.run(ask())
        assert isinstance(error, dlock.BackendRefused)
        with sync.Client(private_redis.url) as client:
            assert client.health().reasons == health.reasons
        assert (health.status, health.round_trip, len(health.reasons)) == ("down", None, 1)
        assert told in health.reasons[0]

    assert asyncio.run(ask())[0].status == "ok"
    private_redis.command("CONFIG", "SET", "maxmemory", 1)
    down("memory")
    private_redis.command("CONFIG", "SET", "maxmemory", 0)
    private_redis.command("ACL", "SETUSER", "default", "-zadd", "-set")
    down("SET")
    private_redis.command("ACL", "SETUSER", "default", "+set", "+zadd")
    assert asyncio.run(ask())[0].status == "ok"


def test_what_the_engine_logs_reaches_logging(key: str, caplog: pytest.LogCaptureFixture) -> None:
    with sync.Client("memory:") as client:
        with client.lock(key, max_hold=0.05, on_lost="ignore") as lease:
            lease.wait_lost()
        until(lambda: any(key in record.message for record in caplog.records), "the warning of the loss")
        (record,) = [record for record in caplog.records if key in record.message]
        assert (record.name, record.levelname) == ("dlock.session", "WARNING")
        assert record.__dict__["dlock"]["token"] == str(lease.token)
        caplog.clear()

        caplog.set_level(logging.DEBUG, "dlock")
        with client.lock(key) as lease:
            pass
        told = lambda: [record.message for record in caplog.records if record.name == "dlock.lease"]  # noqa: E731
        until(lambda: len(told()) >= 2, "acquired and released")
        assert f"key={key}" in told()[0]
        assert f"token={lease.token}" in told()[0]


def test_nothing_is_logged_below_the_level(key: str) -> None:
    program = """
import logging, sys, dlock
from dlock import sync, _native
logging.basicConfig(level=sys.argv[1], format="%(name)s %(message)s")
with sync.Client("memory:") as client:
    with client.lock("k"):
        pass
"""
    for level, expected in (("DEBUG", True), ("INFO", False)):
        done = subprocess.run([sys.executable, "-c", program, level], capture_output=True, text=True, timeout=30, check=True)
        assert ("dlock.lease acquired key=k" in done.stderr) == expected, done.stderr


def test_r13_a_forked_child_hears_its_own_engine(key: str) -> None:
    with sync.Client("memory:") as client, client.lock(key):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                said = io.StringIO()
                logging.getLogger("dlock").addHandler(logging.StreamHandler(said))
                heard: list[Any] = []
                with sync.Client("memory:") as own:
                    own.on("lost", heard.append)
                    with own.lock(key, max_hold=0.05, on_lost="ignore") as lease:
                        lease.wait_lost()
                    until(lambda: heard, "the child's observer")
                    until(lambda: "lease lost key=" in said.getvalue(), "the child's log")
                os.write(write, b"done")
                status = 0
            finally:
                os._exit(status)
        os.close(write)
        with os.fdopen(read) as answer:
            assert answer.read() == "done"
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
