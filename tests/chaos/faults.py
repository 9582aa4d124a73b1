"""What goes wrong, and how often. Each fault heals itself, but the clock stays as it was set."""

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, replace

from arena import MEMBERS, Arena, EtcdArena, LocalArena, RedisArena
from crew import Crew, Slot
from journal import Journal
from network import Host
from wall_clock import WallClock

AWAITED_SECONDS = 0.6
BEFORE_AN_ANSWER = "frozen before an answer"


@dataclass
class Stage:
    """Whom and what faults are done to."""

    arena: Arena
    crew: Crew
    journal: Journal
    random: random.Random

    def duration(self, most: float = 3.0) -> float:
        """Seconds, from 0.2 TTL to as many."""
        return self.random.uniform(0.2, most) * self.arena.ttl / 1000

    @contextlib.asynccontextmanager
    async def server_fault(self, kind: str, counts: str = "", forgets: bool = False, ahead: float = 0) -> AsyncIterator[None]:
        async with self.arena.turn:
            with self.journal.fault(kind, server=True, forgets=forgets, counts=counts, ahead=ahead):
                yield
            if forgets:
                # Nothing else happens to the server while its losers are told: what keeps them from hearing is no reproach.
                await asyncio.sleep(self.arena.ttl / 3000 + 1)


@dataclass(frozen=True)
class Fault:
    per_second: float
    act: Callable[[Stage], Awaitable[None]]


# --- workers


async def kill_worker(stage: Stage) -> None:
    await stage.crew.any(stage.random).kill()


async def pause_worker(stage: Stage) -> None:
    slot = stage.crew.any(stage.random)
    async with slot.turn:
        with slot.frozen():
            await asyncio.sleep(stage.duration())


async def part_worker(stage: Stage) -> None:
    """A worker and the servers hear each other no more, or one of them does not hear the other."""
    slot, direction = stage.crew.any(stage.random), stage.random.choice(["both ways", "to the servers", "from the servers"])
    async with slot.turn:
        with stage.journal.fault(f"worker cut off {direction}", who=slot.life, counts="partitions"):
            await cut_off(stage, slot, direction)


async def cut_off(stage: Stage, slot: Slot, direction: str) -> None:
    network = stage.arena.network
    if not network.real:
        sides = {"both ways": ("requests", "answers"), "to the servers": ("requests",), "from the servers": ("answers",)}[direction]
        async with contextlib.AsyncExitStack() as stalls:
            for proxy in stage.arena.proxies:
                await stalls.enter_async_context(proxy.stalled(*sides))
            await asyncio.sleep(stage.duration(2))
        return
    far = [network.gate] if slot.proxied else stage.arena.hosts
    pairs = [(slot.host, host) for host in far if direction != "from the servers"]
    pairs += [(host, slot.host) for host in far if direction != "to the servers"]
    with losing(pairs):
        await asyncio.sleep(stage.duration(2))


@contextlib.contextmanager
def losing(pairs: list[tuple[Host, Host]]) -> Iterator[None]:
    for sender, receiver in pairs:
        sender.loses(receiver, True)
    try:
        yield
    finally:
        for sender, receiver in pairs:
            sender.loses(receiver, False)


# --- the way between


async def stall(stage: Stage) -> None:
    """What goes through a proxy is held back and delivered late, in one direction or both."""
    directions = stage.random.choice([("requests",), ("answers",), ("requests", "answers")])
    proxy = stage.random.choice(stage.arena.proxies)
    with stage.journal.fault("stall", who="proxied"):
        async with proxy.stalled(*directions):
            await asyncio.sleep(stage.duration(2))


async def freeze_before_an_answer(stage: Stage) -> None:
    """A worker is frozen for longer than its leases while answers are on their way to it: what they grant is over when it wakes."""
    idle = [slot for slot in stage.crew.slots if slot.proxied and not slot.turn.locked()]
    slot = stage.random.choice(idle or [slot for slot in stage.crew.slots if slot.proxied])
    async with slot.turn, contextlib.AsyncExitStack() as stalls:
        stalls.enter_context(stage.journal.fault("stall", who="proxied"))
        for proxy in stage.arena.proxies:
            await stalls.enter_async_context(proxy.stalled("answers"))
        await asyncio.sleep(AWAITED_SECONDS)
        with slot.frozen(BEFORE_AN_ANSWER):
            await stalls.aclose()
            await asyncio.sleep(stage.random.uniform(1.05, 1.5) * stage.arena.ttl / 1000)


async def half_open(stage: Stage) -> None:
    """Connections end on one side only."""
    with stage.journal.fault("half open", who="proxied"):
        found = stage.random.choice(stage.arena.proxies).half_open(stage.random.choice(["client", "server"]))
        stage.journal.counts["connections left half open"] += found


# --- servers


async def pause_server(stage: Stage) -> None:
    server = stage.random.choice(stage.arena.servers)
    async with stage.server_fault("server paused", counts="pauses"):
        os.kill(server.pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(stage.duration(2))
        finally:
            os.kill(server.pid, signal.SIGCONT)


async def restart_server(stage: Stage) -> None:
    """kill -9; it comes back with its data."""
    server = stage.random.choice(stage.arena.servers)
    async with stage.server_fault("server killed", counts="kills"):
        await asyncio.to_thread(server.kill)
        await asyncio.sleep(stage.duration(0.5))
        await asyncio.to_thread(server.start)


async def redis_command(stage: Stage, kind: str, *words: str) -> None:
    async with stage.server_fault(kind):
        await asyncio.to_thread(redis(stage).server.command, *words)


def redis(stage: Stage) -> RedisArena:
    if not isinstance(stage.arena, RedisArena):
        raise TypeError(stage.arena)
    return stage.arena


def etcd(stage: Stage) -> EtcdArena:
    if not isinstance(stage.arena, EtcdArena):
        raise TypeError(stage.arena)
    return stage.arena


async def script_flush(stage: Stage) -> None:
    await redis_command(stage, "SCRIPT FLUSH", "SCRIPT", "FLUSH")


async def flush_all(stage: Stage) -> None:
    async with stage.server_fault("FLUSHALL", forgets=True):
        catch_up(stage)
        await asyncio.to_thread(redis(stage).server.command, "FLUSHALL")


async def client_kill(stage: Stage) -> None:
    await redis_command(stage, "CLIENT KILL", "CLIENT", "KILL", "TYPE", "normal")


async def client_pause(stage: Stage) -> None:
    """The server holds commands back, all of them or those that write."""
    seconds = stage.duration(1)
    async with stage.server_fault("CLIENT PAUSE"):
        words = ["CLIENT", "PAUSE", str(int(seconds * 1000)), stage.random.choice(["ALL", "WRITE"])]
        await asyncio.to_thread(redis(stage).server.command, *words)
        await asyncio.sleep(seconds)


async def restart_empty(stage: Stage) -> None:
    """kill -9 of a server that has saved nothing."""
    async with stage.server_fault("restart without data", counts="kills", forgets=True):
        await asyncio.to_thread(redis(stage).server.kill)
        redis(stage).forget()
        catch_up(stage)
        await asyncio.to_thread(redis(stage).server.start)


async def set_ahead(stage: Stage) -> None:
    """The server's wall clock jumps, and keys end before their time."""
    await step_clock(stage, stage.duration())


async def set_back(stage: Stage) -> None:
    """The server's wall clock jumps, and keys live longer."""
    await step_clock(stage, -stage.duration())


async def step_clock(stage: Stage, seconds: float) -> None:
    kind = "clock set ahead" if seconds > 0 else "clock set back"
    async with stage.server_fault(kind, forgets=seconds > 0, ahead=seconds * 1000):
        clock_of(stage).step(seconds)


def clock_of(stage: Stage) -> WallClock:
    if stage.arena.clock is None:
        raise TypeError(stage.arena)
    return stage.arena.clock


def catch_up(stage: Stage) -> None:
    """A server that loses its last tokens draws the next from its clock; set back too, they may fall. No run does both."""
    if stage.arena.clock:
        stage.arena.clock.step(stage.arena.clock.behind)


async def heal(stage: Stage) -> None:
    """Ends what does not end by itself. Keys live on for as long as the clock has been set back."""
    for proxy in stage.arena.proxies:
        proxy.loses = 0
    if stage.arena.clock and stage.arena.clock.behind:
        await step_clock(stage, stage.arena.clock.behind)


async def move_leader(stage: Stage) -> None:
    """The cluster's leader hands over to another member."""
    async with stage.server_fault("leader moved", counts="leader moves"):
        # A cluster that has just lost its leader cannot move it.
        with contextlib.suppress(OSError, LookupError):
            await asyncio.to_thread(etcd(stage).move_leader)
            return
    stage.journal.counts["leader moves"] -= 1


async def kill_leader(stage: Stage) -> None:
    async with stage.server_fault("leader killed", counts="kills"):
        try:
            number = await asyncio.to_thread(etcd(stage).leader)
        except (OSError, LookupError):
            number = None
        if number is not None:
            leader = stage.arena.servers[number]
            await asyncio.to_thread(leader.kill)
            stage.journal.counts["leader moves"] += 1
            await asyncio.sleep(stage.duration(1))
            await asyncio.to_thread(leader.start)
            return
    # A cluster that has just lost its leader has none to kill.
    stage.journal.counts.subtract(["leader killed", "kills"])


async def part_member(stage: Stage) -> None:
    """A member and the other two hear each other no more, or one side does not hear the other. Clients reach all of them."""
    number, direction = stage.random.randrange(MEMBERS), stage.random.choice(["both ways", "outwards", "inwards"])
    hosts = stage.arena.hosts
    others = [host for other, host in enumerate(hosts) if other != number]
    pairs = [(hosts[number], other) for other in others if direction != "inwards"]
    pairs += [(other, hosts[number]) for other in others if direction != "outwards"]
    async with stage.server_fault(f"member cut off {direction}", counts="partitions"):
        with losing(pairs):
            await asyncio.sleep(stage.duration(2))


async def delete_files(stage: Stage) -> None:
    """Somebody clears the folder of lock files."""
    if not isinstance(stage.arena, LocalArena):
        raise TypeError(stage.arena)
    async with stage.server_fault("lock files deleted", forgets=True):
        for file in stage.arena.files():
            file.unlink(missing_ok=True)


PROCESSES = {"worker killed": Fault(0.55, kill_worker), "worker paused": Fault(0.55, pause_worker)}
WAYS = {
    "worker cut off": Fault(0.2, part_worker),
    "stall": Fault(0.06, stall),
    "half open": Fault(0.1, half_open),
    BEFORE_AN_ANSWER: Fault(0.1, freeze_before_an_answer),
}
SERVERS = {"server paused": Fault(0.03, pause_server), "server killed": Fault(0.03, restart_server)}

FAULTS: dict[str, dict[str, Fault]] = {
    "local": {
        "worker killed": Fault(0.8, kill_worker),
        "worker paused": Fault(0.8, pause_worker),
        "lock files deleted": Fault(0.05, delete_files),
    },
    "redis": PROCESSES
    | WAYS
    | SERVERS
    | {
        "FLUSHALL": Fault(0.03, flush_all),
        "restart without data": Fault(0.02, restart_empty),
        "SCRIPT FLUSH": Fault(0.05, script_flush),
        "CLIENT KILL": Fault(0.05, client_kill),
        "CLIENT PAUSE": Fault(0.03, client_pause),
        "clock set ahead": Fault(0.04, set_ahead),
        "clock set back": Fault(0.04, set_back),
    },
    "etcd": PROCESSES
    | WAYS
    | SERVERS
    | {
        "leader moved": Fault(0.15, move_leader),
        "leader killed": Fault(0.03, kill_leader),
        "member cut off": Fault(0.05, part_member),
    },
}


def possible(backend: str, namespaces: bool, clocks: bool) -> dict[str, Fault]:
    """Members can be cut off from each other only where there are network namespaces, clocks set only with a library for it."""
    cannot = {"member cut off"} if not namespaces else set[str]()
    if not clocks:
        cannot |= {"clock set ahead", "clock set back"}
    return {name: fault for name, fault in FAULTS[backend].items() if name not in cannot}


class Misfortune:
    """Lets faults happen, each kind at its own rate, in random order; the first seconds of each period are calm."""

    PERIOD = 40.0
    CALM_SHARE = 0.3

    def __init__(self, stage: Stage, seconds: float, seed: int) -> None:
        self._stage = stage
        self._seconds = seconds
        self._seed = seed
        self._under_way: set[asyncio.Task[None]] = set()
        self.failures: list[BaseException] = []

    async def run(self) -> None:
        """Returns when all faults have healed. Each kind happens once at least."""
        arena = self._stage.arena
        faults = possible(arena.backend, arena.network.real, arena.clock is not None)
        loop = asyncio.get_running_loop()
        end = loop.time() + self._seconds
        # Each kind draws for itself: what others do and how long they take changes nothing for it.
        stages = {name: replace(self._stage, random=random.Random(f"{self._seed} {name}")) for name in faults}
        await asyncio.gather(*(self._repeat(fault, stages[name], end) for name, fault in faults.items()))
        if self._under_way:
            await asyncio.wait(self._under_way)

    async def _repeat(self, fault: Fault, stage: Stage, end: float) -> None:
        loop, drawn = asyncio.get_running_loop(), stage.random
        begin = end - self._seconds
        calm = self.CALM_SHARE * min(self.PERIOD, self._seconds)
        due = begin + min(drawn.expovariate(fault.per_second), drawn.uniform(calm, max(calm, self._seconds * 0.7)))
        while due < end:
            if (due - begin) % self.PERIOD < calm:
                due += calm
            await asyncio.sleep(due - loop.time())
            task = asyncio.create_task(self._happen(fault, stage))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
            due += drawn.expovariate(fault.per_second)

    async def _happen(self, fault: Fault, stage: Stage) -> None:
        try:
            await fault.act(stage)
        except Exception as error:
            self.failures.append(error)
