"""A driver: one process of one language that runs operations for one or more clients."""

import asyncio
import itertools
import json
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DRIVERS = Path(__file__).resolve().parent / "drivers"
EXIT_SECONDS = 10.0
LONGEST_LINE = 64 * 1024 * 1024

COMMANDS: dict[str, list[str]] = {
    "rust": [str(ROOT / "target/release/dlock-behaviour")],
    "python": [str(ROOT / ".venv/bin/python"), str(DRIVERS / "python/driver.py")],
    "node": ["node", "--expose-gc", str(DRIVERS / "node/driver.mjs")],
}


def build(languages: set[str]) -> None:
    """Builds what is not built by `make setup`."""
    if "rust" in languages:
        subprocess.run([ROOT / "tools/build-tests"], check=True)


def now() -> float:
    """Milliseconds on the clock that the drivers stamp their answers with."""
    return time.clock_gettime(time.CLOCK_MONOTONIC) * 1000


@dataclass
class Answer:
    """What came back for one operation."""

    at: float
    ok: Any = None
    error: dict[str, Any] | None = None

    def __str__(self) -> str:
        return f"error {self.error}" if self.error else f"{self.ok!r}"


@dataclass
class Call:
    """An operation under way."""

    id: int
    sent: float
    answer: "asyncio.Future[Answer]"
    entered: "asyncio.Future[Answer]"
    events: dict[str, Answer] = field(default_factory=dict)


class DriverProcess:
    """Starts with the first use, ends with `end`."""

    def __init__(self, language: str, environment: dict[str, str]) -> None:
        self.language = language
        self._environment = environment
        self._ids = itertools.count(1)
        self._calls: dict[int, Call] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._reading: list[asyncio.Task[None]] = []
        self.stderr = bytearray()

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *COMMANDS[self.language],
            cwd=ROOT,
            env=self._environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=LONGEST_LINE,
        )
        self._reading = [asyncio.create_task(self._read_answers()), asyncio.create_task(self._read_stderr())]

    @property
    def process(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise RuntimeError("the driver is not running")
        return self._process

    def send(self, op: str, client: str = "", args: dict[str, Any] | None = None) -> Call:
        loop = asyncio.get_running_loop()
        call = Call(next(self._ids), now(), loop.create_future(), loop.create_future())
        self._calls[call.id] = call
        request = {"id": call.id, "client": client, "op": op, "args": args or {}}
        if self.process.stdin is None or self.process.stdin.is_closing():
            self._ended()
        else:
            self.process.stdin.write(json.dumps(request, allow_nan=False).encode() + b"\n")
        return call

    async def _read_answers(self) -> None:
        stdout = self.process.stdout
        if stdout is None:
            return
        while line := await stdout.readline():
            self._take(json.loads(line))
        await self.process.wait()
        self._ended()

    def _take(self, message: dict[str, Any]) -> None:
        call = self._calls.get(message["id"])
        if call is None:
            raise RuntimeError(f"an answer to nothing: {message}")
        if event := message.get("event"):
            seen = Answer(message["at"], ok=message["value"])
            call.events[event] = seen
            if event == "entered" and not call.entered.done():
                call.entered.set_result(seen)
            return
        del self._calls[call.id]
        _settle(call, Answer(message["at"], message.get("ok"), message.get("error")))

    def _ended(self) -> None:
        calls, self._calls = self._calls, {}
        for call in calls.values():
            _settle(call, Answer(now(), error={"code": "PROCESS_ENDED"}))

    async def _read_stderr(self) -> None:
        stderr = self.process.stderr
        while stderr is not None and (chunk := await stderr.read(4096)):
            self.stderr += chunk

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def killed(self) -> None:
        self.process.kill()
        await self.process.wait()

    async def stopped(self) -> None:
        """SIGSTOP, and the kernel's word that it stands still."""
        self.signal(signal.SIGSTOP)
        deadline = now() + EXIT_SECONDS * 1000
        while _state(self.process.pid) != "T":
            if now() > deadline:
                raise TimeoutError(f"process {self.process.pid} does not stop")
            await asyncio.sleep(0.001)

    async def exited(self, how: str) -> int:
        """Has the driver `exit` by itself, when its language finds nothing more to do, or `quit` at once; waits for its end."""
        self.send(how)
        return await self.waited()

    async def waited(self) -> int:
        return await asyncio.wait_for(self.process.wait(), EXIT_SECONDS)

    async def end(self) -> None:
        if self._process is None:
            return
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        await asyncio.gather(*self._reading)


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1]


def _settle(call: Call, answer: Answer) -> None:
    call.answer.set_result(answer)
    if not call.entered.done():
        call.entered.set_result(answer)
