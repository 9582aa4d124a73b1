"""Counts what clients cost a server: commands of redis-server, as `redis-cli monitor` shows them, or entries of etcd's raft log."""

import asyncio
import contextlib
import re
import uuid

from services import EtcdServer, RedisServer, ServerProcess

# What a script runs, and what a client says on a new connection: a client in steady use makes a second one for its lone requests.
NO_WORK = re.compile(rb' lua\]|\] "(?:CLIENT|PING)"')
# A command may name hundreds of keys.
LONGEST_LINE = 64 * 1024 * 1024


def monitor_of(server: ServerProcess) -> "Commands | RaftEntries":
    if isinstance(server, EtcdServer):
        return RaftEntries(server)
    if isinstance(server, RedisServer):
        return Commands(server.port)
    raise TypeError(f"nothing counts what {server.program} does")


class RaftEntries:
    """What etcd has to agree on and to keep; reading and keeping alive are none."""

    unit = "raft entries"

    def __init__(self, server: EtcdServer) -> None:
        self._server = server
        self._first = 0

    async def start(self) -> None:
        self._first = await asyncio.to_thread(self._server.raft_index)

    async def stop(self) -> list[str]:
        last = await asyncio.to_thread(self._server.raft_index)
        return [f"entry {index}" for index in range(self._first + 1, last + 1)]

    async def close(self) -> None:
        """There is nothing to close."""


class Commands:
    """Sees what the server executes from `start` to `stop`."""

    unit = "commands"

    def __init__(self, port: int) -> None:
        self._port = port
        self._lines: list[bytes] = []
        self._reading: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._writer: asyncio.StreamWriter | None = None

    async def start(self) -> None:
        await self.close()
        reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port, limit=LONGEST_LINE)
        self._writer.write(b"MONITOR\r\n")
        if await reader.readline() != b"+OK\r\n":
            raise RuntimeError("the server does not let itself be monitored")
        self._lines.clear()
        self._reading = asyncio.create_task(self._read(reader))

    async def stop(self) -> list[str]:
        """The commands of clients since `start`, without those that scripts made, and without those that begin a connection."""
        mark = f"end-{uuid.uuid4().hex}".encode()
        _, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=LONGEST_LINE)
        writer.write(b"PING " + mark + b"\r\n")
        while not any(mark in line for line in self._lines):
            self._changed.clear()
            await asyncio.wait_for(self._changed.wait(), 10)
        writer.close()
        seen = [line.decode(errors="replace").strip() for line in self._lines if mark not in line and not NO_WORK.search(line)]
        await self.close()
        return seen

    async def close(self) -> None:
        if self._reading:
            self._reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reading
            self._reading = None
        if self._writer:
            self._writer.close()
            self._writer = None

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            self._lines.append(line)
            self._changed.set()
