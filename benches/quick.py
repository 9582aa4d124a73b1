"""The short contest: ratios to peers, and whether one is far below what the page says."""

from functools import partial
from typing import Any

from contenders import LOCAL, REDIS
from experiments import many_tasks, one_task
from rounds import best, median, opened, take_turns, workers

ROUNDS = 3
TASKS = 500
FLOORS = {
    "one task, local:, dlock, Python blocking": 1.5,
    "one task, redis, dlock, Python asyncio": 0.6,
    "one task, redis, dlock, Node": 0.5,
    f"{TASKS} tasks, redis, dlock, Python asyncio": 4.0,
    f"{TASKS} tasks, redis, dlock, Node": 0.7,
}
"""How many times as fast as the best peer of its language dlock is at the least, on any machine that is quiet: less is a fault."""
TAKE_PART = {"dlock, Python asyncio", "dlock, Node", "redis-py asyncio", "redis-semaphore", "node-redlock"}


def main() -> int:
    found = ratios()
    low = []
    for name, ratio in found.items():
        floor = FLOORS[name]
        print(f"{name:<48}{ratio:5.1f} times as fast as the best peer of its language (at least {floor})")
        if ratio < floor:
            low.append(name)
    if low:
        print(f"far too slow: {', '.join(low)}")
    return 1 if low else 0


def ratios() -> dict[str, float]:
    some = [one for one in REDIS.contenders if one.name in TAKE_PART]
    with opened(REDIS) as (url, server), workers(some, url) as working:
        one = take_turns(working, ROUNDS, one_task.pair, "one task")
        many = take_turns(working, ROUNDS, partial(many_tasks.crowd, TASKS, server), f"{TASKS} tasks")
    few = [one for one in LOCAL.contenders if one.name in {"dlock, Python blocking", "filelock"}]
    with opened(LOCAL) as (url, _), workers(few, url) as working:
        local = take_turns(working, ROUNDS, one_task.pair, "one task on local:")
    return {
        "one task, local:, dlock, Python blocking": median(local["filelock"]["µs"]) / median(local["dlock, Python blocking"]["µs"]),
        **{f"one task, redis, {name}": 1 / of_best(name, one, "µs", min) for name in ("dlock, Python asyncio", "dlock, Node")},
        **{
            f"{TASKS} tasks, redis, {name}": of_best(name, many, "pairs/s", max)
            for name in ("dlock, Python asyncio", "dlock, Node")
        },
    }


def of_best(mine: str, found: dict[str, Any], figure: str, pick: Any) -> float:
    """The figure of ours, as a share of that of the best peer of the same language."""
    language = next(one.language for one in REDIS.contenders if one.name == mine)
    peers = [one for one in REDIS.contenders if one.kind == "peer" and one.language == language]
    peer = best(peers, found, figure, pick)
    if peer is None:
        raise RuntimeError(f"{mine} has no peer here")
    return median(found[mine][figure]) / median(found[peer][figure])
