"""Runs a program that has a network of its own, with a host at its other end that is some time away.

Usage, in a new network namespace: distant_network.py SECONDS PROGRAM...
The program is given the address of the other host and the words that start another program there. Each end is a TUN device: a
file from which the
packets of a host are read, and to which those for it are written. Between the two files each packet waits its time.
"""

import ctypes
import fcntl
import os
import queue
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

HERE, THERE = "10.78.0.1", "10.78.0.2"
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
PR_SET_TIMERSLACK = 29
MTU = 65535


def device(name: str) -> int:
    """The packets of a new network device."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN | IFF_NO_PI))
    return descriptor


def relay(source: int, sink: int, delay: float) -> None:
    """Passes packets on, each after its delay."""
    waiting: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()

    def take() -> None:
        while True:
            packet = os.read(source, MTU)
            waiting.put((time.monotonic() + delay, packet))

    def deliver() -> None:
        # A sleep is to end when it should, not up to 50 µs later. This is a setting of the thread.
        ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)
        while True:
            due, packet = waiting.get()
            if (left := due - time.monotonic()) > 0:
                time.sleep(left)
            os.write(sink, packet)

    for work in (take, deliver):
        threading.Thread(target=work, daemon=True).start()


def run(*words: str) -> None:
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL)


def main(delay: float, program: list[str]) -> int:
    # A namespace lives as long as somebody is in it.
    there = subprocess.Popen(["unshare", "--net", "sleep", "infinity"], stdin=subprocess.DEVNULL)
    try:
        while Path(f"/proc/{there.pid}/ns/net").readlink() == Path("/proc/self/ns/net").readlink():
            time.sleep(0.001)
        enter = ["nsenter", f"--net=/proc/{there.pid}/ns/net", "--"]
        ours, theirs = device("here"), device("there")
        run("ip", "link", "set", "there", "netns", str(there.pid))
        for words, name, address, peer in (([], "here", HERE, THERE), (enter, "there", THERE, HERE)):
            run(*words, "ip", "address", "add", address, "peer", peer, "dev", name)
            run(*words, "ip", "link", "set", name, "up")
            run(*words, "ip", "link", "set", "lo", "up")
        relay(ours, theirs, delay)
        relay(theirs, ours, delay)
        return subprocess.run([*program, THERE, *enter], check=False).returncode
    finally:
        there.kill()
        there.wait()


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
