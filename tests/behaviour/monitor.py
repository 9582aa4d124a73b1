"""Counts the commands that clients send to a redis-server, as `redis-cli monitor` shows them."""

import asyncio
import contextlib
import uuid

FROM_SCRIPT = b" lua]"
# A command may name hundreds of keys.
LONGEST_LINE = 64 * 1024 * 1024


class Monitor:
    """Sees what the server executes from `start` to `stop`."""

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
        """The commands of clients since `start`, without those that scripts made."""
        mark = f"end-{uuid.uuid4().hex}".encode()
        _, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=LONGEST_LINE)
        writer.write(b"PING " + mark + b"\r\n")
        while not any(mark in line for line in self._lines):
            self._changed.clear()
            await asyncio.wait_for(self._changed.wait(), 10)
        writer.close()
        seen = [line.decode(errors="replace").strip() for line in self._lines if mark not in line and FROM_SCRIPT not in line]
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
