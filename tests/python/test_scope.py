"""Taking and releasing: `async with`, with_lock, acquire, try_acquire, release, extend, and whose lease it is."""

import asyncio
from datetime import UTC, timedelta
from pathlib import Path

import pytest

import dlock
from polling import eventually
from services import EtcdServer, RedisServer


async def is_free(client: dlock.Client, key: str) -> bool:
    return not await client.is_locked(key)


def test_async_with_holds_and_releases(url: str, key: str) -> None:
    async def main() -> None:
        async with dlock.Client(url) as client:
            lock = client.lock(key, ttl=5, metadata="job 7")
            async with lock as lease:
                assert (lease.key, lease.valid, lease.lost, lease.status, lease.ttl) == (key, True, False, "held", 5.0)
                assert 0 < lease.remaining <= 5
                assert lease.acquired_at.tzinfo is UTC
                assert lease.expires_at > lease.acquired_at
                assert await client.is_locked(key)
                found = await client.inspect(key)
                assert found.holder is not None
                assert (found.holder.token, found.holder.owner, found.holder.metadata) == (lease.token, lease.owner, "job 7")
                assert [held.key for held in await client.list_locks(key)] == [key]
            assert (lease.valid, lease.status, lease.remaining) == (False, "released", 0.0)
            assert not await lock.is_locked()
            async with lock as second:
                assert second.token > lease.token

    asyncio.run(main())


def test_module_functions_use_the_default_client(key: str) -> None:
    async def main() -> None:
        async with dlock.lock(key, ttl=30) as lease:
            assert lease.valid
            assert "local:" in repr(await dlock.connect())
        assert await dlock.with_lock(key, lambda lease: lease.token) > lease.token
        with pytest.raises(dlock.LockError, match="already in use"):
            dlock.configure("memory:")

    asyncio.run(main())


def test_with_lock_takes_sync_and_async_functions(url: str, key: str) -> None:
    async def work(lease: dlock.Lease) -> str:
        await asyncio.sleep(0)
        return lease.key

    async def main() -> None:
        client = dlock.Client(url)
        assert await client.with_lock(key, work, ttl=timedelta(seconds=5)) == key
        assert await client.lock(key).with_lock(lambda lease: lease.ttl) == 30.0
        assert not await client.is_locked(key)
        await client.close()

    asyncio.run(main())


def test_a_held_key_is_refused_or_waited_for(url: str, key: str) -> None:
    async def main() -> None:
        holder, other = dlock.Client(url), dlock.Client(url)
        lease = await holder.lock(key).acquire()
        lock = other.lock(key)
        with pytest.raises(dlock.LockBusy) as busy:
            await lock.acquire(wait=0)
        assert busy.value.holder is not None
        assert (busy.value.key, busy.value.holder.token, busy.value.code) == (key, lease.token, "LOCK_BUSY")
        assert await lock.try_acquire() is None
        with pytest.raises(dlock.AcquireTimeout) as late:
            await lock.acquire(wait=0.1)
        assert isinstance(late.value, TimeoutError)
        assert late.value.holder is not None
        waiting = asyncio.create_task(lock.acquire())
        assert await lease.extend(10) is None
        assert lease.ttl == 10
        assert await lease.release() is True
        second = await waiting
        assert second.token > lease.token
        with pytest.raises(dlock.NotHeld):
            await lease.extend(5)
        assert await lock.release() is True
        with pytest.raises(dlock.NotHeld):
            await lock.release()
        await holder.close()
        await other.close()

    asyncio.run(main())


def test_a_key_is_taken_away_from_the_holder_with_this_token_or_owner_id_only(url: str, key: str) -> None:
    async def main() -> None:
        async with dlock.Client(url) as client:
            for named in ("owner", "token"):
                lease = await client.lock(key).acquire()
                assert not await client.force_release(key, owner="somebody")
                assert not await client.force_release(key, lease.token + 1)
                assert await client.force_release(key, **{named: getattr(lease, named)})
                assert not await client.is_locked(key)
                await lease.release()

    asyncio.run(main())


def test_clients_on_different_servers_do_not_know_each_other(
    redis_server: RedisServer, etcd_server: EtcdServer, key: str, tmp_path: Path
) -> None:
    async def main() -> None:
        urls = ["memory:", "memory:", f"local://{tmp_path}", f"{redis_server.url}/1", f"{redis_server.url}/2", etcd_server.url]
        clients = [dlock.Client(url) for url in urls]
        leases = [await client.lock(key).try_acquire() for client in clients]
        assert all(leases)
        await clients[3].close()
        assert [bool(lease and lease.valid) for lease in leases] == [True, True, True, False, True, True]
        assert [client.stats().held for client in clients] == [1, 1, 1, 0, 1, 1]
        for client in clients:
            await client.close()

    asyncio.run(main())


def test_a_lease_is_a_context_manager(key: str) -> None:
    async def main() -> None:
        client = dlock.Client("memory:")
        async with await client.lock(key).acquire() as lease:
            assert lease.valid
        assert lease.status == "released"
        with pytest.raises(dlock.NotHeld):
            async with lease:
                pass

    asyncio.run(main())


def test_the_body_keeps_its_exception(url: str, key: str) -> None:
    async def main() -> None:
        client = dlock.Client(url)
        lock = client.lock(key, max_hold=0.1, on_lost="raise")
        with pytest.raises(ZeroDivisionError):
            async with lock as lease:
                await lease.wait_lost()
                raise ZeroDivisionError
        await eventually(lambda: is_free(client, key), "what was lost is released")
        await client.close()

    asyncio.run(main())


def test_r05_a_late_aexit_never_releases_a_successors_lease(url: str, key: str) -> None:
    async def main() -> None:
        client = dlock.Client(url)
        shared = client.lock(key, ttl=2, on_lost="ignore")
        lost, may_leave = asyncio.Event(), asyncio.Event()

        async def loser() -> None:
            async with shared as lease:
                await client.force_release(key, lease.token)
                lost.set()
                await may_leave.wait()

        task = asyncio.create_task(loser())
        await lost.wait()
        async with shared as lease:
            may_leave.set()
            await task
            assert lease.valid
            found = await client.inspect(key)
            assert found.holder is not None
            assert found.holder.token == lease.token
        await client.close()

    asyncio.run(main())


def test_release_of_the_lock_means_this_tasks_last_lease_or_the_only_one() -> None:
    async def main() -> None:
        client = dlock.Client("memory:")
        shared = client.lock("a", ttl=1)
        first = await shared.acquire()
        await client.force_release("a", first.token)
        second = await asyncio.create_task(shared.acquire())
        assert await asyncio.create_task(release_ambiguously(shared)) == "AMBIGUOUS"
        assert await shared.release() is False
        assert second.valid
        assert await shared.release() is True
        assert second.status == "released"

    async def release_ambiguously(lock: dlock.Lock) -> str:
        with pytest.raises(dlock.LockError) as error:
            await lock.release()
        return error.value.code

    asyncio.run(main())


def test_aexit_in_another_task_releases_the_only_lease() -> None:
    async def main() -> None:
        lock = dlock.Client("memory:").lock("a")
        lease = await asyncio.create_task(lock.__aenter__())
        await lock.__aexit__(None, None, None)
        assert lease.status == "released"

    asyncio.run(main())


def test_r16_a_task_that_waits_for_itself_is_warned_at_once(key: str) -> None:
    async def main() -> None:
        client = dlock.Client("memory:")
        async with client.lock(key):
            with pytest.warns(RuntimeWarning, match="waiting to acquire it again"), pytest.raises(dlock.AcquireTimeout):
                await client.lock(key).acquire(wait=0.01)
            assert await client.lock(key).try_acquire() is None
        async with client.lock(key):
            pass

    asyncio.run(main())


def test_r14_close_takes_what_is_left_and_refuses_more(url: str, key: str) -> None:
    async def main() -> None:
        client = dlock.Client(url)
        lease = await client.lock(key).acquire()
        await client.close()
        assert lease.lost
        with pytest.raises(dlock.LockLost) as lost:
            lease.check()
        assert (lost.value.reason, lost.value.token) == ("closed", lease.token)
        with pytest.raises(dlock.ClientClosed):
            await client.lock(key).acquire()
        if not url.startswith("memory"):
            async with dlock.Client(url) as other:
                assert not await other.is_locked(key)

    asyncio.run(main())
