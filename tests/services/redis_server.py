"""A redis-server of our own: on a free loopback port, in an empty folder, gone at the end."""

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

START_SECONDS = 10.0
STOP_SECONDS = 5.0
# What a port taken between looking and binding costs: another try.
START_ATTEMPTS = 5


class RedisServer:
    """A server that tests may stop, freeze, kill and start again on the same port.

    Keyword options become options of the server: `RedisServer(requirepass="secret")`.
    """

    def __init__(self, **options: str) -> None:
        self._options = options
        self._folder = tempfile.TemporaryDirectory(prefix="dlock-redis-")
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        password = self._options.get("requirepass")
        return f"redis://:{password}@127.0.0.1:{self.port}" if password else f"redis://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError("redis-server is not running")
        return self._process.pid

    @property
    def log(self) -> str:
        return (Path(self._folder.name) / "log").read_text(errors="replace")

    def start(self) -> Self:
        """Starts the server and returns once it answers. After `kill` it comes back on its old port, empty."""
        for _ in range(START_ATTEMPTS):
            port = self.port or free_port()
            self._spawn(port)
            if self._answers(port):
                self.port = port
                return self
            self._end(signal.SIGKILL)
        raise RuntimeError(f"redis-server did not start:\n{self.log}")

    def stop(self) -> None:
        """Ends the server the orderly way."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Ends the server as a crash would."""
        self._end(signal.SIGKILL)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Keeps the server from running while the body does."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def command(self, *arguments: str | int) -> str:
        """What redis-cli prints for one command."""
        cli = ["redis-cli", "-p", str(self.port)]
        if password := self._options.get("requirepass"):
            cli += ["--no-auth-warning", "-a", password]
        done = subprocess.run([*cli, *map(str, arguments)], capture_output=True, text=True, timeout=START_SECONDS, check=True)
        return done.stdout.rstrip("\n")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        self.stop()
        self._folder.cleanup()

    def _spawn(self, port: int) -> None:
        options = {"port": str(port), "bind": "127.0.0.1", "save": "", "appendonly": "no", "dir": self._folder.name} | self._options
        arguments = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
        with (Path(self._folder.name) / "log").open("ab") as log:
            # In the process group of the tests, so that whoever ends a stuck suite ends its servers too.
            self._process = subprocess.Popen(["redis-server", *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def _answers(self, port: int) -> bool:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process is not None and self._process.poll() is None:
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                    connection.sendall(b"PING\r\n")
                    if connection.recv(64).startswith((b"+PONG", b"-NOAUTH")):
                        # The port may have been somebody else's: then ours has ended.
                        return self._process.poll() is None
            except OSError:
                pass
            time.sleep(0.01)
        return False

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.send_signal(how)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    """A loopback port that nobody used a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
