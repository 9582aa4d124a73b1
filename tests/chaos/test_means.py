"""The means of the faults do what they say: a partition parts, a dropped answer was executed, an unguarded write corrupts."""

import asyncio
import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from arena import SteppedRedisServer
from lossy_proxy import Http2Frames, LossyProxy
from register import Register
from wall_clock import WallClock

from services import RedisServer

HERE = Path(__file__).resolve().parent
ENDS = (ConnectionResetError, asyncio.IncompleteReadError)
PROBE = """
import subprocess, sys
from network import Network, enter
enter()
def reaches(sender, receiver):
    opened, address = "import socket; s = socket.socket(type=socket.SOCK_DGRAM)", (receiver.address, 9)
    listen = f"{opened}; s.bind({address}); s.settimeout(0.7); print(1, flush=True); s.recv(9)"
    say = f"{opened}; s.sendto(b'x', {address})"
    listener = subprocess.Popen([*receiver.enter, sys.executable, "-c", listen], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    listener.stdout.readline()
    subprocess.run([*sender.enter, sys.executable, "-c", say], check=True)
    return listener.wait() == 0
with Network() as network:
    if network.real:
        one, other = network.host(), network.host()
        for a, b in ((one, other), (one, network.gate), (network.gate, one)):
            print(reaches(a, b), end=" ")
            a.loses(b, True)
            print(reaches(a, b), reaches(b, a), end=" ")
            a.loses(b, False)
            print(reaches(a, b))
"""


def test_a_cut_parts_two_hosts_in_one_direction_and_heals(tmp_path: Path) -> None:
    probe = tmp_path / "probe.py"
    probe.write_text(PROBE)
    environment = os.environ | {"PYTHONPATH": str(HERE)}
    done = subprocess.run([sys.executable, probe], env=environment, capture_output=True, text=True, check=True)
    if "no network namespaces" in done.stdout:
        return  # then there are no cuts, and runs say so
    assert done.stdout.splitlines() == ["True False True True"] * 3


def test_a_dropped_answer_was_executed(private_redis: RedisServer) -> None:
    asyncio.run(lose_an_answer(private_redis))


async def lose_an_answer(private_redis: RedisServer) -> None:
    proxy = await LossyProxy(("127.0.0.1", private_redis.port), "127.0.0.1", random.Random(1)).start()
    proxy.loses = 1.0
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"INCR k\r\n")
    with pytest.raises(ENDS):
        await reader.readexactly(1)
    writer.close()
    assert await asyncio.to_thread(private_redis.command, "GET", "k") == "1"
    assert proxy.counts["dropped answers"] == 1
    await proxy.close()


def test_a_server_has_a_wall_clock_of_its_own_that_can_be_set() -> None:
    if not WallClock.can_be_had():
        return  # then clocks are not set, and runs say so
    with SteppedRedisServer() as server:
        server.command("SET", "k", "v", "PX", 60_000)
        assert abs(ahead_of_us(server)) < 2
        server.clock.step(30)
        assert 28 < ahead_of_us(server) < 32
        assert 0 < int(server.command("PTTL", "k")) < 32_000
        server.clock.step(-40)
        assert -12 < ahead_of_us(server) < -8
        assert server.clock.behind == 40
        assert int(server.command("PTTL", "k")) > 60_000
        server.clock.step(server.clock.behind + 40)
        assert server.command("EXISTS", "k") == "0"
        assert server.clock.behind == 0
        assert not [*Path("/dev/shm").glob(f"*faketime*_{server.pid}")]


def ahead_of_us(server: RedisServer) -> float:
    return int(server.command("TIME").split()[0]) - time.time()


@pytest.mark.parametrize("side", ["client", "server"])
def test_half_open_connections_end_on_one_side_first(side: str) -> None:
    asyncio.run(half_open(side))


async def half_open(side: str) -> None:
    accepted: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    server = await asyncio.start_server(lambda *streams: accepted.put_nowait(streams), "127.0.0.1", 0)
    proxy = await LossyProxy(server.sockets[0].getsockname()[:2], "127.0.0.1", random.Random(1)).start()
    streams = {"client": await asyncio.open_connection("127.0.0.1", proxy.port), "server": await accepted.get()}
    while not proxy.half_open(side):  # noqa: ASYNC110 - whether a connection is among them is drawn each time
        await asyncio.sleep(0)
    with pytest.raises(ENDS):
        await streams[side][0].readexactly(1)
    other, writer = streams["server" if side == "client" else "client"]
    writer.write(b"anybody there?")
    assert not other.at_eof()
    assert other.exception() is None
    with pytest.raises(ENDS):
        await other.readexactly(1)
    for _, stream in streams.values():
        stream.close()
    await proxy.close()
    server.close()


def test_frames_of_data_are_answers_however_they_arrive() -> None:
    settings, data = b"\x00\x00\x06\x04\x00\x00\x00\x00\x00" + b"s" * 6, b"\x00\x00\x03\x00\x00\x00\x00\x00\x01abc"
    spoken = settings + data + data + settings + data
    for size in (1, 5, 1000):
        frames = Http2Frames()
        assert sum(frames.count(spoken[at : at + size]) for at in range(0, len(spoken), size)) == 3


def test_a_stale_write_corrupts_only_what_is_not_guarded() -> None:
    register = Register("127.0.0.1")
    paused = register.read("k", 1)
    register.write("k", 2, register.read("k", 2))
    register.write("k", 1, paused)
    assert (register.counts["corruptions without the guard"], register.counts["corruptions with the guard"]) == (1, 0)
    assert register.counts["writes refused"] == 1


def test_a_reader_with_a_greater_token_is_protected_before_it_writes() -> None:
    register = Register("127.0.0.1")
    paused, next_one = register.read("k", 1), register.read("k", 2)
    register.write("k", 1, paused)
    register.write("k", 2, next_one)
    assert register.counts["corruptions with the guard"] == 0
    assert register.counts["corruptions without the guard"] == 1


def test_the_register_counts_a_guard_that_fails() -> None:
    """What it counts as a corruption does not come from tokens: two writers with the order of their tokens right can do it."""
    register = Register("127.0.0.1")
    first, second = register.read("k", 1), register.read("k", 1)
    register.write("k", 1, first)
    register.write("k", 2, second)
    assert register.counts["corruptions with the guard"] == 1


def test_the_register_answers_over_its_socket() -> None:
    async def answer() -> bytes:
        register = await Register("127.0.0.1").start()
        with socket.create_connection(("127.0.0.1", register.port)) as connection:
            connection.sendall(b'{"op":"read","k":"k","token":1}\n')
            said = await asyncio.to_thread(connection.recv, 100)
        await register.close()
        return said

    assert asyncio.run(answer()) == b'{"guarded": 0, "open": 0}\n'
