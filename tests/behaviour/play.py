"""Plays one scenario: sends its steps to drivers and holds what comes back against what it expects."""

import asyncio
import contextlib
import os
import re
import signal
from typing import Any

from driver_process import Answer, Call, DriverProcess, now
from expectation import Mismatch, check_answer
from interventions import INTERVENTIONS, Intervention
from scenario import BACKENDS, CLIENTS, DURATION, Scenario, Step, milliseconds
from scenario_backend import ScenarioBackend

PATIENCE = 30_000.0
"""How long a step may take that sets no bound of its own, in ms."""
POLL_SECONDS = 0.01
# Of a step that is repeated until each of many is as expected.
CHECKS_AT_ONCE = 100
TAIL = 4000

# What a step says beside the operation's own arguments.
ABOUT = {"by", "expect", "within", "not-before", "since", "eventually", "mark", "measure", "count", "or-granted"}
DURATIONS = {"ttl", "wait", "op_timeout", "connect_timeout", "max_hold", "max_stall", "timeout", "for", "hold"}
# Options that have parts, and those of the parts that are durations.
PARTS = {"retry": {"delay"}, "renewal": {"max_delay", "base_delay", "call_timeout"}}
OF_LEASE = {"valid", "status", "remaining", "ttl", "token", "owner", "reason"}
OPTIONS_OF_CLIENT = {"op_timeout", "connect_timeout", "renewal"}


class Play:
    """The state of one run: processes, calls under way, what was learned."""

    def __init__(self, scenario: Scenario, cast: dict[str, str], backend: ScenarioBackend) -> None:
        self.scenario = scenario
        self.cast = cast
        self.backend = backend
        self._pace = scenario.pace(backend.scheme)
        self.figures: list[str] = []
        self._named: dict[str, DriverProcess] = {}
        self._strays: list[int] = []
        self.process_of: dict[str, DriverProcess] = {}
        self._ready: set[str] = set()
        self._tasks: dict[str, tuple[DriverProcess, Call]] = {}
        self.known: dict[str, Any] = {}
        self.marks: dict[str, float] = {}

    async def run(self) -> None:
        # Processes are there before the first step, so that no measured time contains their start.
        for client in self.scenario.all_clients():
            await self._process(client)
        for number, step in enumerate(self.scenario.steps, 1):
            try:
                await asyncio.wait_for(self.step(step), PATIENCE * 4 / 1000)
            except Mismatch as error:
                raise type(error)(f"step {number} {step}: {error}") from error
            except TimeoutError as error:
                raise Mismatch(f"step {number} {step}: no end of it; answered meanwhile: {self._answered()}") from error

    def _answered(self) -> dict[str, str]:
        return {name: str(call.answer.result()) for name, (_, call) in self._tasks.items() if call.answer.done()}

    async def end(self) -> None:
        for pid in self._strays:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await asyncio.gather(*(process.end() for process in self._named.values()))

    def said(self) -> str:
        """What the drivers wrote to stderr."""
        return "".join(process.stderr.decode(errors="replace")[-TAIL:] for process in self._named.values())

    async def step(self, step: Step) -> None:
        for client in CLIENTS & set(step):
            await self._client_step(client, step)
            return
        for name, act in INTERVENTIONS.items():
            if name in step:
                await self._intervene(act, name, step)
                return
        raise ValueError(f"no such step: {step}")

    async def _intervene(self, act: Intervention, name: str, step: Step) -> None:
        deadline = now() + self.milliseconds(step.get("eventually", 0))
        while True:
            try:
                await act(self, step[name], step)
                return
            except Mismatch:
                if now() >= deadline:
                    raise
            await asyncio.sleep(POLL_SECONDS)

    # --- clients

    async def _client_step(self, client: str, step: Step) -> None:
        op, args = step[client], self._args(client, step)
        if op == "client":
            await self._make(client, args, step)
            return
        await self.introduce(client)
        if "count" in step:
            await self._many(client, op, args, step)
        elif op.startswith("start-"):
            self._begin(client, op.removeprefix("start-"), args)
        elif op in ("await", "cancel", "leave"):
            await self._end_of_task(op, args, step)
        elif op == "with":
            call = self._begin(client, "with", args)
            self._judge(await self.patiently(call.entered), step, call.sent, args.get("as"))
        elif "eventually" in step:
            await self._eventually(client, op, args, step)
        else:
            call = self.send(client, op, args)
            answer = await self.patiently(call.answer)
            if op == "fork" and answer.ok:
                self._strays.append(answer.ok)
            self._judge(answer, step, call.sent, args.get("as"), _field(op))

    def _args(self, client: str, step: Step) -> dict[str, Any]:
        args = {name.replace("-", "_"): self.resolve(value) for name, value in step.items() if name not in ABOUT and name != client}
        return {name: self._option(name, value) for name, value in args.items()}

    def milliseconds(self, duration: Any) -> float:
        """At the pace of this run."""
        return milliseconds(duration) * self._pace

    def _option(self, name: str, value: Any) -> Any:
        if parts := PARTS.get(name):
            given = {part.replace("-", "_"): inner for part, inner in value.items()}
            return {part: self._number(inner) if part in parts else inner for part, inner in given.items()}
        return self._number(value) if name in DURATIONS or name in OPTIONS_OF_CLIENT else value

    def _number(self, value: Any) -> Any:
        """A duration in milliseconds; words that are no duration go to the driver as they are."""
        try:
            return self.milliseconds(value)
        except ValueError:
            return value

    def expected(self, value: Any) -> Any:
        """What a step expects: `$l1.token` is what `l1` had there, `600ms` a number at the pace of this run."""
        if isinstance(value, str) and DURATION.fullmatch(value):
            return self.milliseconds(value)
        if isinstance(value, dict):
            return {name: self.expected(inner) for name, inner in value.items()}
        return self.resolve(value)

    def resolve(self, value: Any) -> Any:
        """`$l1.token` is what `l1` had there; `x*20` is twenty times x."""
        if isinstance(value, str):
            if found := re.fullmatch(r"\$(\w+)\.(\w+)(?:\.(\w+))?", value):
                known = self.known[found[1]][found[2]]
                return known[found[3]] if found[3] else known
            if found := re.fullmatch(r"(.)\*(\d+)", value):
                return found[1] * int(found[2])
        if isinstance(value, dict):
            return {name: self.resolve(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [self.resolve(inner) for inner in value]
        return value

    async def _process(self, client: str) -> DriverProcess:
        if client not in self.process_of:
            name = self.scenario.process_of(client, self.backend.scheme)
            if name not in self._named:
                self._named[name] = DriverProcess(self.cast[client], self.backend.environment())
                await self._named[name].start()
            self.process_of[client] = self._named[name]
        return self.process_of[client]

    async def introduce(self, client: str) -> None:
        if client not in self._ready:
            await self._make(client, {}, {})

    async def _make(self, client: str, args: dict[str, Any], step: Step) -> None:
        self._ready.add(client)
        options = {name.replace("-", "_"): value for name, value in self.scenario.clients.get(client, {}).items()}
        via_proxy = options.get("via") == "proxy"
        args = {name: self._option(name, options[name]) for name in OPTIONS_OF_CLIENT if name in options} | args
        args["url"] = args.get("url") or options.get("url") or self.backend.url(via_proxy)
        if "{port}" in args["url"]:
            args["url"] = args["url"].replace("{port}", str(self.backend.server.port))
        args["url"] = args["url"].replace("{scheme}", self.backend.scheme)
        # `null` is the empty namespace: keys stand in the server as they are written.
        namespace = options.get("namespace", "dlock")
        args.setdefault("namespace", "" if namespace is None else self.backend.namespace(namespace))
        call = self.process_of[client].send("client", client, args)
        answer = await self.patiently(call.answer)
        self.known[f"{client}_process"] = {"pid": answer.ok}
        self._judge(answer, step, call.sent)

    def send(self, client: str, op: str, args: dict[str, Any]) -> Call:
        if op == "try":
            op, args = "acquire", args | {"wait": 0}
        if op in OF_LEASE:
            op = "lease"
        return self.process_of[client].send(op.replace("-", "_"), client, args)

    def _begin(self, client: str, op: str, args: dict[str, Any]) -> Call:
        call = self.send(client, op, args)
        self._tasks[args.get("as") or args["task"]] = (self.process_of[client], call)
        return call

    async def _many(self, client: str, op: str, args: dict[str, Any], step: Step) -> None:
        """The same operation many times over, `{n}` being the number; waits for those that are not started in the background."""
        calls, checks, slots = [], [], asyncio.Semaphore(CHECKS_AT_ONCE)

        async def check(numbered: dict[str, Any]) -> None:
            async with slots:
                await self._eventually(client, op, numbered, step)

        for n in range(step["count"]):
            numbered = {name: value.replace("{n}", str(n)) if isinstance(value, str) else value for name, value in args.items()}
            if "eventually" in step:
                checks.append(check(numbered))
            elif op.startswith("start-"):
                self._begin(client, op.removeprefix("start-"), numbered)
            else:
                calls.append(self.send(client, op, numbered))
        for call in calls:
            check_answer(await self.patiently(call.answer))
        await asyncio.gather(*checks)

    async def _end_of_task(self, op: str, args: dict[str, Any], step: Step) -> None:
        name = args.get("task") or args["lease"]
        process, call = self._tasks[name]
        if op == "cancel":
            process.send("cancel", args={"task": call.id})
            step = {"expect": "CANCELLED"} | step
        if op == "leave":
            process.send("leave", args={"lease": name})
        answer = await self.patiently(call.answer)
        if answer.ok is not None and "or-granted" in step:
            # The grant was there before the word to cancel.
            check_answer(await self.patiently(process.send("release", args={"lease": name}).answer))
            return
        if "ended" in call.events:
            self.marks[f"{name}.ended"] = call.events["ended"].at
            self.known[f"{name}_body"] = {"ended": call.events["ended"].ok}
        self._judge(answer, step, call.sent, name if op != "leave" else None)

    async def _eventually(self, client: str, op: str, args: dict[str, Any], step: Step) -> None:
        deadline = now() + self.milliseconds(step["eventually"])
        while True:
            call = self.send(client, op, args)
            answer = await self.patiently(call.answer)
            try:
                self._judge(answer, step, call.sent, args.get("as"), _field(op))
                return
            except Mismatch:
                if now() > deadline:
                    raise
            await asyncio.sleep(POLL_SECONDS)

    async def patiently(self, answer: "asyncio.Future[Answer]") -> Answer:
        return await asyncio.wait_for(asyncio.shield(answer), PATIENCE / 1000)

    # --- judging

    def _judge(self, answer: Answer, step: Step, sent: float, name: str | None = None, of_lease: str | None = None) -> None:
        if of_lease and answer.error is None:
            answer = Answer(answer.at, ok=answer.ok[of_lease])
        # Without an expectation a call must succeed, whatever it returns.
        check_answer(answer, *([self.expected(step["expect"])] if "expect" in step else []))
        if name and isinstance(answer.ok, dict):
            self.known[name] = answer.ok
            self.marks[name] = answer.at
            self.marks[f"{name}.sent"] = sent
        if mark := step.get("mark"):
            self.marks[mark] = answer.at
        self.bound(step, sent, answer.at)

    def bound(self, step: Step, sent: float, at: float) -> None:
        took = at - (self.marks[step["since"]] if "since" in step else sent)
        if "measure" in step:
            self.figures.append(f"{step['measure']}: {took:.1f} ms")
        backend = BACKENDS[self.backend.scheme]
        lag = backend.expiry_lag if step.get("by") == "expiry" else 0.0
        if "within" in step and took > self.milliseconds(step["within"]) + lag:
            raise Mismatch(f"took {took:.1f} ms, more than {step['within']}{self._slower()} + {lag} ms")
        if "not-before" in step and took < self.milliseconds(step["not-before"]) - backend.margin:
            raise Mismatch(f"took {took:.1f} ms, less than {step['not-before']}{self._slower()} - {backend.margin} ms")

    def _slower(self) -> str:
        return f" x {self._pace:.2f}" if self._pace > 1 else ""


def _field(op: str) -> str | None:
    return op if op in OF_LEASE else None
