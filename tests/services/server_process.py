"""A server of our own: on a free loopback port, in an empty folder, gone at the end."""

import itertools
import os
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

START_SECONDS = 10.0
STOP_SECONDS = 5.0
# What a port taken between looking and binding costs: another try.
START_ATTEMPTS = 5


class ServerProcess(ABC):
    """A server that tests may stop, freeze, kill and start again on the same port."""

    program: str
    host = "127.0.0.1"
    """Where it listens and is asked."""
    enter: Sequence[str] = ()
    """Words before its command line: they start it in a network namespace, for instance."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix=f"dlock-{Path(self.program).name}-")
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    @abstractmethod
    def url(self) -> str:
        """What a client of ours is opened with."""

    @abstractmethod
    def command(self, *words: str | int) -> str:
        """The answer to one command, as text."""

    @abstractmethod
    def _command_line(self, port: int) -> list[str]:
        """How to start it on this port, with data in `self.folder`."""

    @abstractmethod
    def _serves(self, port: int) -> bool:
        """Asks once whether the server is ready; an OSError is a no."""

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError(f"{self.program} is not running")
        return self._process.pid

    @property
    def folder(self) -> Path:
        return Path(self._folder.name)

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def start(self) -> Self:
        """Starts the server and returns once it answers. After `kill` it comes back on its old port."""
        for _ in range(START_ATTEMPTS):
            port = self.port or free_port()
            self._spawn(port)
            if self._answers(port):
                self.port = port
                return self
            self._end(signal.SIGKILL)
        raise RuntimeError(f"{self.program} did not start:\n{self.log}")

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

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        self.stop()
        self._folder.cleanup()

    def _spawn(self, port: int) -> None:
        with (self.folder / "log").open("ab") as log:
            # In the process group of the tests, so that whoever ends a stuck suite ends its servers too.
            self._process = subprocess.Popen(
                [*self.enter, *self._command_line(port)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _answers(self, port: int) -> bool:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process is not None and self._process.poll() is None:
            try:
                if self._serves(port):
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


# Below those that the system gives to outgoing connections. Test processes that run at once begin far from each other.
PORTS = range(10_000, 32_000)
_places = itertools.count(os.getpid() * 7_919)


def free_port() -> int:
    """A loopback port that nobody used a moment ago, and that is nobody else's while its server is down."""
    for place in itertools.islice(_places, len(PORTS)):
        port = PORTS[place % len(PORTS)]
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no port is free")
