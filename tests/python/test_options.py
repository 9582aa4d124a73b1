"""`retry`, `max_stall` and `renewal`: what of them is Python's own. What they do is in the behaviour suite."""

import asyncio
import copy
import pickle
import time
from datetime import timedelta
from typing import Any

import pytest

import dlock
from dlock import sync
from polling import eventually, until

NOBODY = "redis://127.0.0.1:1"


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("retry", {"retry": 3}),
        ("retry", {"retry": {"max_retries": 3}}),
        ("retry.max_retries", {"retry": dlock.Retry(max_retries=-1)}),
        ("retry.max_retries", {"retry": dlock.Retry(max_retries=True)}),
        ("retry.max_retries", {"retry": dlock.Retry(max_retries=1.5)}),  # type: ignore[arg-type]
        ("retry.delay", {"retry": dlock.Retry(delay=-1)}),
        ("retry.delay", {"retry": dlock.Retry(delay=timedelta(days=2))}),
        ("retry.backoff", {"retry": dlock.Retry(backoff=0.5)}),
        ("retry.jitter", {"retry": dlock.Retry(jitter=2)}),
        ("max_stall", {"max_stall": 0.05}),
        ("max_stall", {"max_stall": "1"}),
        ("reentrant", {"reentrant": 1}),
    ],
)
def test_r15_bad_options_are_named(field: str, options: dict[str, Any]) -> None:
    for client in (dlock.Client(NOBODY), sync.Client(NOBODY)):
        with pytest.raises(dlock.InvalidOptions) as bad:
            client.lock("k", **options)
        assert bad.value.field == field


@pytest.mark.parametrize(
    ("field", "renewal"),
    [
        ("renewal", 5),
        ("renewal.max_delay", dlock.Renewal(max_delay=0.01)),
        ("renewal.base_delay", dlock.Renewal(base_delay=0)),
        ("renewal.call_timeout", dlock.Renewal(call_timeout=float("nan"))),
        ("renewal.batch", dlock.Renewal(batch=0)),
        ("renewal.batch", dlock.Renewal(batch=-1)),
    ],
)
def test_r15_bad_tuning_is_named(field: str, renewal: Any) -> None:
    with pytest.raises(dlock.InvalidOptions) as bad:
        dlock.Client(NOBODY, renewal=renewal)
    assert bad.value.field == field


def test_r16_used_up_retries_are_told_in_both_faces(key: str) -> None:
    retry = dlock.Retry(max_retries=1, delay=timedelta(milliseconds=10))
    with sync.Client(f"memory:{key}") as client, client.lock("k") as lease:
        with pytest.raises(dlock.RetriesExhausted) as spent:
            client.lock("k", retry=retry).acquire()
        assert client.lock("k", retry=retry).try_acquire() is None
        for error in (spent.value, copy.copy(spent.value), pickle.loads(pickle.dumps(spent.value))):
            assert isinstance(error, dlock.NotAcquired)
            assert (error.code, error.key, error.attempts) == ("RETRIES_EXHAUSTED", "k", 2)
            assert error.holder is not None
            assert error.holder.token == lease.token


def test_r12_the_loop_gives_signs_for_leases_of_all_kinds_and_stops_with_the_last(key: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        before = len(timers(loop))
        async with dlock.Client(f"memory:{key}") as client:
            bare = await client.lock("a", max_stall=0.2).acquire()
            async with client.lock("b", max_stall=0.4) as body:
                await asyncio.sleep(0.8)
                assert bare.valid
                assert body.valid
            await bare.release()
            await asyncio.sleep(0.2)
            assert len(timers(loop)) <= before + 1, "nothing beats any more"
            assert loop_state()._heartbeats._timer is None

    asyncio.run(main())


async def free(client: dlock.Client) -> bool:
    await eventually(lambda: not_locked(client), "the key is free")
    return True


async def not_locked(client: dlock.Client) -> bool:
    return not await client.is_locked("k")


def timers(loop: Any) -> list[Any]:
    return [timer for timer in loop._scheduled if not timer.cancelled()]


def loop_state() -> Any:
    from dlock._loop import current  # noqa: PLC0415

    return current()


def test_nothing_beats_for_locks_without_max_stall(key: str) -> None:
    async def main() -> None:
        async with dlock.Client(f"memory:{key}").lock("k"):
            assert loop_state()._heartbeats is None

    asyncio.run(main())


def test_r12_a_body_that_blocks_the_loop_does_not_take_another_step(key: str) -> None:
    async def main() -> None:
        async with dlock.Client(f"memory:{key}") as client:
            steps = []
            with pytest.raises(dlock.LockLost) as lost:
                async with client.lock("k", max_stall=0.2) as lease:
                    time.sleep(0.5)
                    steps.append(lease.valid)
                    await asyncio.sleep(0.01)
                    steps.append("another")
            assert lost.value.reason == "max_stall"
            assert steps == [False]
            assert not await client.is_locked("k")

    asyncio.run(main())


def test_r12_a_lease_ends_with_the_loop_that_took_it(key: str) -> None:
    client = sync.Client(f"memory:{key}")

    async def take() -> dlock.Lease:
        return await dlock.Client(f"memory:{key}").lock("k", max_stall=0.2).acquire()

    lease = asyncio.run(take())
    assert lease.valid
    until(lambda: not client.is_locked("k"), "the lease ends")
    assert lease.status == "lost"


def test_r05_signs_of_life_keep_no_lease_reachable(key: str) -> None:
    async def main() -> None:
        client = dlock.Client(f"memory:{key}")
        lease = await client.lock("k", max_stall=0.4).acquire()
        with pytest.warns(ResourceWarning):
            del lease
        assert await free(client)

    asyncio.run(main())


def test_r12_a_thread_gives_its_signs_itself(key: str) -> None:
    with sync.Client(f"memory:{key}") as client:
        lease = client.lock("k", max_stall=0.3).acquire()
        for _ in range(6):
            time.sleep(0.1)
            assert lease.heartbeat()
        assert lease.wait_lost() == "max_stall"
        assert not lease.heartbeat()
