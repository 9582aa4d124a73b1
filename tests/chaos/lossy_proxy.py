"""A TCP proxy that loses answers of requests that were executed, stalls either direction, and leaves connections half open."""

import asyncio
import contextlib
import random
from collections import Counter
from typing import Protocol, Self

CHUNK = 64 * 1024
FRAME_HEADER = 9
DATA_FRAME = 0


class Answers(Protocol):
    """Counts the answers in what a server says."""

    def count(self, chunk: bytes) -> int: ...


class Chunks:
    """What arrives together counts as one answer: there may be more of them in it, never less."""

    def count(self, _chunk: bytes) -> int:
        return 1


class Http2Frames:
    """An answer of gRPC is a frame of data; what only steers the connection is none."""

    def __init__(self) -> None:
        self._rest = b""

    def count(self, chunk: bytes) -> int:
        self._rest += chunk
        found = 0
        while len(self._rest) >= FRAME_HEADER:
            end = FRAME_HEADER + int.from_bytes(self._rest[:3])
            if len(self._rest) < end:
                break
            found += self._rest[3] == DATA_FRAME
            self._rest = self._rest[end:]
        return found


class Link:
    """One client's connection and ours to the server."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter, answers: Answers) -> None:
        self.client = client
        self.server = server
        self.answers = answers
        self.swallows = False

    def cut(self) -> None:
        for writer in (self.client, self.server):
            with contextlib.suppress(Exception):
                writer.transport.abort()


class LossyProxy:
    """Loses this share of what the server says; after a loss the connection says nothing more and soon breaks, as a stream must."""

    def __init__(self, target: tuple[str, int], listen: str, drawn: random.Random, http2: bool = False) -> None:
        self._target = target
        self._listen = listen
        self._random = drawn
        self._http2 = http2
        self._links: set[Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None
        self._flows = {"requests": asyncio.Event(), "answers": asyncio.Event()}
        for flow in self._flows.values():
            flow.set()
        self.loses = 0.0
        self.counts: Counter[str] = Counter()
        self.port = 0

    async def start(self) -> Self:
        self._listener = await asyncio.start_server(self._serve, self._listen, 0)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def close(self) -> None:
        if self._listener:
            self._listener.close()
        for link in list(self._links):
            link.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def stalled(self, *directions: str):
        """Holds back what goes in these directions, on connections new and old."""
        for direction in directions:
            self._flows[direction].clear()
        try:
            yield
        finally:
            for direction in directions:
                self._flows[direction].set()

    def half_open(self, side: str) -> int:
        """Some connections end on one side, `client` or `server`; for the other the line has just gone silent."""
        chosen = [link for link in self._links if not link.swallows and self._random.random() < 0.5]
        for link in chosen:
            link.swallows = True
            with contextlib.suppress(Exception):
                (link.client if side == "client" else link.server).transport.abort()
            self._later(self._random.uniform(0.5, 4), link)
        return len(chosen)

    async def _serve(self, requests: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            answers, server = await asyncio.open_connection(*self._target)
        except OSError:
            client.transport.abort()
            return
        link = Link(client, server, Http2Frames() if self._http2 else Chunks())
        self._links.add(link)
        pumps = [asyncio.ensure_future(pump) for pump in (self._pass_requests(requests, link), self._pass_answers(answers, link))]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            # Half open: the other side finds out by itself, or when the line is cut.
            while link.swallows and link in self._links and not all(pump.done() for pump in pumps):
                await asyncio.wait([pump for pump in pumps if not pump.done()])
        finally:
            for pump in pumps:
                pump.cancel()
            self._links.discard(link)
            link.cut()

    async def _pass_requests(self, reader: asyncio.StreamReader, link: Link) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(CHUNK):
                await self._flows["requests"].wait()
                if not link.server.is_closing():
                    link.server.write(chunk)
                    await link.server.drain()

    async def _pass_answers(self, reader: asyncio.StreamReader, link: Link) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(CHUNK):
                await self._flows["answers"].wait()
                found = link.answers.count(chunk)
                if found and not link.swallows and self._random.random() < self.loses:
                    link.swallows = True
                    self._later(self._random.uniform(0, 0.3), link)
                if link.swallows:
                    self.counts["dropped answers"] += found
                elif not link.client.is_closing():
                    link.client.write(chunk)
                    await link.client.drain()

    def _later(self, seconds: float, link: Link) -> None:
        def cut() -> None:
            self._links.discard(link)
            link.cut()

        asyncio.get_running_loop().call_later(seconds, cut)
