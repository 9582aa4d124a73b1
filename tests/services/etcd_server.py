"""An etcd of our own: on free loopback ports, in an empty folder, gone at the end."""

import json
import os
import signal
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

from .redis_server import START_ATTEMPTS, STOP_SECONDS, free_port

START_SECONDS = 20.0


class EtcdServer:
    """A server alone in its cluster."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="dlock-etcd-")
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"etcd://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (Path(self._folder.name) / "log").read_text(errors="replace")

    def start(self) -> Self:
        """Starts the server and returns once it answers."""
        for _ in range(START_ATTEMPTS):
            port = free_port()
            self._spawn(port)
            if self._answers(port):
                self.port = port
                return self
            self.stop()
        raise RuntimeError(f"etcd did not start:\n{self.log}")

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        self.stop()
        self._folder.cleanup()

    def _spawn(self, port: int) -> None:
        client, peer = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{free_port()}"
        options = {
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"default={peer}",
            "data-dir": tempfile.mkdtemp(dir=self._folder.name),
            "log-level": "error",
        }
        arguments = [f"--{name}={value}" for name, value in options.items()]
        # What these tests kill is a process, not a machine.
        environment = os.environ | {"ETCD_UNSAFE_NO_FSYNC": "true"}
        with (Path(self._folder.name) / "log").open("ab") as log:
            # In the process group of the tests, so that whoever ends a stuck suite ends its servers too.
            self._process = subprocess.Popen(
                ["etcd", *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )

    def _answers(self, port: int) -> bool:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process is not None and self._process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as answer:
                    if json.load(answer)["health"] == "true":
                        # The port may have been somebody else's: then ours has ended.
                        return self._process.poll() is None
            except (OSError, ValueError, KeyError):
                pass
            time.sleep(0.02)
        return False
