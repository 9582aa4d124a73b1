"""A network of our own: hosts with addresses, on one bridge, between which packets can be lost in one direction or both.

Each host is a network namespace, and all of it lives in one that the tests entered at their start: nothing of the machine is
touched and nothing is left behind. A cut is a wrong hardware address: what one host sends to the other goes out, arrives nowhere,
and no error tells of it. Packets of the other direction still arrive.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

OURS = "DLOCK_CHAOS_NETWORK"
"""Set where this process already is in a namespace of its own."""
SUBNET = "10.77.0"
NOBODY = "02:00:00:00:00:01"
PATIENCE = 5.0


def enter() -> None:
    """Starts this program again in a network namespace; where that cannot be had it just goes on."""
    if os.environ.get(OURS):
        return
    namespace = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--net"]
    if _works([*namespace, "ip", "link", "add", "bridge", "type", "bridge"]):
        os.environ[OURS] = "1"
        os.execvp(namespace[0], [*namespace, sys.executable, *sys.argv])
    print("no network namespaces here: partitions are stalls in a proxy")


def _works(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


class Host:
    """An address, and how to start a program there."""

    def __init__(self, address: str = "127.0.0.1", enter: list[str] | None = None, device: str = "") -> None:
        self.address = address
        self.enter = enter or []
        self.device = device

    def loses(self, peer: "Host", losing: bool) -> None:
        """What this host sends to the other arrives nowhere, or arrives again."""
        how = ["replace", peer.address, "lladdr", NOBODY, "nud", "permanent"] if losing else ["del", peer.address]
        _run([*self.enter, "ip", "neigh", *how, "dev", self.device])


class Network:
    """Makes hosts. Without namespaces all of them are this machine's loopback."""

    def __init__(self) -> None:
        self.real = bool(os.environ.get(OURS))
        self._holders: list[subprocess.Popen[bytes]] = []
        self.gate = Host(f"{SUBNET}.254", [], "bridge") if self.real else Host()
        """Where the tests themselves and their proxies are."""

    def __enter__(self) -> "Network":
        if self.real:
            _run(["ip", "link", "set", "lo", "up"])
            _run(["ip", "link", "add", "bridge", "type", "bridge"])
            _run(["ip", "address", "add", f"{self.gate.address}/24", "dev", "bridge"])
            _run(["ip", "link", "set", "bridge", "up"])
        return self

    def __exit__(self, *_: object) -> None:
        for holder in self._holders:
            holder.kill()
            holder.wait()
        if self.real:
            _run(["ip", "link", "delete", "bridge"])

    def host(self) -> Host:
        if not self.real:
            return Host()
        # A namespace lives as long as somebody is in it.
        holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"], stdin=subprocess.DEVNULL)
        self._holders.append(holder)
        _wait_until_apart(holder.pid)
        number = len(self._holders)
        enter = ["nsenter", f"--net=/proc/{holder.pid}/ns/net", "--"]
        address, device = f"{SUBNET}.{number}", f"host{number}"
        _run(["ip", "link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", str(holder.pid)])
        _run(["ip", "link", "set", device, "master", "bridge", "up"])
        for words in (
            ["address", "add", f"{address}/24", "dev", "eth0"],
            ["link", "set", "eth0", "up"],
            ["link", "set", "lo", "up"],
        ):
            _run([*enter, "ip", *words])
        return Host(address, enter, "eth0")


def _wait_until_apart(pid: int) -> None:
    ours, deadline = Path("/proc/self/ns/net").readlink(), time.monotonic() + PATIENCE
    while Path(f"/proc/{pid}/ns/net").readlink() == ours:
        if time.monotonic() > deadline:
            raise TimeoutError("no network namespace was made")
        time.sleep(0.001)


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)
