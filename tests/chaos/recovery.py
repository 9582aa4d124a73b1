"""How long it took until work went on: after a holder was killed, and after faults of servers. Told, not judged."""

import bisect
import statistics
from collections import defaultdict
from collections.abc import Iterator

from history import NEVER, History


def recoveries(history: History) -> Iterator[str]:
    """A line for each kind of fault: how often, the median and the longest time in milliseconds."""
    times: dict[str, list[float]] = defaultdict(list)
    times["holder killed, until the next holder"] = [*_take_overs(history)]
    grants = sorted(attempt.granted for attempt in history.attempts if attempt.was_granted)
    for fault in history.faults:
        after = bisect.bisect_right(grants, fault.ended)
        if fault.server and after < len(grants):
            times[f"{fault.kind}, until the next grant of any key"].append(grants[after] - fault.ended)
    for kind, taken in sorted(times.items()):
        if taken:
            yield f"{kind}: {len(taken)} times, median {statistics.median(taken):.0f} ms, longest {max(taken):.0f} ms"


def _take_overs(history: History) -> Iterator[float]:
    """From the death of a holder, or from when somebody asked if that was later, to the next grant of the key."""
    for leases in history.leases().values():
        for number, lease in enumerate(leases[:-1]):
            held_at_death = lease.died < min(lease.releasing, lease.lost, lease.vouched)
            following = leases[number + 1]
            if lease.died < NEVER and held_at_death:
                yield following.granted - max(lease.died, following.asked)
