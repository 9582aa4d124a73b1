"""The backend of one scenario: a name in memory, a folder, or a server."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

from monitor import Commands, RaftEntries, monitor_of

from services import EtcdServer, RedisServer, ServerProcess, TcpProxy

SERVERS: Mapping[str, type[ServerProcess]] = {"redis": RedisServer, "etcd": EtcdServer}


class ScenarioBackend:
    """One scenario's backend. Scenarios share the server unless they disturb it."""

    def __init__(self, scheme: str, number: int, folder: Path, shared: ServerProcess | None, private: bool) -> None:
        self.scheme = scheme
        self._number = number
        self._folder = folder / str(number)
        self._shared = shared
        self._private = SERVERS[scheme]() if scheme in SERVERS and private else None
        self._proxy: TcpProxy | None = None
        self.monitor: Commands | RaftEntries | None = None

    async def open(self) -> None:
        self._folder.mkdir(mode=0o700)
        if self._private:
            await asyncio.to_thread(self._private.start)
            self._proxy = await TcpProxy(self._private.port).start()
            self.monitor = monitor_of(self._private)

    async def close(self) -> None:
        if self.monitor:
            await self.monitor.close()
        if self._proxy:
            await self._proxy.close()
        if self._private:
            await asyncio.to_thread(self._private.__exit__, None, None, None)

    @property
    def server(self) -> ServerProcess:
        server = self._private or self._shared
        if server is None:
            raise RuntimeError(f"{self.scheme}: has no server")
        return server

    @property
    def proxy(self) -> TcpProxy:
        if self._proxy is None:
            raise RuntimeError(f"{self.scheme}: has no proxy")
        return self._proxy

    def url(self, via_proxy: bool = False) -> str:
        if self.scheme == "memory":
            return f"memory:scenario-{self._number}"
        if self.scheme == "local":
            return f"local://{self._folder}"
        return f"{self.scheme}://127.0.0.1:{self.proxy.port}" if via_proxy else self.server.url

    def lock_files(self, name: str) -> list[Path]:
        return [file for file in self._folder.rglob(name) if file.is_file()]

    def namespace(self, name: str) -> str:
        """Keeps scenarios on a shared server apart."""
        return f"{name}-{self._number}"

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DLOCK_")}
        return kept | {"DLOCK_DIR": str(self._folder / "default"), "PYTHONUNBUFFERED": "1", "RUST_BACKTRACE": "0"}
