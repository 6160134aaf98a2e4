"""Counts of several replicas behind one address: each tells its own to a board and is told those of the others, so that /metrics says the same whoever answers, with a label for each replica.

The board also tells replicas when they are to end, and is told why one could not be made.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple

from prometheus_client import generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families

from sightline.errors import Problem
from sightline.serve.guard import App, Receive, Scope, Send
from sightline.serve.meters import Meters

EVERY = 1.0
"""Seconds between two tellings."""
LASTING = 10.0
"""Seconds after which a replica that tells nothing is gone."""


class Told(NamedTuple):
    """What a board tells a replica."""

    texts: Mapping[str, bytes]
    """Counts of all replicas by name, in Prometheus' text format."""
    ending: bool
    """Whether nothing more is to be taken."""


class Board:
    """What each replica told last. One for all of them."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[float, bytes, int]] = {}
        self._ending = False
        self._problems: list[Problem] = []

    def exchange(self, name: str, text: bytes, busy: int) -> Told:
        """Take the counts of a replica and how many requests it has at hand; what all told lately."""
        self._told[name] = time.monotonic(), text, busy
        return Told(texts={known: text for known, (_, text, _) in self._recent().items()}, ending=self._ending)

    def end(self) -> None:
        """From now on replicas are told that they are to end."""
        self._ending = True

    def refuse(self, problems: list[Problem]) -> None:
        """A replica could not be made, and why."""
        self._problems = problems

    def problems(self) -> list[Problem]:
        """Why the last replica that could not be made could not."""
        return self._problems

    def busy(self) -> int:
        """Requests that all replicas have at hand."""
        return sum(busy for *_, busy in self._recent().values())

    def _recent(self) -> dict[str, tuple[float, bytes, int]]:
        now = time.monotonic()
        self._told = {name: one for name, one in self._told.items() if now - one[0] < LASTING}
        return self._told


class _Families:
    """Families of metrics, given as a registry gives them."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Sequence[Metric]:
        return self._families


def merged(texts: Mapping[str, bytes]) -> bytes:
    """Counts of several replicas, in Prometheus' text format, as one: each sample gets the label `replica`, each family stands once, and `sightline_replicas` says how many replicas there are."""
    families: dict[str, Metric] = {}
    for name, text in sorted(texts.items()):
        for family in text_string_to_metric_families(text.decode()):
            kept = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            kept.samples += [sample._replace(labels={**sample.labels, "replica": name}) for sample in family.samples]
    count = GaugeMetricFamily("sightline_replicas", "Replicas that answer", value=len(texts))
    return generate_latest(_Families([count, *families.values()]))  # type: ignore[arg-type]


class Telling:
    """A thread that tells a board the counts of one replica again and again, and calls `end` once it is told to."""

    def __init__(self, name: str, meters: Meters, exchange: Callable[[str, bytes, int], Told], busy: Callable[[], int], end: Callable[[], Any]) -> None:
        self.name, self.meters, self._exchange, self._busy, self._end = name, meters, exchange, busy, end
        self._others: Mapping[str, bytes] = {}
        self._ended = threading.Event()
        threading.Thread(target=self._tell, name="telling", daemon=True).start()

    def _tell(self) -> None:
        try:
            while True:
                found = self._exchange(self.name, self.meters.text(), self._busy())
                self._others = found.texts
                if found.ending and not self._ended.is_set():
                    self._ended.set()
                    threading.Thread(target=self._end, name="ending", daemon=True).start()
                time.sleep(EVERY)
        finally:
            self._others = {}  # without a board, what the others told is of no time

    def text(self) -> bytes:
        """The counts of all replicas, its own as they are now."""
        return merged({**self._others, self.name: self.meters.text()})


class GatheredMetrics:
    """Lets everything through to an app, and puts the counts of all replicas in the place of its own."""

    def __init__(self, app: App, telling: Telling) -> None:
        self.app, self.telling = app, telling

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (scope["method"], scope["path"]) != ("GET", "/metrics"):
            await self.app(scope, receive, send)
            return
        start: MutableMapping[str, Any] = {}

        async def sent(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            elif not message.get("more_body", False):
                body = self.telling.text()
                headers = [(key, value) for key, value in start["headers"] if key.lower() != b"content-length"]
                await send({**start, "headers": [*headers, (b"content-length", str(len(body)).encode())]})
                await send({"type": "http.response.body", "body": body})

        await self.app(scope, receive, sent)
