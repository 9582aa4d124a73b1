"""The Python worker: takes keys, holds them, touches the fenced register, releases them and logs it. It judges nothing.

Its one argument is a JSON object, see `crew.py`. It goes on until stdin ends; then it ends what is under way. Times are
milliseconds of CLOCK_MONOTONIC, which all processes of the machine share. A line is in the log before the next step is taken.
"""

import asyncio
import json
import os
import random
import sys
import time
from typing import Any

import dlock

LONG_SHARE = 0.02
"""Of the holds: long ones live by renewal."""
REGISTER_SECONDS = 0.5


def now() -> float:
    return round(time.clock_gettime(time.CLOCK_MONOTONIC) * 1000, 3)


class Worker:
    def __init__(self, plan: dict[str, Any]) -> None:
        self.plan = plan
        self.random = random.Random(plan["seed"])
        self.file = os.open(plan["log"], os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        self.attempts = 0
        self.finishing = asyncio.Event()
        self.register = Register(*plan["register"])

    def log(self, event: str, **fields: Any) -> None:
        line = {"t": now(), "e": event} | fields
        os.write(self.file, (json.dumps(line, separators=(",", ":")) + "\n").encode())

    async def run(self) -> None:
        plan = self.plan
        self.client = dlock.Client(plan["url"], namespace=plan["namespace"], op_timeout=plan["op_timeout"] / 1000)
        self.log("start", pid=os.getpid(), language="python")
        watching = asyncio.create_task(self.watch_queues()) if plan["watch"] else None
        await asyncio.gather(*(self.cycle() for _ in range(plan["tasks"])), self.until_told())
        if watching:
            watching.cancel()
        await self.client.close()
        self.log("end")

    async def until_told(self) -> None:
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        await reader.readline()
        self.finishing.set()

    async def cycle(self) -> None:
        while not self.finishing.is_set():
            await self.attempt()
            await asyncio.sleep(self.random.expovariate(1) * self.plan["think"] / 1000)

    async def attempt(self) -> None:
        self.attempts += 1
        number, draw = self.attempts, self.random.random
        key = self.random.choice(self.plan["hot"] if draw() < self.plan["heat"] else self.plan["cold"])
        mode = self.random.choices(["wait", "unfair", "cancel", "try"], [7, 1, 1, 1])[0]
        lock = self.client.lock(key, ttl=self.plan["ttl"] / 1000, fair=mode != "unfair")
        self.log("ask", n=number, k=key, m=mode)
        try:
            if mode == "try":
                lease = await lock.try_acquire()
            elif mode == "cancel":
                lease = await asyncio.wait_for(lock.acquire(), draw() * 0.3)
            else:
                lease = await lock.acquire()
        except TimeoutError:
            self.log("cancelled", n=number)
            return
        except dlock.LockError as error:
            self.log("failed", n=number, code=error.code)
            return
        if lease is None:
            self.log("failed", n=number, code="LOCK_BUSY")
        else:
            await self.hold(number, key, lease)

    async def hold(self, number: int, key: str, lease: Any) -> None:
        at = now()
        self.log("grant", n=number, at=at, until=at + lease.remaining * 1000, token=lease.token, owner=lease.owner)
        losing = asyncio.create_task(self.tell_loss(number, lease))
        seen = await self.register.read(key, lease.token)
        end = now() + self.how_long()
        while (left := end - now()) > 0:
            await asyncio.sleep(min(left, self.plan["ttl"] / 6) / 1000)
            at = now()
            if (remaining := lease.remaining) > 0:
                self.log("held", n=number, at=at, until=at + remaining * 1000)
        await self.register.write(key, lease.token, seen)
        self.log("releasing", n=number)
        losing.cancel()
        done = await lease.release()
        self.log("released", n=number, ok=done, status=lease.status)

    async def tell_loss(self, number: int, lease: Any) -> None:
        reason = await lease.wait_lost()
        self.log("lost", n=number, why=str(getattr(reason, "reason", reason)))

    def how_long(self) -> float:
        ttl, draw = self.plan["ttl"], self.random.random()
        if draw < LONG_SHARE:
            return self.random.uniform(1, 2.5) * ttl
        return self.random.uniform(0, 0.15) * ttl if draw < 0.1 else self.random.uniform(0, 10)

    async def watch_queues(self) -> None:
        """Notes who waits in which order, where the backend can tell."""
        while True:
            for key in self.plan["hot"]:
                asked = now()
                try:
                    found = await self.client.inspect(key)
                    self.log("queue", k=key, asked=asked, owners=list(found.queue))
                except dlock.LockError as error:
                    self.log("unseen", k=key, code=error.code)
                await asyncio.sleep(0.05)


class Register:
    """The resource that the keys protect. Where it cannot be reached, the hold goes without."""

    def __init__(self, host: str, port: int) -> None:
        self.address = (host, port)
        self.connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.turn = asyncio.Lock()

    async def read(self, key: str, token: int) -> Any:
        return await self.ask({"op": "read", "k": key, "token": token})

    async def write(self, key: str, token: int, seen: Any) -> None:
        """Without looking at the lease: what protects the data is the token."""
        if seen is not None:
            await self.ask({"op": "write", "k": key, "token": token, "seen": seen})

    async def ask(self, request: dict[str, Any]) -> Any:
        async with self.turn:
            try:
                async with asyncio.timeout(REGISTER_SECONDS):
                    if self.connection is None:
                        self.connection = await asyncio.open_connection(*self.address)
                    reader, writer = self.connection
                    writer.write((json.dumps(request) + "\n").encode())
                    return json.loads(await reader.readline())
            except (OSError, ValueError):  # a timeout is an OSError too
                self.forget()
                return None

    def forget(self) -> None:
        if self.connection is not None:
            self.connection[1].close()
        self.connection = None


if __name__ == "__main__":
    asyncio.run(Worker(json.loads(sys.argv[1])).run())
