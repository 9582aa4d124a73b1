"""A TCP proxy on loopback that can hold bytes back, swallow answers and cut connections."""

import asyncio
import contextlib
from typing import Self

CHUNK = 64 * 1024


class Connection:
    """One client's connection and ours to the server."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self.server = server
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.answers_pass = True
        self.held = 0
        """Requests' bytes that the proxy has read and not yet passed on."""
        self.delivered = asyncio.Event()
        """Nothing is held back, or nothing can be delivered any more."""
        self.delivered.set()

    def hold(self, size: int) -> None:
        self.held += size
        self.delivered.clear()

    def deliver(self, size: int) -> None:
        self.held -= size
        if self.held == 0:
            self.delivered.set()

    def cut(self) -> None:
        self.delivered.set()
        for writer in (self.client, self.server):
            with contextlib.suppress(Exception):
                writer.transport.abort()


class TcpProxy:
    """Passes bytes to a port of this machine until told otherwise. What is told holds for the connections that exist."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None
        self._refusing = False
        self.port = 0

    async def start(self) -> Self:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def close(self) -> None:
        if self._listener:
            self._listener.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def stall(self) -> None:
        """Holds back what existing connections ask. New connections pass."""
        for connection in self._connections:
            connection.flowing.clear()

    async def flow(self) -> None:
        """Delivers what was held back, even for clients that have left; returns when the server has it."""
        for connection in self._connections:
            connection.flowing.set()
        for connection in list(self._connections):
            await connection.delivered.wait()

    def held(self) -> int:
        return sum(connection.held for connection in self._connections)

    def drop_answers(self) -> None:
        """Lets requests of existing connections through and swallows what the server says."""
        for connection in self._connections:
            connection.answers_pass = False

    def cut(self) -> None:
        """Breaks the existing connections."""
        for connection in list(self._connections):
            connection.cut()

    def refuse(self, refusing: bool = True) -> None:
        """Breaks every new connection at once."""
        self._refusing = refusing

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if self._refusing:
            client.transport.abort()
            return
        answers, server = await asyncio.open_connection("127.0.0.1", self._target)
        connection = Connection(client, server)
        self._connections.add(connection)
        try:
            with contextlib.suppress(OSError):
                await asyncio.gather(_requests(reader, connection), _answers(answers, connection))
        finally:
            self._connections.discard(connection)
            connection.cut()


async def _requests(reader: asyncio.StreamReader, connection: Connection) -> None:
    while chunk := await _read(reader):
        connection.hold(len(chunk))
        await connection.flowing.wait()
        connection.server.write(chunk)
        await connection.server.drain()
        connection.deliver(len(chunk))
    await connection.flowing.wait()
    connection.server.write_eof()


async def _answers(reader: asyncio.StreamReader, connection: Connection) -> None:
    while chunk := await _read(reader):
        if connection.answers_pass and not connection.client.is_closing():
            connection.client.write(chunk)
            with contextlib.suppress(OSError):
                await connection.client.drain()
    connection.client.close()


async def _read(reader: asyncio.StreamReader) -> bytes:
    """Empty at the end, however it came."""
    try:
        return await reader.read(CHUNK)
    except OSError:
        return b""
