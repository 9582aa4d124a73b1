"""What the tests did and when, beside the logs of the workers. One folder holds a whole history and can be judged again."""

import contextlib
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def now() -> float:
    """Milliseconds of CLOCK_MONOTONIC, as in the logs of the workers."""
    return time.clock_gettime(time.CLOCK_MONOTONIC) * 1000


class Journal:
    """Writes `faults.jsonl`, an entry for each fault, and the figures of a run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.counts: Counter[str] = Counter()
        self._file = (folder / "faults.jsonl").open("a")

    @contextlib.contextmanager
    def fault(
        self, kind: str, *, who: str = "", server: bool = False, forgets: bool = False, counts: str = "", ahead: float = 0
    ) -> Iterator[None]:
        """Notes when the body began and ended. `who` is the worker that it disturbs; `server` disturbs all of them.

        `ahead` is by how many milliseconds it sets the server's clock.
        """
        began = now()
        try:
            yield
        finally:
            self.counts[kind] += 1
            if counts:
                self.counts[counts] += 1
            entry = {"t": began, "done": now(), "e": kind, "who": who, "server": server, "forgets": forgets}
            self._write(entry | ({"ahead": round(ahead, 3)} if ahead else {}))

    def save(self, name: str, content: dict[str, Any]) -> None:
        (self.folder / name).write_text(json.dumps(content, indent=1) + "\n")

    def close(self) -> None:
        self._file.close()

    def _write(self, entry: dict[str, Any]) -> None:
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()
