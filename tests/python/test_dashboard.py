"""The Grafana dashboard asks for series that are emitted, by labels that they have, with values that occur."""

import json
import re
from html import unescape
from pathlib import Path

import pytest

from dlock import sync
from services import RedisServer

DOCS = Path(__file__).resolve().parents[2] / "docs"
DASHBOARD = DOCS / "grafana.json"
PICTURE = DOCS / "pictures/dashboard.svg"
SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? \S+$")
LABEL = re.compile(r'(\w+)(=~|!~|!=|=)"([^"]*)"')
SELECTOR = re.compile(r"(dlock_\w+)(?:\{([^}]*)\})?")
# What Prometheus adds to what it scrapes.
ADDED = {"job", "instance"}


def emitted(server: RedisServer, key: str) -> dict[str, dict[str, set[str]]]:
    """The series of a client that has had good days and bad: name, label, values."""
    with sync.Client(server.url) as client:
        with client.lock(key, ttl=0.3) as lease:
            client.health()
            lease.extend(1)
        series: dict[str, dict[str, set[str]]] = {}
        for line in client.metrics().splitlines():
            if found := SAMPLE.match(line):
                labels = series.setdefault(found[1], {})
                for label, _, value in LABEL.findall(found[2] or ""):
                    labels.setdefault(label, set()).add(value)
        return series


def queries() -> list[str]:
    dashboard = json.loads(DASHBOARD.read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return asked + [variable["query"] for variable in dashboard["templating"]["list"] if variable["type"] == "query"]


def faults(query: str, series: dict[str, dict[str, set[str]]]) -> list[str]:
    found = []
    named = [name for name, _ in SELECTOR.findall(query)]
    for name, matchers in SELECTOR.findall(query):
        if name not in series:
            found.append(f"{name} is not emitted")
            continue
        for label, operator, value in LABEL.findall(matchers):
            if label in ADDED:
                continue
            if label not in series[name]:
                found.append(f"{name} has no label {label}")
            elif operator == "=" and value not in series[name][label]:
                found.append(f"{name}: {label} is never {value}")
    for label in re.findall(r"\w+", " ".join(re.findall(r"\bby \(([^)]*)\)", query))):
        found += [f"{name} has no label {label}" for name in named if name in series and label not in {*series[name], *ADDED}]
    return found + ([] if named else ["asks for nothing of ours"])


def test_every_query_of_the_dashboard_finds_its_series(redis_server: RedisServer, key: str) -> None:
    series = emitted(redis_server, key)
    wrong = {query: found for query in queries() if (found := faults(query, series))}
    assert len(queries()) > 15
    assert not wrong


def test_every_series_is_on_the_dashboard(redis_server: RedisServer, key: str) -> None:
    asked = {re.sub(r"_(bucket|count|sum)$", "", name) for query in queries() for name, _ in SELECTOR.findall(query)}
    assert {re.sub(r"_(bucket|count|sum)$", "", name) for name in emitted(redis_server, key)} == asked


def test_the_picture_is_of_this_dashboard() -> None:
    titles = [panel["title"] for panel in json.loads(DASHBOARD.read_text())["panels"]]
    words = [unescape(word) for word in re.findall(r"<text[^>]*>([^<]*)</text>", PICTURE.read_text())]
    assert [word for word in words if word in titles] == titles, "draw it again: make pictures"


@pytest.mark.parametrize(
    "query",
    [
        "rate(dlock_leases_acquired[1m])",
        'dlock_leases_lost_total{cause="gone"}',
        'dlock_leases_lost_total{reason="stolen"}',
        "sum by (key) (dlock_leases_held)",
        "up",
    ],
)
def test_the_check_sees_a_query_that_finds_nothing(query: str, redis_server: RedisServer, key: str) -> None:
    assert faults(query, emitted(redis_server, key))
