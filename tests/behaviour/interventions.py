"""The steps that are no client's: time, faults, and what is compared across clients."""

import asyncio
import itertools
import os
import random
import signal
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from driver_process import DriverProcess, now
from expectation import Mismatch, check_answer, check_value
from scenario import Step

if TYPE_CHECKING:
    from play import Play


async def kill(play: "Play", client: str, step: Step) -> None:
    """SIGKILL of the client's process."""
    play.marks[step.get("mark", "killed")] = now()
    await play.process_of[client].killed()


async def stop(play: "Play", clients: str, _step: Step) -> None:
    """SIGSTOP."""
    for client in clients:
        await play.process_of[client].stopped()
    play.marks["stopped"] = now()


async def resume(play: "Play", clients: str, step: Step) -> None:
    """SIGCONT."""
    play.marks[step.get("mark", "resumed")] = now()
    for client in clients:
        play.process_of[client].signal(signal.SIGCONT)


async def send_signal(play: "Play", client: str, step: Step) -> None:
    """A signal that asks for the end: TERM."""
    play.marks[step.get("mark", "signalled")] = now()
    play.process_of[client].signal(signal.Signals[f"SIG{step['name']}"])


async def ended(play: "Play", client: str, step: Step) -> None:
    """The process has ended, by the signal of that name."""
    code = await play.process_of[client].waited()
    play.bound(step, play.marks[step.get("since", "signalled")], now())
    check_value(code, -signal.Signals[f"SIG{step['by-signal']}"])


async def leave_process(play: "Play", client: str, step: Step) -> None:
    """The process ends the ordinary way, with all that it has: quickly, with code 0 and without a panic."""
    process, began = play.process_of[client], now()
    play.marks[step.get("mark", "exited")] = began
    if "stays" in step:
        await stays(process, play.milliseconds(step["stays"]))
        return
    code = await process.exited(step.get("how", "exit"))
    play.bound(step, began, now())
    said = process.stderr.decode(errors="replace")
    if code != 0 or "panic" in said:
        raise Mismatch(f"exit code {code}: {said}")


async def stays(process: DriverProcess, how_long: float) -> None:
    """With nothing more to do but what is under way, the process does not end."""
    ended = asyncio.create_task(process.exited("exit"))
    done, _ = await asyncio.wait([ended], timeout=how_long / 1000)
    if done:
        raise Mismatch(f"the process ended with code {ended.result()}")
    ended.cancel()


async def elapse(play: "Play", how_long: str, _step: Step) -> None:
    """Time itself is what the scenario is about: a TTL runs out, or does not."""
    await asyncio.sleep(play.milliseconds(how_long) / 1000)


async def each(play: "Play", values: list[Any], step: Step) -> None:
    """The steps of `do` for each value, which stands for every `$each` in them."""
    for value in values:
        for inner in step["do"]:
            await play.step(put_in(inner, value))


def put_in(template: Any, value: Any) -> Any:
    if isinstance(template, dict):
        return {name: put_in(inner, value) for name, inner in template.items()}
    if isinstance(template, list):
        return [put_in(inner, value) for inner in template]
    return value if template == "$each" else template


async def rising(play: "Play", leases: list[str], _step: Step) -> None:
    """Tokens rise strictly, in the order in which the leases are named."""
    tokens = [play.known[lease]["token"] for lease in leases]
    if any(later <= earlier for earlier, later in itertools.pairwise(tokens)):
        raise Mismatch(f"tokens do not rise: {tokens}")


async def that(play: "Play", what: str, step: Step) -> None:
    """`{that: $l1.token, is: ..}`: a value learned earlier."""
    check_value(play.resolve(what), play.expected(step["is"]))


async def between(play: "Play", marks: list[str], step: Step) -> None:
    """The time from one mark to another."""
    first, last = (play.marks[mark] for mark in marks)
    play.bound(step, first, last)


async def contend(play: "Play", clients: list[str], step: Step) -> None:
    """Everybody takes the key again and again: no two holds overlap, and tokens rise from hold to hold."""
    args = {name: step[name] for name in ("key", "cycles", "tasks")}
    for client in clients:
        await play.introduce(client)
    began = now()
    calls = [play.send(client, "contend", args) for client in clients]
    holds = []
    for call in calls:
        answer = await play.patiently(call.answer)
        check_answer(answer)
        holds += answer.ok
    play.bound(step, began, now())
    holds.sort(key=lambda hold: float(hold[1]))
    expected = len(clients) * args["cycles"] * args["tasks"]
    if len(holds) != expected:
        raise Mismatch(f"{len(holds)} holds instead of {expected}")
    for (token, _, until), (next_token, since, _) in itertools.pairwise(holds):
        if since < until:
            raise Mismatch(f"two held at once: token {token} until {until}, token {next_token} from {since}")
        if next_token <= token:
            raise Mismatch(f"token {next_token} was granted after {token}")


async def storm(play: "Play", client: str, step: Step) -> None:
    """Begins to acquire and cancels, at moments that a seed decides."""
    moments = random.Random(step["seed"])
    for number in range(step["times"]):
        await play.step({client: "start-acquire", "key": step["key"], "ttl": "30s", "as": f"storm-{number}"})
        await asyncio.sleep(moments.choice((0, moments.uniform(0, 0.003))))
        await play.step({client: "cancel", "task": f"storm-{number}", "or-granted": True})


async def files(play: "Play", what: str, step: Step) -> None:
    """`delete`: somebody clears the folder of lock files. `count`: how many there are with this name."""
    if what == "delete":
        for file in play.backend.lock_files("*"):
            file.unlink()
    else:
        check_value(len(play.backend.lock_files(step["name"])), step["expect"])


async def server(play: "Play", command: str, step: Step) -> None:
    """A command of the server, or `kill`, `start`, `freeze`, `thaw`."""
    ours = play.backend.server
    play.marks[step.get("mark", command.split(maxsplit=1)[0])] = now()
    match command:
        case "kill":
            await asyncio.to_thread(ours.kill)
        case "start":
            await asyncio.to_thread(ours.start)
        case "freeze" | "thaw":
            os.kill(ours.pid, signal.SIGSTOP if command == "freeze" else signal.SIGCONT)
        case _:
            said = await asyncio.to_thread(ours.command, *command.split())
            if "expect" in step:
                check_value(said, play.expected(step["expect"]))


async def proxy(play: "Play", what: str, step: Step) -> None:
    """`stall`, `flow`, `drop-answers`, `cut`, `refuse`, `accept`, `holding`."""
    ours = play.backend.proxy
    match what:
        case "stall":
            ours.stall()
        case "flow":
            await ours.flow()
        case "drop-answers":
            ours.drop_answers()
        case "cut":
            ours.cut()
        case "refuse" | "accept":
            ours.refuse(what == "refuse")
        case "holding":
            check_value(ours.held(), step["expect"])
        case _:
            raise ValueError(f"the proxy cannot {what}")


async def monitor(play: "Play", what: str, step: Step) -> None:
    """`start`; `stop` with `expect` or `at-most` steps of the server since."""
    ours = play.backend.monitor
    if ours is None:
        raise RuntimeError("there is no server to watch")
    if what == "start":
        await ours.start()
        return
    seen = await ours.stop()
    if "measure" in step:
        play.figures.append(f"{step['measure']}: {len(seen)} {ours.unit}")
    if len(seen) > step.get("at-most", len(seen)) or len(seen) != step.get("expect", len(seen)):
        raise Mismatch(f"{len(seen)} {ours.unit}:\n" + "\n".join(line[:160] for line in seen[:40]))


Intervention = Callable[["Play", Any, Step], Awaitable[None]]

INTERVENTIONS: dict[str, Intervention] = {
    "kill": kill,
    "stop": stop,
    "resume": resume,
    "signal": send_signal,
    "ended": ended,
    "exit": leave_process,
    "pass": elapse,
    "each": each,
    "rising": rising,
    "that": that,
    "between": between,
    "contend": contend,
    "storm": storm,
    "files": files,
    "server": server,
    "proxy": proxy,
    "monitor": monitor,
}
