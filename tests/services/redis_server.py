"""A redis-server of our own. It keeps nothing: after `kill` it comes back empty."""

import socket
import subprocess

from .server_process import START_SECONDS, ServerProcess


class RedisServer(ServerProcess):
    """Keyword options become options of the server: `RedisServer(requirepass="secret")`."""

    program = "redis-server"

    def __init__(self, **options: str) -> None:
        super().__init__()
        self._options = options

    @property
    def url(self) -> str:
        password = self._options.get("requirepass")
        return f"redis://:{password}@127.0.0.1:{self.port}" if password else f"redis://127.0.0.1:{self.port}"

    def command(self, *words: str | int) -> str:
        """What redis-cli prints for one command."""
        cli = ["redis-cli", "-p", str(self.port)]
        if password := self._options.get("requirepass"):
            cli += ["--no-auth-warning", "-a", password]
        done = subprocess.run([*cli, *map(str, words)], capture_output=True, text=True, timeout=START_SECONDS, check=True)
        return done.stdout.rstrip("\n")

    def _command_line(self, port: int) -> list[str]:
        options = {"port": str(port), "bind": "127.0.0.1", "save": "", "appendonly": "no", "dir": str(self.folder)} | self._options
        return [self.program, *(word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value))]

    def _serves(self, port: int) -> bool:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
