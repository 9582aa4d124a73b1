"""A program with some work under locks, which shows its metrics on a port that it prints. It ends with its standard input.

Usage: program.py URL
"""

import asyncio
import logging
import random
import sys
import threading
from collections.abc import Awaitable, Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import dlock

TTL = 15.0


def serve(client: dlock.Client) -> int:
    class Metrics(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/openmetrics-text; version=1.0.0; charset=utf-8")
            self.end_headers()
            self.wfile.write(client.metrics().encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Metrics)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return int(server.server_port)


async def pause(seconds: float) -> None:
    """About as long: real work differs from one time to the next."""
    await asyncio.sleep(seconds * random.uniform(0.5, 1.5))


async def orders(client: dlock.Client) -> None:
    """A short lock for each order."""
    while True:
        async with client.lock(f"order:{random.randrange(1_000_000)}", ttl=TTL):
            await pause(0.02)
        await pause(0.4)


async def stock(client: dlock.Client) -> None:
    """Few keys that many tasks want."""
    while True:
        async with client.lock(f"stock:{random.randrange(3)}", ttl=TTL):
            await pause(0.1)
        await pause(0.6)


async def impatient(client: dlock.Client) -> None:
    """Who wants one of these keys and has no time."""
    while True:
        await pause(1)
        async with client.lock("stock:0", ttl=TTL, wait=random.choice([0, 0.05])):
            await pause(0.05)


async def report(client: dlock.Client, number: int) -> None:
    """A lock that is held and renewed for long."""
    while True:
        async with client.lock(f"report:{number}", ttl=TTL):
            await pause(60)


async def again(work: Callable[[], Awaitable[None]]) -> None:
    """What fails begins anew, as under a supervisor."""
    while True:
        try:
            await work()
        except dlock.LockError:
            await pause(0.5)


async def main(url: str) -> None:
    # The picture shows what the log would tell.
    logging.getLogger("dlock").addHandler(logging.NullHandler())
    async with dlock.Client(url) as client:
        print(serve(client), flush=True)
        works: list[Callable[[], Awaitable[None]]] = []
        works += [lambda: orders(client)] * 12 + [lambda: stock(client)] * 12 + [lambda: impatient(client)] * 2
        works += [lambda number=number: report(client, number) for number in range(12)]
        tasks = [asyncio.create_task(again(work)) for work in works]
        await asyncio.to_thread(sys.stdin.read)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


asyncio.run(main(sys.argv[1]))
