"""The `etcd3` of PyPI in the comparison: prints its figures as JSON. It blocks, so each task is a thread of its own.

Usage: etcd3_locks.py URL SCENARIO...
"""

import json
import sys
import threading
import time
from urllib.parse import urlsplit

import etcd3

SECONDS = 2.0


def pairs(client: etcd3.Etcd3Client, keys: list[str]) -> float:
    """Pairs a second, of one thread for each of the keys, all going at once."""
    end = time.monotonic() + SECONDS
    done = [0] * len(keys)

    def task(number: int, key: str) -> None:
        lock = client.lock(key, ttl=30)
        while time.monotonic() < end:
            with lock:
                pass
            done[number] += 1

    started = time.monotonic()
    threads = [threading.Thread(target=task, args=each) for each in enumerate(keys)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.monotonic() - started)


def measure(client: etcd3.Etcd3Client, scenario: str) -> float:
    kind, _, tasks = scenario.partition(":")
    if kind == "one":
        return 1e6 / pairs(client, ["one"])
    if kind == "keys":
        return pairs(client, [f"key-{n}" for n in range(int(tasks))])
    raise ValueError(f"no scenario {scenario}")


def main(url: str, scenarios: list[str]) -> dict[str, float]:
    server = urlsplit(url)
    client = etcd3.client(host=server.hostname, port=server.port)
    pairs(client, ["warm"])
    return {scenario: measure(client, scenario) for scenario in scenarios}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2:])))
