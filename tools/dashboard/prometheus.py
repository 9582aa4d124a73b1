"""A Prometheus of our own, which scrapes one program."""

import json
import urllib.request
from dataclasses import dataclass
from urllib.error import HTTPError
from urllib.parse import urlencode

from dashboard.panels import Query
from services import ServerProcess

SCRAPE_SECONDS = 5
# As Grafana sets its variables: a rate is taken over four scrapes, and every job is shown.
VARIABLES = {"$__rate_interval": f"{4 * SCRAPE_SECONDS}s", "$job": ".*"}


@dataclass(frozen=True)
class Line:
    name: str
    times: list[float]
    values: list[float]
    """Where there is none, as for a quantile of nothing, it is NaN."""


class Prometheus(ServerProcess):
    program = "prometheus"

    def __init__(self, *, job: str, port: int) -> None:
        super().__init__()
        self._scraped = {"job_name": job, "static_configs": [{"targets": [f"{self.host}:{port}"]}]}

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def command(self, *words: str | int) -> str:
        """The answer to a request for `words`, a path of the HTTP interface."""
        with urllib.request.urlopen(f"{self.url}/{'/'.join(map(str, words))}") as answer:
            return str(answer.read().decode())

    def lines(self, query: Query, start: float, end: float) -> list[Line]:
        expression = query.expression
        for variable, value in VARIABLES.items():
            expression = expression.replace(variable, value)
        asked = urlencode({"query": expression, "start": start, "end": end, "step": SCRAPE_SECONDS})
        answer = json.loads(self.command(f"api/v1/query_range?{asked}"))
        found = []
        for series in answer["data"]["result"]:
            times, values = zip(*series["values"], strict=True)
            found.append(Line(query.name(series["metric"]), list(times), list(map(float, values))))
        return found

    def _command_line(self, port: int) -> list[str]:
        config = self.folder / "prometheus.yml"
        # JSON is YAML too.
        config.write_text(json.dumps({"global": {"scrape_interval": f"{SCRAPE_SECONDS}s"}, "scrape_configs": [self._scraped]}))
        listening = f"--web.listen-address={self.host}:{port}"
        return [self.program, f"--config.file={config}", f"--storage.tsdb.path={self.folder / 'data'}", listening]

    def _serves(self, port: int) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.host}:{port}/-/ready", timeout=1) as answer:
                return bool(answer.status == 200)
        except HTTPError:
            return False
