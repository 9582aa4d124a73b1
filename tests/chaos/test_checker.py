"""The checker finds what is wrong in histories written by hand. Each bad one differs from a good one in one thing."""

from collections.abc import Callable
from pathlib import Path

import checker
import linearizable
import pytest
from checker import Verdict
from faults import possible
from history import NEVER, Attempt, Fault, History, Sighting, read
from run import everything_happened

TTL = 2000.0
FACTS = {
    "backend": "redis",
    "ttl": TTL,
    "fair": True,
    "crash_release": False,
    "sessions": 2,
    "tasks": 1,
    "workers": {"w1": {"proxied": False}, "w2": {"proxied": False}, "w3": {"proxied": True}},
}
GOOD_END = {"held": [], "leftovers": [], "complaints": [], "register": {"writes": 9}, "faults": {}}


def lease(life: str, token: int, granted: float, **changes: float | str) -> Attempt:
    """Asked for 10 ms before, held for 100 ms, released 5 ms later."""
    made = Attempt(life, token, "k", "wait", granted - 10)
    made.granted, made.token, made.owner = granted, token, f"{life}:{token}"
    made.vouched, made.renewed = granted + TTL, granted
    made.releasing, made.ended, made.outcome = granted + 100, granted + 105, "released"
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def held_on(life: str, token: int, granted: float, **changes: float | str) -> Attempt:
    """Never released."""
    return lease(life, token, granted, releasing=NEVER, ended=NEVER, outcome="", **changes)


def history(*attempts: Attempt, faults: tuple[Fault, ...] = (), **changes: object) -> History:
    made = History(FACTS | changes, [*attempts], [*faults], end=dict(GOOD_END))
    made.clock_ended = 1e6
    return made


def flush(at: float) -> Fault:
    return Fault("FLUSHALL", at, at + 2, "", server=True, forgets=True)


def step(ahead: float, at: float) -> Fault:
    kind = "clock set ahead" if ahead > 0 else "clock set back"
    return Fault(kind, at, at + 2, "", server=True, forgets=ahead > 0, ahead=ahead)


def pause(life: str, began: float, ended: float) -> Fault:
    return Fault("worker paused", began, ended, life, server=False, forgets=False)


def clean(check: Callable[[History], Verdict], judged: History) -> bool:
    """Whether nothing is wrong; a check that looked at nothing has not shown that."""
    verdict = check(judged)
    assert verdict.looked_at > 0
    return not verdict.violations


@pytest.fixture(scope="module", autouse=True)
def _porcupine() -> None:
    linearizable.build()


both = pytest.mark.parametrize("check", [checker.no_two_valid_at_once, linearizable.linearizable])


@both
def test_one_after_the_other_is_good(check: Callable[[History], Verdict]) -> None:
    assert clean(check, history(lease("w1", 1, 1000), lease("w2", 2, 1200), lease("w1", 3, 1400)))


@both
def test_two_at_once_are_found(check: Callable[[History], Verdict]) -> None:
    assert not clean(check, history(lease("w1", 1, 1000), lease("w2", 2, 1090)))


@both
def test_a_third_in_the_shadow_of_a_long_lease_is_found(check: Callable[[History], Verdict]) -> None:
    assert not clean(check, history(held_on("w1", 1, 1000), lease("w2", 5, 3500), held_on("w1", 6, 3700), lease("w2", 7, 5600)))


@both
def test_a_lease_that_ran_out_overlaps_nobody(check: Callable[[History], Verdict]) -> None:
    assert clean(check, history(held_on("w1", 1, 1000), lease("w2", 2, 3010)))


@both
def test_a_renewal_counts(check: Callable[[History], Verdict]) -> None:
    assert not clean(check, history(held_on("w1", 1, 1000, vouched=3700, renewed=1700), lease("w2", 2, 3010)))


@both
def test_who_was_told_of_the_loss_no_longer_holds(check: Callable[[History], Verdict]) -> None:
    assert clean(check, history(held_on("w1", 1, 1000, lost=1500), lease("w2", 2, 1600)))
    assert not clean(check, history(held_on("w1", 1, 1000, lost=1500), lease("w2", 2, 1490)))


@both
def test_a_dead_holder_blocks_the_key_unless_its_death_frees_it(check: Callable[[History], Verdict]) -> None:
    leases = held_on("w1", 1, 1000, died=1050), lease("w2", 2, 1200)
    assert not clean(check, history(*leases))
    assert clean(check, history(*leases, crash_release=True))


@both
def test_what_the_backend_forgot_is_judged_apart(check: Callable[[History], Verdict]) -> None:
    leases = held_on("w1", 1, 1000, lost=1700), lease("w2", 2, 1200)
    assert clean(check, history(*leases, faults=(flush(1100),)))
    assert not clean(check, history(*leases))


@both
def test_a_grant_that_was_forgotten_before_it_was_told_is_judged_apart(check: Callable[[History], Verdict]) -> None:
    leases = lease("w1", 1, 1300, asked=990, vouched=2990, lost=1302), held_on("w2", 2, 1200, vouched=3900, renewed=1900)
    assert clean(check, history(*leases, faults=(flush(1100), pause("w1", 995, 1299))))
    assert not clean(check, history(*leases, faults=(flush(900), pause("w1", 995, 1299))))


def test_overlaps_after_forgetting_are_counted() -> None:
    leases = held_on("w1", 1, 1000, lost=1250), lease("w2", 2, 1200)
    assert "1 after FLUSHALL, the longest 50 ms" in checker.no_two_valid_at_once(history(*leases, faults=(flush(1100),))).remark


@both
@pytest.mark.parametrize("at", [500, 1300])
def test_forgetting_before_or_after_excuses_nothing(check: Callable[[History], Verdict], at: float) -> None:
    assert not clean(check, history(held_on("w1", 1, 1000), lease("w2", 2, 1200), faults=(flush(at),)))


@both
def test_a_lease_renewed_after_the_forgetting_was_not_forgotten(check: Callable[[History], Verdict]) -> None:
    leases = held_on("w1", 1, 1000, vouched=3900, renewed=1900), lease("w2", 2, 2000)
    assert not clean(check, history(*leases, faults=(flush(1100),)))


@both
def test_a_clock_that_is_set_ahead_makes_the_backend_forget(check: Callable[[History], Verdict]) -> None:
    leases = held_on("w1", 1, 1000, lost=1700), lease("w2", 2, 1600)
    assert clean(check, history(*leases, faults=(step(1500, 1100),)))
    assert not clean(check, history(*leases, faults=(step(1500, 1650),)))


@both
def test_a_clock_that_is_set_back_excuses_nothing(check: Callable[[History], Verdict]) -> None:
    assert not clean(check, history(held_on("w1", 1, 1000, lost=1700), lease("w2", 2, 1600), faults=(step(-1500, 1100),)))


def test_a_step_ends_a_lease_by_as_much_and_no_earlier() -> None:
    leases = held_on("w1", 1, 1000, lost=2600), lease("w2", 2, 2500)
    for steps, excused in [([600], True), ([400], False), ([300, 300], True), ([600, -600], True), ([-600, 400], False)]:
        faults = tuple(step(ahead, 1100 + 10 * number) for number, ahead in enumerate(steps))
        assert clean(checker.no_two_valid_at_once, history(*leases, faults=faults)) == excused


@pytest.mark.parametrize("check", [checker.tokens_rise, linearizable.linearizable])
@pytest.mark.parametrize("token", [4, 5])
def test_tokens_that_do_not_rise_are_found(check: Callable[[History], Verdict], token: int) -> None:
    assert clean(check, history(lease("w1", 5, 1000), lease("w2", 6, 1200)))
    assert not clean(check, history(lease("w1", 5, 1000), lease("w2", token, 1200)))


def test_r07_forgetting_excuses_no_token() -> None:
    assert not clean(checker.tokens_rise, history(lease("w1", 5, 1000), lease("w2", 4, 1200), faults=(flush(1150),)))


def test_a_grant_told_late_across_a_forgetting_is_no_fallen_token() -> None:
    leases = lease("w2", 9, 1200), held_on("w1", 5, 1210, asked=1000, vouched=3050)
    assert clean(checker.tokens_rise, history(*leases, faults=(flush(1100),)))
    assert not clean(checker.tokens_rise, history(*leases))


@pytest.mark.parametrize("check", [checker.tokens_rise, linearizable.linearizable])
def test_a_lease_that_was_over_when_told_was_granted_some_time_before(check: Callable[[History], Verdict]) -> None:
    over = lease("w1", 2, 3500, asked=1050, vouched=3500)
    assert clean(check, history(lease("w2", 1, 1000, asked=800), over, lease("w2", 3, 3400)))
    assert not clean(check, history(lease("w2", 4, 1000, asked=800), over, lease("w2", 5, 3400)))


def test_a_lease_may_be_over_when_told_only_where_a_process_was_frozen() -> None:
    over = lease("w1", 2, 3500, asked=1050, vouched=3500)
    assert clean(checker.leases_arrive_alive, history(over, faults=(pause("w1", 1100, 3499),)))
    assert not clean(checker.leases_arrive_alive, history(over, faults=(pause("w2", 1100, 3499),)))


def test_losers_must_be_told_within_a_third_of_the_ttl_and_a_second() -> None:
    told = lambda at: history(held_on("w1", 1, 1000, lost=at, vouched=9000), faults=(flush(1100),))  # noqa: E731
    assert clean(checker.losers_are_told, told(1102 + 1660))
    assert not clean(checker.losers_are_told, told(1102 + 1680))
    assert not clean(checker.losers_are_told, told(NEVER))


def test_of_a_step_the_losers_are_those_whose_key_ended() -> None:
    judge = lambda *leases: checker.losers_are_told(history(*leases, faults=(step(1900, 1100),)))  # noqa: E731
    spared = held_on("w1", 1, 1000, vouched=9000)
    assert judge(spared, lease("w2", 2, 9100)).looked_at == 0
    told = judge(held_on("w1", 1, 1000, lost=1700))
    assert (told.looked_at, told.violations) == (1, [])
    late = held_on("w1", 1, 1000, vouched=3090, lost=3080)
    assert len(judge(late).violations) == 1
    never_told = held_on("w1", 1, 1000, vouched=3090)
    assert len(judge(never_told, lease("w2", 2, 1500)).violations) == 1
    assert judge(never_told, lease("w2", 2, 3100)).looked_at == 0


def test_losers_who_were_kept_from_hearing_are_not_judged() -> None:
    judged = history(held_on("w1", 1, 1000, vouched=9000), faults=(flush(1100), pause("w1", 1500, 4000)))
    assert checker.losers_are_told(judged).looked_at == 0


def seen(*owners: str, at: float = 10_000) -> Sighting:
    return Sighting("k", at - 1, at, [*owners])


def test_overtaking_in_the_queue_is_found() -> None:
    judged = history(lease("w1", 1, 10_200, asked=9000), lease("w2", 2, 10_400, asked=9000))
    judged.sightings = [seen("w1:1", "w2:2")]
    assert clean(checker.first_come_first_served, judged)
    judged.sightings = [seen("w2:2", "w1:1")]
    assert not clean(checker.first_come_first_served, judged)


@pytest.mark.parametrize("fault", [pause("w2", 9500, 9600), pause("w1", 5000, 5500), flush(9000)])
def test_order_is_not_judged_where_something_went_wrong(fault: Fault) -> None:
    judged = history(lease("w1", 1, 10_200, asked=9000), lease("w2", 2, 10_400, asked=9000), faults=(fault,))
    judged.sightings = [seen("w2:2", "w1:1")]
    assert checker.first_come_first_served(judged).looked_at == 0


def test_who_waits_to_the_end_has_starved() -> None:
    assert not clean(checker.nobody_starves, history(lease("w1", 1, 1000), Attempt("w2", 1, "k", "wait", 900.0)))


def test_who_is_killed_while_waiting_has_not_starved() -> None:
    assert clean(checker.nobody_starves, history(lease("w1", 1, 1000), Attempt("w2", 1, "k", "wait", 900.0, died=1000)))


def test_who_is_passed_by_more_than_a_turn_of_all_has_starved() -> None:
    others = [lease("w1", token, 1000 + 150 * token) for token in range(1, 4)]
    assert clean(checker.nobody_starves, history(*others, lease("w2", 9, 1400, asked=1000)))
    assert not clean(checker.nobody_starves, history(*others, lease("w2", 9, 1600, asked=1000)))


@pytest.mark.parametrize(
    ("check", "found"),
    [
        (checker.every_key_is_free, {"held": ["k"]}),
        (checker.nothing_is_left, {"leftovers": ["dlock:q:k"]}),
        (checker.workers_are_well, {"complaints": ["w1.1 ended with 101"]}),
        (checker.guard_holds, {"register": {"writes": 1, "corruptions with the guard": 1}}),
    ],
)
def test_what_is_wrong_at_the_end_is_found(check: Callable[[History], Verdict], found: dict[str, object]) -> None:
    judged = history(lease("w1", 1, 1000))
    assert clean(check, judged)
    judged.end |= found
    assert not clean(check, judged)


@pytest.mark.parametrize("backend", ["redis", "etcd"])
def test_a_run_without_its_faults_is_not_good(backend: str) -> None:
    judged = history(lease("w1", 1, 1000), namespaces=True, clocks=True, backend=backend)
    everything = dict.fromkeys([*possible(backend, namespaces=True, clocks=True), "dropped answers"], 1)
    judged.end["faults"] = everything
    assert clean(everything_happened, judged)
    for missing in everything:
        judged.end["faults"] = {kind: 1 for kind in everything if kind != missing}
        assert everything_happened(judged).violations == [f"no {missing}"]


def test_a_check_that_looked_at_nothing_has_not_passed() -> None:
    marks = {verdict.name: verdict.mark.strip() for verdict in checker.judge(history())}
    for name in ("no two valid at once", "tokens rise in grant order", "nobody starves", "every key is free at the end"):
        assert marks[name] == "FAILED"
    assert marks["first come, first served"] == "-"


RUN = '{"backend": "redis", "ttl": 2000, "fair": true, "crash_release": false, "sessions": 1, "tasks": 1, "workers": {}}'
ASK = '{"t":1,"e":"ask","n":1,"k":"k","m":"wait"}\n'
GRANT = '{"t":3,"e":"grant","n":1,"at":2,"until":2002,"token":7,"owner":"s:1"}\n'
KILL = '{"t":50,"done":60,"e":"worker killed","who":"w1.1","server":false,"forgets":false}\n'


def test_a_history_is_read_also_where_a_kill_tore_its_last_line(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(RUN)
    (tmp_path / "faults.jsonl").write_text(KILL)
    (tmp_path / "w1.1.jsonl").write_text(ASK + GRANT + '{"t":4,"e":"he')
    (found,) = read(tmp_path).attempts
    assert (found.asked, found.granted, found.vouched, found.token, found.died) == (1, 2, 2002, 7, 50)
    assert read(tmp_path).end["complaints"] == ["the run did not reach its end"]


def test_a_history_with_a_gap_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(RUN)
    (tmp_path / "w1.1.jsonl").write_text('{"t":0,"e":"as\n' + ASK + GRANT)
    with pytest.raises(ValueError, match="Unterminated"):
        read(tmp_path)
