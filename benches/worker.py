"""One contender at work: a process of its own that is given work and answers."""

import json
import os
import select
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from contenders import Contender, quiet_environment

STARTS_WITHIN = 60.0  # seconds
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
ANSWERS_LATE = 60.0
"""How long after its time a contender may answer: waiters that others overtake wait for their last grant."""


class ContenderFailed(Exception):
    """A contender could not do what it was asked to do."""


@dataclass(frozen=True)
class Footprint:
    """What a process has, besides processor time."""

    resident: int
    threads: int
    descriptors: int


def processor_seconds(pid: int) -> float:
    """The processor time that a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


class Worker:
    def __init__(self, contender: Contender, url: str, prefix: tuple[str, ...] = ()) -> None:
        self.contender = contender
        words = list(map(str, [*prefix, *contender.command, url]))
        # A file: a pipe that nobody reads could stop a contender that has much to say.
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the process has ended
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, env=quiet_environment()
        )
        self._unread = b""

    def __enter__(self) -> Self:
        try:
            self._read(STARTS_WITHIN)
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None) -> None:
        if error is None and self._process.poll() is None and self._process.stdin:
            self._process.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
        self.kill()

    def kill(self) -> None:
        """Ends it at once, without a chance to give back what it holds."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._said):
            if stream:
                stream.close()

    def begin(self, **work: Any) -> None:
        """Gives it work; `answer` has what comes of it."""
        if self._process.stdin is None:
            raise ContenderFailed(f"{self.contender.name} has no input")
        self._process.stdin.write(json.dumps(work).encode() + b"\n")
        self._process.stdin.flush()

    def answer(self, seconds: float = 0.0) -> dict[str, Any]:
        """What came of the work, which takes so many seconds."""
        answer = self._read(seconds + ANSWERS_LATE)
        if "error" in answer:
            raise ContenderFailed(f"{self.contender.name}: {answer['error']}")
        return answer

    def ask(self, **work: Any) -> dict[str, Any]:
        self.begin(**work)
        return self.answer(work.get("seconds", 0.0))

    def has_answered(self) -> bool:
        """Whether an answer is there to be read."""
        return b"\n" in self._unread or bool(select.select([self._process.stdout], [], [], 0)[0])

    @property
    def processor_seconds(self) -> float:
        return processor_seconds(self._process.pid)

    def footprint(self) -> Footprint:
        proc = Path(f"/proc/{self._process.pid}")
        resident = int((proc / "statm").read_text().split()[1]) * PAGE
        return Footprint(resident, len(list((proc / "task").iterdir())), len(list((proc / "fd").iterdir())))

    def _read(self, seconds: float) -> dict[str, Any]:
        end = time.monotonic() + seconds
        stdout = self._process.stdout
        if stdout is None:
            raise ContenderFailed(f"{self.contender.name} has no output")
        while b"\n" not in self._unread:
            left = end - time.monotonic()
            if left <= 0 or not select.select([stdout], [], [], left)[0]:
                raise ContenderFailed(f"{self.contender.name} did not answer within {seconds:.0f} s")
            read = os.read(stdout.fileno(), 1 << 20)
            if not read:
                self._process.wait()
                self._said.seek(0)
                said = self._said.read().decode(errors="replace").strip()
                raise ContenderFailed(f"{self.contender.name} ended: {said[-2000:]}")
            self._unread += read
        line, _, self._unread = self._unread.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer
