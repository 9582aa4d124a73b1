"""A contender in Python. What it does, and what it is asked, is in benches/README.md. Usage: main.py LIBRARY URL"""

import asyncio
import json
import sys
from contextlib import ExitStack

import asyncio_work
import blocking_work
from libraries import ASYNCIO, BLOCKING


def say(answer: object) -> None:
    print(json.dumps(answer), flush=True)


def answered(error: Exception) -> dict[str, str]:
    return {"error": f"{type(error).__name__}: {error}"}


async def serve_asyncio(name: str, url: str) -> None:
    async with ASYNCIO[name](url) as library:
        say({"ready": True})
        while line := await asyncio.to_thread(sys.stdin.readline):
            try:
                say(await asyncio_work.do(library, json.loads(line)))
            except Exception as error:
                say(answered(error))


def serve_blocking(name: str, url: str) -> None:
    with ExitStack() as held, BLOCKING[name](url) as library:
        say({"ready": True})
        for line in sys.stdin:
            try:
                say(blocking_work.do(library, held, json.loads(line)))
            except Exception as error:
                say(answered(error))


if __name__ == "__main__":
    name, url = sys.argv[1:]
    if name in ASYNCIO:
        asyncio.run(serve_asyncio(name, url))
    else:
        serve_blocking(name, url)
