"""A redis-server of our own. It keeps nothing: after `kill` it comes back empty."""

import os
import socket
import subprocess

from .server_process import START_SECONDS, ServerProcess


class RedisServer(ServerProcess):
    """Keyword options become options of the server: `RedisServer(requirepass="secret")`. `REDIS_SERVER` names another program."""

    program = os.environ.get("REDIS_SERVER", "redis-server")

    def __init__(self, **options: str) -> None:
        super().__init__()
        self._options = options

    @property
    def url(self) -> str:
        password = self._options.get("requirepass")
        return f"redis://:{password}@{self.host}:{self.port}" if password else f"redis://{self.host}:{self.port}"

    def command(self, *words: str | int) -> str:
        """What redis-cli prints for one command."""
        cli = ["redis-cli", "-h", self.host, "-p", str(self.port)]
        if password := self._options.get("requirepass"):
            cli += ["--no-auth-warning", "-a", password]
        done = subprocess.run([*cli, *map(str, words)], capture_output=True, text=True, timeout=START_SECONDS, check=True)
        return done.stdout.rstrip("\n")

    def _command_line(self, port: int) -> list[str]:
        options = {"port": str(port), "bind": self.host, "save": "", "appendonly": "no", "dir": str(self.folder)} | self._options
        return [self.program, *(word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value))]

    def _serves(self, port: int) -> bool:
        with socket.create_connection((self.host, port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
