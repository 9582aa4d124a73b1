"""Where a run takes place: a folder, a redis-server, or three members of etcd, each server on a host of its own."""

import asyncio
import base64
import random
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Self

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lossy_proxy import LossyProxy
from network import Host, Network
from wall_clock import WallClock

from services import EtcdServer, RedisServer, ServerProcess, free_port

LOST_SHARE = 0.03
"""Of the answers that pass a proxy."""
MEMBERS = 3
EVERYTHING = {"key": "AA==", "range_end": "AA==", "keys_only": True}
GUARD = "chaos/\0"
"""What the guards of etcd's sessions begin with; the keys of owners have a zero later."""
GUARD_SECONDS = 60


class Arena:
    """What the backends have in common: hosts, servers, a proxy before each of them."""

    backend: str
    ttl: float
    """Of the leases, in milliseconds."""
    crash_release = False
    """The key of a dead process is free at once."""
    fair = True

    def __init__(self, network: Network, drawn: random.Random) -> None:
        self.network = network
        self.servers: list[ServerProcess] = []
        self.hosts: list[Host] = []
        self.proxies: list[LossyProxy] = []
        self.turn = asyncio.Lock()
        """Whoever does something to servers has it: one fault of theirs at a time."""
        self._random = drawn

    async def open(self) -> None:
        """Starts the servers, together: members of a cluster wait for one another."""
        self.servers, self.hosts = self._make_servers()
        await asyncio.gather(*(asyncio.to_thread(server.start) for server in self.servers))
        for server in self.servers:
            proxy = LossyProxy((server.host, server.port), self.network.gate.address, self._random, http2=self.backend == "etcd")
            proxy.loses = LOST_SHARE
            self.proxies.append(await proxy.start())

    async def close(self) -> None:
        for proxy in self.proxies:
            await proxy.close()
        for server in self.servers:
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.__exit__, None, None, None)

    def url(self, proxied: bool) -> str:
        gate = self.network.gate.address
        places = [(gate, proxy.port) for proxy in self.proxies] if proxied else [(each.host, each.port) for each in self.servers]
        return f"{self.backend}://{','.join(f'{host}:{port}' for host, port in places)}"

    @property
    def clock(self) -> WallClock | None:
        """Of the server, where it can be set."""
        return None

    def counts(self) -> Counter[str]:
        return sum((proxy.counts for proxy in self.proxies), Counter[str]())

    def leftovers(self) -> list[str]:
        """What is still in the server that will not go away by itself, or that should be gone by now."""
        raise NotImplementedError

    def _make_servers(self) -> tuple[list[ServerProcess], list[Host]]:
        return [], []


class LocalArena(Arena):
    backend = "local"
    ttl = 1000
    crash_release = True
    fair = False

    async def open(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="dlock-chaos-"))

    async def close(self) -> None:
        shutil.rmtree(self.folder)

    def url(self, proxied: bool) -> str:
        return f"local://{self.folder}"

    def files(self) -> list[Path]:
        return [file for file in self.folder.rglob("*") if file.is_file()]

    def leftovers(self) -> list[str]:
        """The files that hold the last tokens stay; there are never more than 256."""
        return [file.name for file in self.files() if not file.name.startswith("slot-")]


class SteppedRedisServer(RedisServer):
    """A redis-server whose wall clock can be set."""

    def __init__(self, **options: str) -> None:
        super().__init__(**options)
        self.clock = WallClock(self.folder)
        self.enter = self.clock.enter

    def start(self) -> Self:
        super().start()
        self.clock.tidy(self.pid)
        return self


class RedisArena(Arena):
    """The server logs what it does before it answers, so a killed one comes back with all that it acknowledged."""

    backend = "redis"
    ttl = 2000

    @property
    def server(self) -> RedisServer:
        server = self.servers[0]
        if not isinstance(server, RedisServer):
            raise TypeError(server)
        return server

    @property
    def clock(self) -> WallClock | None:
        return self.server.clock if isinstance(self.server, SteppedRedisServer) else None

    def forget(self) -> None:
        """Between a kill and a start: it comes back empty."""
        shutil.rmtree(self.server.folder / "appendonlydir", ignore_errors=True)

    def leftovers(self) -> list[str]:
        names = self.server.command("KEYS", "*").split()
        return [
            name for name in names if self.server.command("PTTL", name) == "-1" or name.startswith(("chaos/", "dlock:q", "dlock:w"))
        ]

    def _make_servers(self) -> tuple[list[ServerProcess], list[Host]]:
        host = self.network.host()
        stepped = WallClock.can_be_had()
        server = (SteppedRedisServer if stepped else RedisServer)(appendonly="yes", appendfsync="no", protected_mode="no")
        server.host, server.enter = host.address, host.enter
        if isinstance(server, SteppedRedisServer):
            server.enter = [*host.enter, *server.clock.enter]
        return [server], [host]


class EtcdArena(Arena):
    backend = "etcd"
    ttl = 2000

    def member(self, number: int) -> EtcdServer:
        server = self.servers[number]
        if not isinstance(server, EtcdServer):
            raise TypeError(server)
        return server

    def leader(self) -> int:
        """Which member leads, as some other member sees it. LookupError while none does, or not all can say."""
        statuses = [self.member(number).call("maintenance/status") for number in range(MEMBERS)]
        ids = [status["header"]["member_id"] for status in statuses]
        leaders = [status["leader"] for status in statuses if status.get("leader") in ids]
        return ids.index(leaders[0])

    def move_leader(self) -> None:
        leader = self.leader()
        heir = self._random.choice([number for number in range(MEMBERS) if number != leader])
        target = self.member(heir).call("maintenance/status")["header"]["member_id"]
        self.member(leader).call("maintenance/transfer-leadership", targetID=target)

    def leftovers(self) -> list[str]:
        """Of a session that was killed, its guard stays for a minute; nothing else does, and all of it is under a lease."""
        server = self.member(0)
        keys = {base64.b64decode(each["key"]).decode(): each for each in server.call("kv/range", **EVERYTHING).get("kvs", ())}
        stay = [name for name, each in keys.items() if "\0" in name.removeprefix(GUARD) or int(each.get("lease", 0)) == 0]
        lives = {lease: server.call("lease/timetolive", ID=lease).get("grantedTTL", "0") for lease in server.leases()}
        return stay + [f"lease {lease} of {ttl} s" for lease, ttl in lives.items() if int(ttl) > GUARD_SECONDS]

    def _make_servers(self) -> tuple[list[ServerProcess], list[Host]]:
        hosts = [self.network.host() for _ in range(MEMBERS)]
        peers = [f"http://{host.address}:{2380 if self.network.real else free_port()}" for host in hosts]
        cluster = ",".join(f"member{number}={peer}" for number, peer in enumerate(peers))
        servers: list[ServerProcess] = []
        for number, (host, peer) in enumerate(zip(hosts, peers, strict=True)):
            urls = {"listen_peer_urls": peer, "initial_advertise_peer_urls": peer, "initial_cluster": cluster}
            server = EtcdServer(name=f"member{number}", **urls)
            server.host, server.enter = host.address, host.enter
            servers.append(server)
        return servers, hosts


ARENAS: dict[str, type[Arena]] = {"local": LocalArena, "redis": RedisArena, "etcd": EtcdArena}
