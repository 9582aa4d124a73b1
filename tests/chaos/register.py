"""The resource that the keys protect: a value for each key, kept twice. The guarded one refuses a token that is smaller than one it
has seen; the open one takes every write.

A holder reads when it was granted the key and writes when its hold ends, without looking at its lease. A write is a corruption if
the value is not the one that its writer had read: it undoes what somebody else wrote in between. What counts as a corruption thus
has nothing to do with tokens; they only serve to prevent it.
"""

import asyncio
import json
from collections import Counter
from dataclasses import dataclass
from typing import Any, Self


@dataclass
class Value:
    guarded: int = 0
    highest: int = 0
    """The greatest token that the guarded value was read or written with."""
    open: int = 0


class Register:
    """Speaks JSON lines: `{op: read, k, token}` is answered with what was seen, `{op: write, k, token, seen}` is not answered."""

    def __init__(self, listen: str) -> None:
        self._listen = listen
        self._listener: asyncio.Server | None = None
        self._values: dict[str, Value] = {}
        self._writers: set[asyncio.StreamWriter] = set()
        self.counts: Counter[str] = Counter()
        self.port = 0

    async def start(self) -> Self:
        self._listener = await asyncio.start_server(self._serve, self._listen, 0)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def close(self) -> None:
        if self._listener:
            self._listener.close()
        for writer in self._writers:
            writer.transport.abort()

    def read(self, key: str, token: int) -> dict[str, int | None]:
        value = self._values.setdefault(key, Value())
        self.counts["reads"] += 1
        if token < value.highest:
            self.counts["reads refused"] += 1
            return {"guarded": None, "open": value.open}
        value.highest = token
        return {"guarded": value.guarded, "open": value.open}

    def write(self, key: str, token: int, seen: dict[str, int | None]) -> None:
        """The token is also what is written: no two writers write the same."""
        value = self._values.setdefault(key, Value())
        self.counts["writes"] += 1
        self.counts["corruptions without the guard"] += value.open != seen["open"]
        value.open = token
        if token < value.highest or seen["guarded"] is None:
            self.counts["writes refused"] += 1
            return
        self.counts["corruptions with the guard"] += value.guarded != seen["guarded"]
        value.highest, value.guarded = token, token

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while line := await reader.readline():
                request: dict[str, Any] = json.loads(line)
                if request["op"] == "read":
                    writer.write((json.dumps(self.read(request["k"], request["token"])) + "\n").encode())
                else:
                    self.write(request["k"], request["token"], request["seen"])
        except (OSError, ValueError):
            pass  # a worker was killed, in the middle of a line for all we know
        finally:
            self._writers.discard(writer)
            writer.close()
