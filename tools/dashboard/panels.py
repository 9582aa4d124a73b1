"""The panels of the dashboard: where each stands, what it asks, and what its legend says."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

LABEL = re.compile(r"\{\{\s*(\w+)\s*\}\}")


@dataclass(frozen=True)
class Query:
    expression: str
    """With the variables of the dashboard in it."""
    legend: str

    def name(self, labels: dict[str, str]) -> str:
        """What the legend calls a line with these labels."""
        return LABEL.sub(lambda found: labels.get(found[1], ""), self.legend)


@dataclass(frozen=True)
class Panel:
    title: str
    unit: str
    left: int
    top: int
    width: int
    height: int
    """In the dashboard's grid, which is 24 columns wide."""
    queries: tuple[Query, ...]


def panels(dashboard: Path) -> list[Panel]:
    found = []
    for panel in json.loads(dashboard.read_text())["panels"]:
        place, unit = panel["gridPos"], panel["fieldConfig"]["defaults"]["unit"]
        queries = tuple(Query(target["expr"], target["legendFormat"]) for target in panel["targets"])
        found.append(Panel(panel["title"], unit, place["x"], place["y"], place["w"], place["h"], queries))
    return found
