"""The limit: two round trips to Redis, `SET … NX PX` and `DEL`, over a socket of the caller's own, with nothing around them.

They are no lock: nobody waits, and whoever deletes the key deletes anybody's.
"""

import asyncio
import socket
import uuid
from urllib.parse import urlsplit


def connected(url: str) -> socket.socket:
    server = urlsplit(url)
    connection = socket.create_connection((server.hostname, server.port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def requests() -> tuple[bytes, bytes]:
    key = f"raw-{uuid.uuid4().hex}".encode()
    set_it = [b"SET", key, uuid.uuid4().hex.encode(), b"NX", b"PX", b"30000"]
    return packed(set_it), packed([b"DEL", key])


def packed(words: list[bytes]) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


class BlockingPair:
    def __init__(self, url: str) -> None:
        self._connection = connected(url)
        self._set, self._delete = requests()

    def __enter__(self) -> None:
        self._connection.sendall(self._set)
        if self._connection.recv(64) != b"+OK\r\n":
            raise RuntimeError("SET was refused")

    def __exit__(self, *_: object) -> None:
        self._connection.sendall(self._delete)
        self._connection.recv(64)


class LoopPair:
    def __init__(self, url: str) -> None:
        self._connection = connected(url)
        self._connection.setblocking(False)
        self._set, self._delete = requests()
        self._answered: asyncio.Future[bytes] | None = None
        asyncio.get_running_loop().add_reader(self._connection, self._read)

    def _read(self) -> None:
        answer = self._connection.recv(64)
        if self._answered and not self._answered.done():
            self._answered.set_result(answer)

    async def _ask(self, request: bytes) -> bytes:
        self._answered = asyncio.get_running_loop().create_future()
        self._connection.send(request)
        return await self._answered

    async def __aenter__(self) -> None:
        if await self._ask(self._set) != b"+OK\r\n":
            raise RuntimeError("SET was refused")

    async def __aexit__(self, *_: object) -> None:
        await self._ask(self._delete)
