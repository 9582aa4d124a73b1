"""Judges a history. Each check answers what is wrong, and notes what it looked at: a check that looked at nothing says so.

Faults that make the backend forget what it acknowledged are judged apart. Such an overlap is counted, and its loser must be told
soon; without such a fault between the two grants, an overlap is a violation.
"""

import bisect
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from history import NEVER, Attempt, Fault, History

SETTLES = 6000.0
"""Milliseconds after a fault during which order is not judged: a waiter's heartbeat and a claim."""
TOLD_AFTER = 1000.0
"""Beyond a third of the TTL, for a renewal's way: how late a holder may hear that its key was forgotten."""
NAMED = 5
"""How many violations of a kind are written out."""


@dataclass
class Verdict:
    name: str
    violations: list[str] = field(default_factory=list)
    looked_at: int = 0
    remark: str = ""
    figures: Counter[str] = field(default_factory=Counter)
    """What is worth summing over runs."""
    needs_chance: bool = False
    """A short run may hold nothing for it to look at; then it neither passes nor fails."""

    @property
    def mark(self) -> str:
        if self.looked_at == 0 and not self.violations:
            return "-     " if self.needs_chance else "FAILED"
        return "FAILED" if self.violations else "ok    "

    def __str__(self) -> str:
        seen = f"{self.name}: {self.looked_at} looked at{', ' if self.remark else ''}{self.remark}"
        if not self.violations:
            return seen
        more = len(self.violations) - NAMED
        named = [*self.violations[:NAMED], *([f"and {more} more"] if more > 0 else [])]
        return "\n       ".join([f"{seen}, {len(self.violations)} violations", *named])


def judge(history: History) -> list[Verdict]:
    return [check(history) for check in CHECKS]


# --- exclusion


def no_two_valid_at_once(history: History) -> Verdict:
    """Exactly: while the engine vouched for one lease of a key to one worker, no other worker had a valid lease of that key."""
    verdict = Verdict("no two valid at once")
    forgotten: Counter[str] = Counter()
    longest = 0.0
    for leases in history.leases().values():
        verdict.looked_at += len(leases)
        for first, second in _overlaps(leases, history.crash_release):
            amount = min(first.valid_until(history.crash_release), second.valid_until(history.crash_release)) - second.granted
            # A process that stood still may be told of its grant after somebody else of a later one: tokens have the order.
            if fault := forgetting_between(history, *sorted((first, second), key=lambda each: each.token)):
                forgotten[fault.kind] += 1
                longest = max(longest, amount)
            else:
                verdict.violations.append(f"{first.key}: {first} and {second} for {amount:.1f} ms from {second.granted:.1f}")
    if forgotten:
        kinds = ", ".join(f"{count} after {kind}" for kind, count in sorted(forgotten.items()))
        verdict.figures["overlaps where the backend forgot"] = sum(forgotten.values())
        verdict.remark = f"overlaps where the backend forgot: {kinds}, the longest {longest:.0f} ms"
    return verdict


def _overlaps(leases: list[Attempt], crash_release: bool) -> Iterator[tuple[Attempt, Attempt]]:
    """Of leases in the order of their grants: each with those before it that were still valid when it was granted."""
    open_ones: list[Attempt] = []
    for lease in leases:
        open_ones = [each for each in open_ones if each.valid_until(crash_release) > lease.granted]
        if lease.valid_until(crash_release) > lease.granted:
            yield from ((each, lease) for each in open_ones)
            open_ones.append(lease)


def forgetting_between(history: History, first: Attempt, second: Attempt) -> Fault | None:
    """The fault that made the backend forget the first of two leases before it granted the second, if there was one.

    A lease that was renewed after the fault had not been forgotten. A clock that was set ahead, once or several times, ends a lease
    by so much before its time and not earlier.
    """
    ahead = 0.0
    for fault in history.faults:
        between = first.asked <= fault.ended and fault.began <= second.granted
        if not (fault.forgets and between and first.vouched <= fault.ended + history.ttl):
            continue
        ahead += fault.ahead
        if not fault.ahead or second.granted >= first.vouched - ahead:
            return fault
    return None


def losers_are_told(history: History) -> Verdict:
    """Who held a key that the backend forgot is told within TTL/3 + 1 s, if nothing else kept it from hearing."""
    verdict = Verdict("losers are told in time", needs_chance=True)
    if not any(fault.forgets for fault in history.faults):
        verdict.remark = "nothing was forgotten"
    slowest = 0.0
    bound = history.ttl / 3 + TOLD_AFTER
    for fault, lease in _forgotten(history):
        deadline = fault.ended + bound
        # Told, released, run out, dead: in all these cases nobody relies on it any more.
        ended = min(lease.lost, lease.releasing, lease.vouched, lease.died)
        others = [
            other for other in history.faults if other is not fault and other.touches(lease.life, history.proxied(lease.life))
        ]
        if any(other.began <= deadline and other.ended >= fault.began for other in others):
            continue
        verdict.looked_at += 1
        if lease.lost <= ended:
            slowest = max(slowest, lease.lost - fault.ended)
        if ended > deadline:
            verdict.violations.append(f"{lease.key}: {lease} was valid for {ended - fault.ended:.0f} ms after {fault.kind}")
    if verdict.looked_at:
        verdict.figures["losers judged"] = verdict.looked_at
        verdict.remark = f"the slowest heard of it after {slowest:.0f} ms, {bound:.0f} are allowed"
    return verdict


def _forgotten(history: History) -> Iterator[tuple[Fault, Attempt]]:
    granted = [attempt for attempt in history.attempts if attempt.was_granted]
    for fault in history.faults:
        if fault.forgets:
            relying = [lease for lease in granted if lease.granted <= fault.began and _relied_on(lease) > fault.ended]
            yield from ((fault, lease) for lease in relying if not fault.ahead or _ended_early(history, fault, lease))


def _ended_early(history: History, fault: Fault, lease: Attempt) -> bool:
    """Whether a step of the clock cost this lease its key: somebody was told so, or has it. Most keys are renewed before that."""
    if lease.vouched > fault.ended + history.ttl:
        return False
    taken = (fault.began <= other.granted < _relied_on(lease) for other in history.attempts if other.key == lease.key)
    return lease.lost < NEVER or any(taken)


def _relied_on(lease: Attempt) -> float:
    return min(lease.vouched, lease.lost, lease.releasing, lease.died)


def tokens_rise(history: History) -> Verdict:
    """In the order of the grants, for each key, across every fault: also where the backend forgot."""
    verdict = Verdict("tokens rise in grant order")
    for leases in history.leases().values():
        verdict.looked_at += len(leases)
        valid = [lease for lease in leases if lease.was_valid]
        over = [lease for lease in leases if not lease.was_valid]
        # When these were granted nobody knows; but it was after they were asked for.
        for late in over:
            if any(lease.token >= late.token for lease in valid if lease.granted < late.asked):
                verdict.violations.append(f"{late.key}: {late} was granted after a greater token")
        for before, after in itertools.pairwise(valid):
            # Where a fault let two hold at once, the one that was granted first may have been told last.
            told_late = after.asked <= before.granted and forgetting_between(history, after, before)
            if after.token <= before.token and not told_late:
                verdict.violations.append(f"{before.key}: {after} was granted after {before}")
    return verdict


def leases_arrive_alive(history: History) -> Verdict:
    """The engine looks at the clock before it tells of a grant: what is over all the same was held up afterwards, by a pause."""
    verdict = Verdict("no lease is over when it is told")
    for attempt in history.attempts:
        if not attempt.was_granted:
            continue
        verdict.looked_at += 1
        if attempt.was_valid:
            continue
        verdict.figures["leases over when told"] += 1
        frozen = any(
            fault.who == attempt.life and fault.ended >= attempt.asked for fault in history.faults if fault.began <= attempt.granted
        )
        if not frozen:
            verdict.violations.append(f"{attempt.key}: {attempt}")
    verdict.remark = f"{verdict.figures['leases over when told']} were, of processes that had been frozen"
    return verdict


# --- order


def first_come_first_served(history: History) -> Verdict:
    """Of two that were seen waiting, the one ahead is granted first, where nothing went wrong for them in between."""
    verdict = Verdict("first come, first served", needs_chance=True)
    if not history.facts["fair"]:
        verdict.remark = "this backend keeps no queue"
        return verdict
    owners = {lease.owner: lease for lease in history.attempts if lease.was_granted}
    judged: set[tuple[str, str]] = set()
    for sighting in history.sightings:
        waiting = [owners[owner] for owner in sighting.owners if owner in owners and owners[owner].granted > sighting.seen]
        for ahead, behind in itertools.combinations(waiting, 2):
            if (ahead.owner, behind.owner) in judged or _excused(history, sighting.asked, ahead, behind):
                continue
            judged.add((ahead.owner, behind.owner))
            if behind.granted < ahead.granted:
                verdict.violations.append(f"{sighting.key}: {behind} was granted before {ahead}, who was seen ahead of it")
    verdict.looked_at = verdict.figures["orders judged"] = len(judged)
    return verdict


def _excused(history: History, since: float, ahead: Attempt, behind: Attempt) -> bool:
    if behind.mode == "unfair":
        return True
    until = min(ahead.granted, behind.granted)
    # Losses in a proxy happen all the time and are noted nowhere.
    return history.proxied(ahead.life) or any(history.disturbed(each.life, since - SETTLES, until) for each in (ahead, behind))


def nobody_starves(history: History) -> Verdict:
    """Every attempt came to an end; an undisturbed fair one was passed by no more than everybody else taking a turn or two."""
    verdict = Verdict("nobody starves")
    bound = history.facts["sessions"] * history.facts["tasks"]
    most, longest = 0, 0.0
    grants = {key: [lease.granted for lease in leases] for key, leases in _fair_leases(history).items()}
    for attempt in history.attempts:
        over = min(attempt.granted, attempt.ended)
        if over == NEVER and attempt.died < NEVER:
            continue
        verdict.looked_at += 1
        if over == NEVER:
            verdict.violations.append(f"{attempt.key}: {attempt.life}#{attempt.number} waited from {attempt.asked:.0f} to the end")
            continue
        longest = max(longest, over - attempt.asked)
        if not history.facts["fair"] or attempt.mode != "wait" or history.proxied(attempt.life):
            continue
        times = grants.get(attempt.key, [])
        passed = bisect.bisect_left(times, over) - bisect.bisect_right(times, attempt.asked)
        if passed <= min(most, bound) or history.disturbed(attempt.life, attempt.asked - SETTLES, over):
            continue
        most = max(most, passed)
        # Who takes the place of a killed worker is a session more.
        kills = [fault.ended for fault in history.faults if fault.kind == "worker killed"]
        if passed > bound + sum(attempt.asked <= killed <= over for killed in kills):
            verdict.violations.append(f"{attempt.key}: {attempt.life}#{attempt.number} was passed by {passed} others")
    verdict.remark = f"the longest wait took {longest / 1000:.1f} s"
    if history.facts["fair"]:
        verdict.remark += f", an undisturbed one was passed by {most} others, {bound} are allowed"
    return verdict


def _fair_leases(history: History) -> dict[str, list[Attempt]]:
    return {key: [lease for lease in leases if lease.mode != "unfair"] for key, leases in history.leases().items()}


# --- the end


def every_key_is_free(history: History) -> Verdict:
    verdict = Verdict("every key is free at the end", history.end.get("held", ["nobody looked"]))
    verdict.looked_at = len({attempt.key for attempt in history.attempts})
    return verdict


def nothing_is_left(history: History) -> Verdict:
    """No key, place or lease that would stay for ever; what expires was given the time for it."""
    verdict = Verdict("nothing is left in the server", history.end.get("leftovers", ["nobody looked"]))
    verdict.looked_at = 1
    return verdict


def workers_are_well(history: History) -> Verdict:
    """Nobody crashed, hung or panicked on its own."""
    verdict = Verdict("no worker crashed or hung", history.end["complaints"])
    verdict.looked_at = len({attempt.life for attempt in history.attempts})
    return verdict


def guard_holds(history: History) -> Verdict:
    """The register that looks at tokens was never corrupted; how often the other one was is told."""
    counts = Counter(history.end.get("register", {}))
    verdict = Verdict("the guarded register is intact", looked_at=counts["writes"])
    if spoilt := counts["corruptions with the guard"]:
        verdict.violations.append(f"{spoilt} corruptions with the guard")
    refused = counts["writes refused"] + counts["reads refused"]
    verdict.remark = f"{refused} refused, {counts['corruptions without the guard']} corruptions without the guard"
    return verdict


CHECKS: list[Callable[[History], Verdict]] = [
    no_two_valid_at_once,
    losers_are_told,
    leases_arrive_alive,
    tokens_rise,
    first_come_first_served,
    nobody_starves,
    every_key_is_free,
    nothing_is_left,
    workers_are_well,
    guard_holds,
]


def figures(history: History, verdicts: list[Verdict]) -> Counter[str]:
    """What the run came to, to be summed over runs."""
    counts = sum((verdict.figures for verdict in verdicts), Counter[str]())
    for attempt in history.attempts:
        counts["attempts"] += 1
        counts["grants"] += attempt.was_granted
        counts["losses told"] += attempt.lost < NEVER
    return counts + Counter(history.end.get("faults", {})) + Counter(history.end.get("register", {}))
