"""The workers: processes of three languages that are killed, frozen and started again."""

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from journal import Journal
from network import Host

ROOT = Path(__file__).resolve().parents[2]
WORKERS = Path(__file__).resolve().parent / "workers"
COMMANDS = {
    "python": [str(ROOT / ".venv/bin/python"), str(WORKERS / "worker.py")],
    "node": ["node", str(WORKERS / "worker.mjs")],
    "rust": [str(ROOT / "target/release/dlock-chaos")],
}
START_SECONDS = 20.0
IMPATIENT, PATIENT = 1000, 4000
"""How long a worker waits for an answer, in milliseconds. Where proxies hold answers back, longer than a TTL: they do arrive."""


def build() -> None:
    """Builds what is not built by `make setup`."""
    subprocess.run([ROOT / "tools/build-tests"], check=True)


class Slot:
    """A place for a worker: whenever its process was killed, another one takes over."""

    def __init__(self, name: str, language: str, host: Host, plan: dict[str, Any], journal: Journal) -> None:
        self.name = name
        self.language = language
        self.host = host
        self.proxied = False
        self.url = ""
        self.turn = asyncio.Lock()
        """Whoever does something to the process has it: one fault at a time."""
        self.complaints: list[str] = []
        self._plan = plan
        self._journal = journal
        self._lives = 0
        self._process: asyncio.subprocess.Process | None = None

    @property
    def life(self) -> str:
        """The process that is there now, as its log is named."""
        return f"{self.name}.{self._lives}"

    @property
    def process(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise RuntimeError(f"worker {self.name} was not started")
        return self._process

    async def start(self) -> None:
        self._lives += 1
        plan = self._plan | {
            "url": self.url,
            "op_timeout": PATIENT if self.proxied else IMPATIENT,
            "seed": self._plan["seed"] + 1000 * self._lives,
            "log": str(self._journal.folder / f"{self.life}.jsonl"),
        }
        with (self._journal.folder / f"{self.life}.err").open("wb") as errors:
            self._process = await asyncio.create_subprocess_exec(
                *self.host.enter,
                *COMMANDS[self.language],
                json.dumps(plan),
                cwd=ROOT,
                stdin=asyncio.subprocess.PIPE,
                stdout=errors,
                stderr=errors,
                # The kernel hangs up on a whole group when its shell ends while anybody in it is stopped.
                process_group=0,
                env={name: value for name, value in os.environ.items() if not name.startswith("DLOCK_")} | {"RUST_BACKTRACE": "0"},
            )

    async def kill(self) -> None:
        """kill -9; then somebody else starts in its place."""
        async with self.turn:
            with self._journal.fault("worker killed", who=self.life, counts="kills"):
                self._require_life()
                self.process.kill()
                await self.process.wait()
            await self.start()

    @contextlib.contextmanager
    def frozen(self, kind: str = "worker paused") -> Iterator[None]:
        """SIGSTOP, and SIGCONT after the body. For whoever has the turn."""
        with self._journal.fault(kind, who=self.life, counts="pauses"):
            self._require_life()
            self.process.send_signal(signal.SIGSTOP)
            try:
                yield
            finally:
                self.process.send_signal(signal.SIGCONT)

    def _require_life(self) -> None:
        if self.process.returncode is not None:
            raise RuntimeError(f"worker {self.life} ended by itself, with {self.process.returncode}: {self.errors()}")

    def has_begun(self) -> bool:
        log = self._journal.folder / f"{self.life}.jsonl"
        return log.exists() and log.stat().st_size > 0

    def errors(self) -> str:
        return (self._journal.folder / f"{self.life}.err").read_text(errors="replace")[-2000:]

    def tell_to_finish(self) -> None:
        if self.process.stdin is not None and self.process.returncode is None:
            self.process.stdin.close()

    async def ended(self, seconds: float) -> None:
        """Waits for an orderly end, and complains where there is none."""
        try:
            code = await asyncio.wait_for(self.process.wait(), max(seconds, 0.1))
        except TimeoutError:
            self.complaints.append(f"{self.life} ({self.language}) did not finish")
            await self.end()
            return
        if code != 0:
            self.complaints.append(f"{self.life} ({self.language}) ended with {code}: {self.errors()}")

    async def end(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


class Crew:
    """All workers, and one more that only looks at queues and that nobody disturbs."""

    def __init__(self, languages: list[str], host: Callable[[], Host], plan: dict[str, Any], journal: Journal) -> None:
        self.slots = [
            Slot(f"w{number}", language, host(), plan | {"seed": plan["seed"] + number, "watch": False}, journal)
            for number, language in enumerate(languages, 1)
        ]
        self.watcher = Slot("watcher", "python", host(), plan | {"tasks": 0, "watch": True}, journal)

    def everybody(self) -> list[Slot]:
        return [*self.slots, self.watcher]

    async def start(self, url: Callable[[Slot], str]) -> None:
        for slot in self.everybody():
            slot.url = url(slot)
        await asyncio.gather(*(slot.start() for slot in self.everybody()))
        deadline = asyncio.get_running_loop().time() + START_SECONDS
        while not all(slot.has_begun() for slot in self.everybody()):
            if asyncio.get_running_loop().time() > deadline:
                raise TimeoutError("a worker did not start")
            await asyncio.sleep(0.01)

    def any(self, drawn: random.Random) -> Slot:
        """One with whom nothing else is going on, if there is such."""
        idle = [slot for slot in self.slots if not slot.turn.locked()]
        return drawn.choice(idle or self.slots)

    async def finish(self, seconds: float) -> list[str]:
        """Everybody ends what is under way; who does not is named."""
        for slot in self.everybody():
            slot.tell_to_finish()
        deadline = asyncio.get_running_loop().time() + seconds
        for slot in self.everybody():
            await slot.ended(deadline - asyncio.get_running_loop().time())
        return [complaint for slot in self.everybody() for complaint in slot.complaints]

    async def end(self) -> None:
        await asyncio.gather(*(slot.end() for slot in self.everybody()))
