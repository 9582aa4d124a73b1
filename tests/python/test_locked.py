"""`@dlock.locked`: functions that hold a key while they run."""

import asyncio
import inspect
import threading
from dataclasses import dataclass
from typing import Any

import pytest

import dlock
from dlock import sync


@dataclass
class Order:
    id: int


async def held_keys(client: dlock.Client) -> list[str]:
    return [found.key for found in await client.list_locks()]


def test_coroutine_functions_hold_the_key_that_their_arguments_make(url: str, key: str) -> None:
    async def main() -> None:
        async with dlock.Client(url) as client:

            @client.locked(key + ":{order_id}:{kind}", ttl=30)
            async def ship(order_id: int, *, kind: str = "parcel") -> tuple[list[str], int]:
                """Ships it."""
                lease = dlock.current_lease()
                lease.check()
                return await held_keys(client), lease.token

            keys, token = await ship(7)
            assert keys == [f"{key}:7:parcel"]
            assert token > 0
            assert (await ship(order_id=8, kind="letter"))[0] == [f"{key}:8:letter"]
            assert await held_keys(client) == []
            assert (ship.__name__, ship.__doc__) == ("ship", "Ships it.")
            assert inspect.iscoroutinefunction(ship)
            with pytest.raises(TypeError):
                await ship()

    asyncio.run(main())


def test_plain_functions_hold_the_key_too(key: str) -> None:
    client = sync.Client(f"memory:{key}")

    @client.locked("order:{order.id:03}")
    def ship(order: Order) -> list[str]:
        assert sync.current_lease().valid
        return [found.key for found in client.list_locks()]

    assert ship(Order(7)) == ["order:007"]
    assert client.list_locks() == []


def test_an_asyncio_client_decorates_plain_functions_on_the_same_connection(key: str) -> None:
    client = dlock.Client(f"memory:{key}")

    @client.locked("k")
    def ship() -> int:
        assert isinstance(dlock.current_lease(), sync.Lease)
        assert sync.Client(f"memory:{key}").is_locked("k")
        return dlock.current_lease().token

    assert ship() < ship()


def test_methods_are_filled_from_self(key: str) -> None:
    client = dlock.Client(f"memory:{key}")

    class Account:
        def __init__(self, number: int) -> None:
            self.number = number

        @client.locked("account:{self.number}")
        async def close(self) -> str:
            return dlock.current_lease().key

        @classmethod
        @client.locked("accounts:{cls.__name__}")
        async def count(cls) -> str:
            return dlock.current_lease().key

    async def main() -> None:
        assert await Account(4).close() == "account:4"
        assert await Account.count() == "accounts:Account"

    asyncio.run(main())


def test_calls_for_one_key_exclude_each_other_and_those_for_others_do_not(url: str, key: str) -> None:
    async def main() -> None:
        inside: dict[int, int] = {}
        most: dict[int, int] = {}
        async with dlock.Client(url) as client:

            @client.locked(key + "{number}")
            async def work(number: int) -> None:
                inside[number] = inside.get(number, 0) + 1
                most[number] = max(most.get(number, 0), inside[number])
                await asyncio.sleep(0)
                inside[number] -= 1

            await asyncio.gather(*(work(number % 2) for number in range(20)))
        assert most == {0: 1, 1: 1}

    asyncio.run(main())


def test_the_modules_own_decorator_uses_the_default_client_at_the_call_and_not_before() -> None:
    @dlock.locked("module")
    async def work() -> bool:
        return await dlock.lock("module").is_locked()

    @sync.locked("module")
    def plain() -> bool:
        return sync.lock("module").is_locked()

    assert asyncio.run(work())
    assert plain()


def test_inner_leases_hide_outer_ones_and_outside_there_is_none(key: str) -> None:
    client = dlock.Client(f"memory:{key}")

    @client.locked("inner")
    async def inner() -> str:
        return dlock.current_lease().key

    @client.locked("outer")
    async def outer() -> list[str]:
        return [await inner(), dlock.current_lease().key]

    assert asyncio.run(outer()) == ["inner", "outer"]
    for ask in (dlock.current_lease, sync.current_lease):
        with pytest.raises(dlock.LockError) as none:
            ask()
        assert none.value.code == "NO_LEASE"


def test_a_reentrant_function_may_call_itself_for_the_same_key(key: str) -> None:
    client = dlock.Client(f"memory:{key}")

    @client.locked("tree:{root}", reentrant=True, wait=1)
    async def walk(root: str, depth: int) -> list[int]:
        own = [dlock.current_lease().token]
        return own if depth == 0 else own + await walk(root, depth - 1)

    @client.locked("plain", reentrant=True, wait=1)
    def plain(depth: int) -> int:
        return depth if depth == 0 else plain(depth - 1)

    async def main() -> None:
        assert len(set(await walk("r", 3))) == 1
        assert not await client.is_locked("tree:r")

    asyncio.run(main())
    threads = [threading.Thread(target=plain, args=(3,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert plain(1) == 0


def test_r02_a_loss_cancels_the_function(key: str) -> None:
    client = dlock.Client(f"memory:{key}")

    @client.locked("k", max_hold=0.1)
    async def work() -> None:
        await asyncio.sleep(60)

    with pytest.raises(dlock.LockLost):
        asyncio.run(work())


@pytest.mark.parametrize("template", ["{missing}", "{}", "{0}", "{order", "{order.id:{width}}", 7])
def test_r15_a_template_that_cannot_be_filled_is_refused_at_decoration(template: Any) -> None:
    def ship(order: Order) -> None: ...

    for locked in (dlock.locked, sync.locked, dlock.Client("memory:").locked):
        with pytest.raises(dlock.InvalidOptions) as bad:
            locked(template)(ship)
        assert bad.value.field == "key"


def test_names_may_come_with_the_call_where_a_function_takes_any(key: str) -> None:
    @sync.Client(f"memory:{key}").locked("order:{order_id}")
    def ship(**details: int) -> str:
        return sync.current_lease().key

    assert ship(order_id=7) == "order:7"
    with pytest.raises(dlock.InvalidOptions, match="'order_id' was not given"):
        ship(other=7)


def test_r15_what_is_no_function_that_ends_is_refused() -> None:
    def generator() -> Any:
        yield

    async def coroutine() -> None: ...

    for fn in (generator, int, 7, staticmethod(generator)):
        with pytest.raises(dlock.InvalidOptions):
            dlock.locked("k")(fn)
    with pytest.raises(dlock.InvalidOptions, match=r"dlock\.locked"):
        sync.locked("k")(coroutine)
    with pytest.raises(TypeError, match="tll"):
        dlock.locked("k", tll=5)
    with pytest.raises(dlock.InvalidOptions):
        dlock.Client("memory:").locked("k", ttl=-1)(lambda: None)()


class Secretive:
    """Its code fails when it is asked for what a template wants."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __format__(self, _: str) -> str:
        raise self.error

    @property
    def id(self) -> int:
        raise self.error


@pytest.mark.parametrize("coroutine", [False, True], ids=["plain", "async"])
@pytest.mark.parametrize(
    ("template", "value", "said"),
    [
        ("order:{order.missing}", Order(7), "missing"),
        ("order:{order[9]}", [7], "index out of range"),
        ("order:{order[id]}", {"nr": 7}, "'id'"),
        ("order:{order[id]}", 7, "not subscriptable"),
        ("order:{order:d}", "seven", "format code"),
        ("order:{order.id}", Secretive(KeyError("id")), "'id'"),
        ("order:{order}", Secretive(ValueError("no")), "no"),
        ("order:{order}:{user}", 7, "'user' was not given"),
        ("order:{order}", object(), "instead of {order}"),
        ("order:{order!r}", lambda: 7, "instead of {order}"),
        ("order:{order}", object().__init__, "instead of {order}"),
        ("order:{order}", (7, object()), "instead of {order}"),
    ],
)
def test_r15_a_template_that_a_call_cannot_fill_is_refused(template: str, value: Any, said: str, coroutine: bool) -> None:
    client = dlock.Client("memory:")

    def ship(order: Any, **_: Any) -> None:
        raise AssertionError("must not run")

    async def ship_soon(order: Any, **_: Any) -> None:
        raise AssertionError("must not run")

    with pytest.raises(dlock.InvalidOptions) as bad:
        asyncio.run(client.locked(template)(ship_soon)(value)) if coroutine else client.locked(template)(ship)(value)
    assert (bad.value.field, said in str(bad.value)) == ("key", True), str(bad.value)


def test_errors_of_the_users_own_objects_pass_a_template() -> None:
    client = sync.Client("memory:")
    for error in (RuntimeError("no"), OSError("no"), dlock.LockBusy("no")):
        with pytest.raises(type(error)) as passed:
            client.locked("order:{order.id}")(lambda order: order)(Secretive(error))
        assert passed.value is error


def test_r15_a_key_given_as_text_holds_no_address_of_an_object() -> None:
    for client in (dlock.Client("memory:"), sync.Client("memory:")):
        for key in (f"order:{object()}", str(test_errors_of_the_users_own_objects_pass_a_template), "[object Object]"):
            with pytest.raises(dlock.InvalidOptions, match=r"^key: "):
                client.lock(key)
        assert client.lock(f"order:{Order(7)}").key == "order:Order(id=7)"
        assert client.lock("meet at 0xCAFE").key == "meet at 0xCAFE"


@pytest.mark.parametrize("template", ["order:{0}", "order:{}", "order:{missing}"])
def test_r15_a_name_that_no_parameter_has_is_refused_when_decorating(template: str) -> None:
    with pytest.raises(dlock.InvalidOptions, match=r"ship: names of parameters: order"):

        @sync.Client("memory:").locked(template)
        def ship(order: int) -> None: ...
