"""Who takes part, on which server, and where its program is."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from services import EtcdServer, RedisServer

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "benches/peers"
BUILT = ROOT / ".cache/benches"
RUST = BUILT / "rust-target/release/peers"

Command = list[str | Path]


@dataclass(frozen=True)
class Contender:
    """A library as one language uses it."""

    name: str
    language: str
    command: Command
    """What starts it; the server's URL comes after it."""
    kind: str = "peer"
    """`dlock`, `peer`, or `limit`: bare round trips with no lock around them."""
    is_threaded: bool = False
    """Each of its tasks is a thread, so thousands are too many."""
    does: frozenset[str] = frozenset({"pairs", "hold", "take", "tries"})

    @property
    def is_there(self) -> bool:
        """Whether what it needs could be had on this machine: a JDK is not asked for."""
        return all(Path(word).exists() for word in self.command if isinstance(word, Path))


def python(library: str, home: Path = ROOT / ".venv") -> Command:
    return [home / "bin/python", PEERS / "python/main.py", library]


def node(library: str) -> Command:
    return ["node", PEERS / "node/main.mjs", library]


def go(library: str) -> Command:
    return [BUILT / "go-peers", library]


def rust(library: str) -> Command:
    return [RUST, library]


JAVA: Command = ["java", "-jar", BUILT / "java/peers.jar"]
peers_python = partial(python, home=BUILT / "python")

DLOCK = [
    Contender("dlock, Python asyncio", "Python", python("dlock-asyncio"), "dlock"),
    Contender("dlock, Python blocking", "Python", python("dlock-blocking"), "dlock", is_threaded=True),
    Contender("dlock, Node", "Node", node("dlock"), "dlock"),
    Contender("dlock, Rust", "Rust", rust("dlock"), "dlock"),
]
PAIRS = frozenset({"pairs"})


@dataclass(frozen=True)
class Arena:
    """A server, and who meets on it."""

    name: str
    title: str
    server: Callable[[], RedisServer | EtcdServer] | None
    """`None`: files on this machine."""
    contenders: list[Contender]
    crowd: list[int]
    """With how many tasks at once the contenders are tried."""


REDIS = Arena(
    "redis",
    "Redis",
    RedisServer,
    [
        Contender("two round trips, Python asyncio", "Python", python("raw-asyncio"), "limit", does=PAIRS),
        Contender("two round trips, Python blocking", "Python", python("raw-blocking"), "limit", True, PAIRS),
        Contender("two round trips, Node", "Node", node("raw"), "limit", does=PAIRS),
        Contender("two round trips, Rust", "Rust", rust("raw-scripts"), "limit", does=PAIRS),
        *DLOCK,
        Contender("redis-py asyncio", "Python", python("redis-py-asyncio")),
        Contender("redis-py blocking", "Python", python("redis-py-blocking"), is_threaded=True),
        Contender("python-redis-lock", "Python", peers_python("python-redis-lock"), is_threaded=True),
        Contender("node-redlock", "Node", node("redlock")),
        Contender("redis-semaphore", "Node", node("redis-semaphore")),
        Contender("redsync", "Go", go("redsync")),
        Contender("bsm/redislock", "Go", go("bsm")),
        Contender("rueidislock", "Go", go("rueidislock")),
        Contender("Redisson", "Java", JAVA, is_threaded=True),
        Contender("rslock", "Rust", rust("rslock")),
    ],
    [1, 10, 100, 500, 1000, 5000],
)
ETCD = Arena(
    "etcd",
    "etcd",
    partial(EtcdServer, durable=True),
    [
        Contender("two round trips, Rust", "Rust", rust("raw-etcd"), "limit", does=PAIRS),
        *DLOCK,
        Contender("etcd3, Python", "Python", python("etcd3", BUILT / "etcd3"), is_threaded=True),
        Contender("etcd3, Node", "Node", node("etcd3")),
        Contender("concurrency.Mutex", "Go", go("etcd-mutex")),
    ],
    [1, 16, 64, 256],
)
LOCAL = Arena(
    "local",
    "files on one machine",
    None,
    [
        Contender("the same system calls, Rust", "Rust", rust("raw-local"), "limit", does=PAIRS),
        *DLOCK,
        Contender("filelock", "Python", peers_python("filelock-blocking"), is_threaded=True),
        Contender("filelock asyncio", "Python", peers_python("filelock-asyncio")),
        Contender("portalocker", "Python", peers_python("portalocker"), is_threaded=True),
        Contender("proper-lockfile", "Node", node("proper-lockfile")),
        Contender("fs4", "Rust", rust("fs4"), is_threaded=True),
    ],
    [1, 10, 100],
)
ARENAS = {arena.name: arena for arena in (REDIS, ETCD, LOCAL)}


def quiet_environment() -> dict[str, str]:
    """What contenders run with: nothing is logged while it is measured."""
    return {name: value for name, value in os.environ.items() if not name.startswith("DLOCK_")} | {"DLOCK_LOG": "error"}
