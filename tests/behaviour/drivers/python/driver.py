"""The Python driver of the behaviour suite: runs the operations that the runner sends, and judges nothing.

One request a line on stdin, `{"id": 1, "client": "a", "op": "acquire", "args": {..}}`; one answer a line on stdout, in any order.
Times are in milliseconds, stamps are readings of CLOCK_MONOTONIC, which all processes of the machine share.
"""

import asyncio
import contextlib
import dataclasses
import gc
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from typing import Any

import dlock

OF_PARTS = ("delay", "max_delay", "base_delay", "call_timeout")
DURATIONS = ("ttl", "wait", "op_timeout", "connect_timeout", "max_hold", "max_stall", *OF_PARTS)
HOLDING = ("ttl", "renew", "renewal_threshold", "max_hold", "max_stall", "reentrant", "metadata")
LOCK_OPTIONS = (*HOLDING, "wait", "retry", "fair", "op_timeout")
CLIENT_OPTIONS = ("namespace", "op_timeout", "connect_timeout", "renewal")
PARTS = {"retry": dlock.Retry, "renewal": dlock.Renewal}
ERROR_FIELDS = ("key", "field", "value", "allowed", "server", "operation", "token", "reason", "attempts")


class Driver:
    """What the requests have made so far, by the names that they gave."""

    def __init__(self) -> None:
        self.clients: dict[str, Any] = {}
        self.locks: dict[str, Any] = {}
        self.leases: dict[str, Any] = {}
        self.bodies: dict[str, asyncio.Event] = {}
        self.events: dict[str, list[Any]] = {}
        self.tasks: dict[int, asyncio.Task[None]] = {}

    async def serve(self) -> None:
        reader = asyncio.StreamReader(limit=2**26)
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            request = json.loads(line)
            if request["op"] == "exit":
                return
            if request["op"] == "quit":
                sys.exit(0)
            self.tasks[request["id"]] = asyncio.create_task(self.answer(**request))

    async def answer(self, id: int, client: str, op: str, args: dict[str, Any]) -> None:  # noqa: A002
        try:
            say(id=id, ok=await getattr(self, op)(client=client, id=id, **args))
        except asyncio.CancelledError:
            say(id=id, error={"code": "CANCELLED"})
        except Exception as error:
            say(id=id, error=describe(error))
        finally:
            del self.tasks[id]

    async def client(self, client: str, url: str, id: int, **options: Any) -> int:  # noqa: A002
        self.clients[client] = dlock.Client(url, **chosen(options, CLIENT_OPTIONS))
        return os.getpid()

    def lock_of(self, client: str, key: str = "", lock: str = "", **options: Any) -> Any:
        """The lock that the request names, or a new one. A stubborn body goes on after a loss."""
        if lock:
            return self.locks[lock]
        extra = options.get("raw", {}) | ({"on_lost": "raise"} if options.get("stubborn") else {})
        return self.clients[client].lock(key, **chosen(options, LOCK_OPTIONS), **extra)

    async def lock(self, **args: Any) -> None:
        self.locks[args["as"]] = self.lock_of(**args)

    async def acquire(self, **args: Any) -> dict[str, Any]:
        return self.keep(args, await self.lock_of(**args).acquire())

    async def try_acquire(self, **args: Any) -> dict[str, Any] | None:
        lease = await self.lock_of(**args).try_acquire()
        return lease and self.keep(args, lease)

    async def with_(self, id: int, **args: Any) -> str:  # noqa: A002
        """A scoped body that lasts until it is told to leave. Tells when it was entered, and when and how it ended.

        With `then` it takes that key as well before it leaves.
        """
        leave = self.bodies[args["as"]] = asyncio.Event()
        how = "cancelled"
        async with self.lock_of(**args) as lease:
            say(id=id, event="entered", value=self.keep(args, lease))
            try:
                await leave.wait()
                how = "left"
                if "then" in args:
                    async with self.clients[args["client"]].lock(args["then"]):
                        how = "both"
            finally:
                say(id=id, event="ended", value=how)
        return how

    async def leave(self, lease: str, **_: Any) -> bool:
        self.bodies.pop(lease).set()
        return True

    async def nest(self, levels: int, **args: Any) -> dict[str, Any]:
        """Acquires as often as `levels` says, then releases as often; tells whether the key was held after each release."""
        lock = self.lock_of(**args)
        leases = [await lock.acquire() for _ in range(levels)]
        held = []
        for lease in reversed(leases):
            await lease.release()
            held.append(await lock.is_locked())
        return {"token": leases[0].token, "same": len({lease.token for lease in leases}) == 1, "held": held}

    async def work(self, keys: int, tasks: int, hold: float, **args: Any) -> dict[str, int]:
        """Takes keys and holds each for a while, until the client is closed; counts what came of it."""
        done = {"held": 0, "lost": 0, "unreleased": 0}

        async def task(number: int) -> None:
            lock = self.lock_of(**args | {"key": f"{args['key']}-{number % keys}"})
            with contextlib.suppress(dlock.ClientClosed):
                while True:
                    lease = await lock.acquire()
                    await asyncio.sleep(hold / 1000)
                    done["held"] += 1
                    done["lost"] += not lease.valid
                    done["unreleased"] += not await lease.release()

        await asyncio.gather(*(task(number) for number in range(tasks)))
        return done

    async def close_on_signal(self, client: str, timeout: Any, stays: bool = False, **_: Any) -> bool:
        if stays:
            signal.signal(signal.SIGTERM, lambda *_: None)
        self.clients[client].close_on_signal(seconds(timeout))
        return True

    async def contend(self, cycles: int, tasks: int, **args: Any) -> list[list[float]]:
        holds = []

        async def task() -> None:
            lock = self.lock_of(**args)
            for _ in range(cycles):
                async with lock as lease:
                    begin = stamp()
                    await asyncio.sleep(lease.token % 3 / 1000)
                    holds.append([lease.token, begin, stamp()])

        async with asyncio.TaskGroup() as group:
            for _ in range(tasks):
                group.create_task(task())
        return holds

    async def release(self, lease: str, **_: Any) -> bool:
        return bool(await self.leases[lease].release())

    async def release_lock(self, **args: Any) -> bool:
        return bool(await self.lock_of(**args).release())

    async def extend(self, lease: str, ttl: Any, **_: Any) -> dict[str, Any]:
        await self.leases[lease].extend(seconds(ttl))
        return shown(self.leases[lease])

    async def auto_renew(self, lease: str, renewing: bool, **_: Any) -> bool:
        self.leases[lease].auto_renew(renewing)
        return True

    async def lease(self, lease: str, **_: Any) -> dict[str, Any]:
        return shown(self.leases[lease])

    async def check(self, lease: str, **_: Any) -> bool:
        self.leases[lease].check()
        return True

    async def wait_lost(self, lease: str, **_: Any) -> str:
        lost = await self.leases[lease].wait_lost()
        return str(getattr(lost, "reason", lost))

    async def drop(self, lease: str, **_: Any) -> bool:
        return forget(self.leases, lease)

    async def drop_lock(self, lock: str, **_: Any) -> bool:
        return forget(self.locks, lock)

    async def stats(self, client: str, **_: Any) -> dict[str, Any]:
        return plain(self.clients[client].stats())

    async def health(self, client: str, **_: Any) -> dict[str, Any]:
        return plain(await self.clients[client].health())

    async def metrics(self, client: str, **_: Any) -> str:
        return str(self.clients[client].metrics())

    async def on(self, client: str, event: str, **_: Any) -> bool:
        self.clients[client].on(event, self.events.setdefault(client, []).append)
        return True

    async def heard(self, client: str, **_: Any) -> list[dict[str, Any]]:
        return [event._asdict() | {"waited": millis(event.waited), "held": millis(event.held)} for event in self.events[client]]

    async def ping(self, client: str, **_: Any) -> bool:
        await self.clients[client].ping()
        return True

    async def inspect(self, client: str, key: str, **_: Any) -> dict[str, Any]:
        return found(await self.clients[client].inspect(key))

    async def is_locked(self, client: str, key: str, **_: Any) -> bool:
        return bool(await self.clients[client].is_locked(key))

    async def list(self, client: str, prefix: str, **_: Any) -> list[dict[str, Any]]:
        return [found(one) for one in await self.clients[client].list_locks(prefix)]

    async def force_release(self, client: str, key: str, token: int | None = None, owner: str | None = None, **_: Any) -> bool:
        return bool(await self.clients[client].force_release(key, token, owner=owner))

    async def close(self, client: str, timeout: float = 0, **_: Any) -> bool:
        await self.clients[client].close(seconds(timeout))
        return True

    async def block(self, **args: Any) -> bool:
        time.sleep(args["for"] / 1000)
        return True

    async def fork(self, **_: Any) -> int | None:
        """A child that does nothing and outlives us, as a worker of `multiprocessing` may."""
        child = multiprocessing.get_context("fork").Process(target=idle)
        child.start()
        return child.pid

    async def cancel(self, task: int, **_: Any) -> bool:
        return task in self.tasks and self.tasks[task].cancel()

    def keep(self, args: dict[str, Any], lease: Any) -> dict[str, Any]:
        if name := args.get("as"):
            self.leases[name] = lease
        return shown(lease)


setattr(Driver, "with", Driver.with_)


def idle() -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    time.sleep(60)


def chosen(args: dict[str, Any], known: tuple[str, ...]) -> dict[str, Any]:
    return {name: option(name, args[name]) for name in known if name in args}


def option(name: str, value: Any) -> Any:
    if name in PARTS:
        return PARTS[name](**{part: option(part, inner) for part, inner in value.items()})
    return seconds(value) if name in DURATIONS else number(value)


def number(value: Any) -> Any:
    return float(value) if value in ("nan", "inf", "-inf") else value


def seconds(millis: Any) -> Any:
    value = number(millis)
    return value / 1000 if isinstance(value, int | float) else value


def millis(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000


def shown(lease: Any) -> dict[str, Any]:
    fields = {name: getattr(lease, name) for name in ("key", "token", "owner", "valid", "status", "lost")}
    fields |= {name: getattr(lease, name).timestamp() * 1000 for name in ("acquired_at", "expires_at")}
    return fields | {"ttl": millis(lease.ttl), "remaining": millis(lease.remaining), "reason": reason(lease)}


def reason(lease: Any) -> str | None:
    try:
        lease.check()
    except dlock.LockError as error:
        return getattr(error, "reason", None)
    return None


def found(inspection: Any) -> dict[str, Any]:
    return {
        "key": inspection.key,
        "holder": holder(inspection.holder),
        "queue": len(inspection.queue),
        "waiting": dict(enumerate(inspection.queue, 1)),
        "cluster": inspection.cluster,
        "waiting_here": inspection.waiting_here,
    }


def plain(figures: Any) -> dict[str, Any]:
    """Figures as the other languages have them too."""
    return dataclasses.asdict(figures)


def holder(seen: Any) -> dict[str, Any] | None:
    if seen is None:
        return None
    fields = {name: getattr(seen, name) for name in ("owner", "token", "pid", "host", "metadata")}
    return fields | {"remaining": millis(seen.remaining)}


def forget(known: dict[str, Any], name: str) -> bool:
    gone = known.pop(name, None) is not None
    gc.collect()
    return gone


def describe(error: Exception) -> dict[str, Any]:
    """The fields of our errors; of others the name, and all that is known of those that should not happen."""
    unexpected = None if isinstance(error, TypeError | dlock.LockError) else "".join(traceback.format_exception(error))
    code = unexpected or getattr(error, "code", None) or type(error).__name__
    fields = {name: value for name in ERROR_FIELDS if (value := getattr(error, name, None)) is not None}
    return fields | {"code": code, "message": str(error), "holder": holder(getattr(error, "holder", None))}


def stamp() -> float:
    return time.clock_gettime(time.CLOCK_MONOTONIC) * 1000


def say(**message: Any) -> None:
    sys.stdout.write(json.dumps({"at": stamp()} | message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(Driver().serve())
