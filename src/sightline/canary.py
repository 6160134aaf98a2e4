"""Two models on the same traffic, before the second takes the place of the first: are its answers the same, and where they differ, are they worse?

Both are asked through the API, so that what is compared is what clients would get. Differences are paired, and an answer that is missing counts as a wrong one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from sightline.errors import Problem, Refused
from sightline.evaluate.failures.finding import resampled_by
from sightline.evaluate.metrics import Value, wilson
from sightline.evaluate.region_matching import mean_iou
from sightline.evaluate.short_answers import RULES, Rule
from sightline.progress import Progress
from sightline.serve.chat_client import ChatServer, Reply, ask, chat_server
from sightline.serve.compared_replies import Outcome, agreement, boxes, boxes_of, outcome, well_formed

Verdict = Literal["no worse", "worse", "unclear"]
TRIES = 6
"""Times that a server is asked which is away or full."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request of the traffic."""

    name: str
    body: Mapping[str, Any]
    """A chat request of the OpenAI API."""
    right: tuple[str, ...] = ()
    """Right answers, where they are known."""
    rule: Rule = "loose"
    """How an answer is held against them."""
    regions: tuple[Mapping[str, Any], ...] | None = None
    """The right regions, as `message.regions` has them, where they are known."""

    @property
    def known(self) -> bool:
        """Whether an answer can be scored."""
        return bool(self.right) or self.regions is not None

    @property
    def group(self) -> str:
        """What is resampled together: the pictures, else the request."""
        urls = [part["image_url"]["url"] for part in self.parts if part.get("type") == "image_url"]
        return hashlib.sha256("\n".join(urls).encode()).hexdigest() if urls else self.name

    @property
    def parts(self) -> list[Mapping[str, Any]]:
        """Parts of all messages; a message of text alone is one."""
        found: list[Mapping[str, Any]] = []
        for message in self.body["messages"]:
            content = message.get("content")
            found += content if isinstance(content, list) else [{"type": "text", "text": str(content)}]
        return found

    @property
    def question(self) -> str:
        """Its words."""
        return " ".join(str(part["text"]) for part in self.parts if part.get("type") == "text")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A request and what both said."""

    asked: Asked
    first: Reply
    other: Reply

    @property
    def outcome(self) -> Outcome:
        """Whether both said the same."""
        return outcome(self.first, self.other)

    def scores(self) -> tuple[float, float]:
        """Scores of both, 0..1; of a request whose right answer is known."""
        return _score(self.asked, self.first), _score(self.asked, self.other)


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One thing that was measured of both, and the other less the first, paired."""

    name: str
    first: Value
    other: Value
    difference: Value
    worse: float | None = None
    """How much less the other may have; None where it is told alone."""

    @property
    def verdict(self) -> Verdict | None:
        """no worse: the whole interval lies above what is allowed; worse: below it; unclear: around it."""
        if self.worse is None:
            return None
        return "no worse" if self.difference.low >= -self.worse else "worse" if self.difference.high < -self.worse else "unclear"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the other may do worse."""

    max_worse: float = 0.02
    """Of scores, of answers that are given and of those that are well formed: how much less the other may have. Where no right answer is known, also the share of answers that may differ."""
    max_differ: float | None = None
    """Share of answers that may differ; absent: any where right answers are known, else `max_worse`."""
    max_slower: float | None = None
    """Mean time of the other over that of the first; absent: any."""


def read_requests(path: Path, rule: Rule = "loose") -> list[Asked]:
    """Requests of a file, one JSON object a line: OpenAI's batch form (`custom_id`, `body`), the log of `serve --canary-texts`, or bodies alone. `right`, `rule` and `regions` beside the body say what is right.

    Raises Refused with every line that is none.
    """
    found: list[Asked] = []
    problems: list[Problem] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            found.append(_asked(json.loads(line), f"{path.name}:{number}", rule))
        except (ValueError, TypeError, KeyError) as error:
            told = error.args[0] if isinstance(error, KeyError) else str(error)
            allowed, fix = '{"custom_id": .., "body": {"messages": [..]}}, or such a body alone', "see docs/serving-at-scale.md"
            problems.append(Problem(code="canary/request", place=f"{path}:{number}", found=str(told)[:200], allowed=allowed, fix=fix))
    if not found and not problems:
        problems.append(Problem(code="canary/no-requests", place=str(path), found="no line", allowed="one request a line", fix="record some traffic"))
    if problems:
        raise Refused(problems)
    return found


def _asked(line: Any, name: str, rule: Rule) -> Asked:
    if not isinstance(line, dict):
        raise ValueError("no object")
    if "body" not in line and "request" in line and "outcome" in line:
        raise ValueError("a line of a log without texts: the requests are not in it (serve --canary-texts keeps them)")
    body = line.get("body", line)
    beside = line if "body" in line else {}
    messages = body.get("messages") if isinstance(body, dict) else None
    if not isinstance(messages, list) or not messages or not all(isinstance(one, dict) for one in messages):
        raise ValueError("no messages")
    said = beside.get("rule", rule)
    if said not in RULES:
        raise ValueError(f"rule {said!r}: allowed are {', '.join(get_args(Rule))}")
    right = beside.get("right", ())
    right = (right,) if isinstance(right, str) else tuple(map(str, right))
    regions = beside.get("regions")
    if regions is not None:
        boxes_of(regions)
    name = str(beside.get("custom_id") or beside.get("id") or name)
    drawn = body.get("temperature") and body.get("seed") is None
    seed = {"seed": int(hashlib.sha256(name.encode()).hexdigest()[:8], 16)} if drawn else {}  # both draw with the same seed
    return Asked(name=name, body={**body, **seed}, right=right, rule=said, regions=None if regions is None else tuple(regions))


@contextmanager
def side(name: str, key: str = "", dtype: str = "float32", check: bool = True) -> Iterator[ChatServer]:
    """Who is asked: a server at `http://HOST:PORT/v1#MODEL`, or a folder, which is served in this process as long as it is needed."""
    if name.startswith(("http://", "https://")):
        yield chat_server(name, "canary", key)
        return
    from sightline.serve.server_in_thread import served_here

    with served_here(Path(name), dtype, check) as server:
        yield server


def ask_both(asked: Sequence[Asked], servers: tuple[ChatServer, ChatServer], concurrency: int = 1) -> list[Pair]:
    """Every request to both, one after the other, the first of them in turns: neither always finds the other's traces in caches, nor answers while the other does for the same request."""
    progress = Progress("canary", len(asked), "requests")

    def one(numbered: tuple[int, Asked]) -> Pair:
        number, request = numbered
        order = (0, 1) if number % 2 == 0 else (1, 0)
        replies = {who: ask(servers[who], request.body, tries=TRIES) for who in order}
        progress.advance()
        return Pair(asked=request, first=replies[0], other=replies[1])

    with ThreadPoolExecutor(concurrency) as pool:
        pairs = list(pool.map(one, enumerate(asked)))
    progress.close()
    return pairs


def _score(asked: Asked, reply: Reply) -> float:
    """0..1; where both words and regions are known, the mean of both. What is no answer scores 0."""
    if not reply.answered:
        return 0.0
    found = [RULES[asked.rule](reply.texts[0], asked.right)] if asked.right else []
    if asked.regions is not None:
        found.append(mean_iou(boxes_of(asked.regions), boxes(reply) or []))
    return sum(found) / len(found)


def paired(name: str, pairs: Sequence[Pair], of: Callable[[Pair], tuple[float, float]], worse: float | None = None) -> Measure:
    """A measure 0..1 of both. The interval of its difference is the wider of that of 200 resamples of the pictures and of Wilson's about the share of requests where the other has less, or more: few requests that are all
    alike are not certain.
    """
    groups = [pair.asked.group for pair in pairs]
    values = np.array([of(pair) for pair in pairs], float).reshape(-1, 2)
    mean = lambda column: lambda times: times @ column / np.maximum(times.sum(axis=1), 1)  # noqa: E731
    first, other, difference = (resampled_by(groups, mean(column)) for column in (values[:, 0], values[:, 1], values[:, 1] - values[:, 0]))
    if pairs:
        count, size = len(set(groups)), len(pairs)
        less, more = (values[:, 1] < values[:, 0]).sum() / size, (values[:, 1] > values[:, 0]).sum() / size
        low = difference.value - (wilson(less * count, count)[1] - less)
        high = difference.value + (wilson(more * count, count)[1] - more)
        difference = difference._replace(low=max(-1.0, min(low, difference.low)), high=min(1.0, max(high, difference.high)))
    return Measure(name=name, first=first, other=other, difference=difference, worse=worse)


def measures(pairs: Sequence[Pair], limits: Limits) -> list[Measure]:
    """All that is measured of both, those first that decide."""
    known = [pair for pair in pairs if pair.asked.known]
    both = [pair for pair in pairs if pair.first.answered and pair.other.answered]
    differ = limits.max_differ if limits.max_differ is not None else None if known else limits.max_worse
    found = [
        paired("score", known, Pair.scores, limits.max_worse if known else None),
        paired("answered", pairs, lambda pair: (float(pair.first.answered), float(pair.other.answered)), limits.max_worse),
        paired(
            "well formed",
            both,
            lambda pair: (float(well_formed(pair.asked.body, pair.first)), float(well_formed(pair.asked.body, pair.other))),
            limits.max_worse,
        ),
        paired("the same answer", both, lambda pair: (1.0, float(pair.outcome == "equal")), differ),
    ]
    placed = [pair for pair in both if agreement(pair.first, pair.other) is not None]
    found.append(paired("regions in common (IoU)", placed, lambda pair: (1.0, agreement(pair.first, pair.other) or 0.0)))
    return [one for one in found if one.difference.n]


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Seconds for an answer."""

    first: Value
    other: Value
    ratio: Value
    """Mean of the other over mean of the first, paired."""
    tails: tuple[float, float]
    """Seconds within which 95 % of the answers of each came."""
    slower: float | None = None
    """The ratio that is allowed."""

    @property
    def verdict(self) -> Verdict | None:
        """As of a Measure."""
        if self.slower is None:
            return None
        return "no worse" if self.ratio.high <= self.slower else "worse" if self.ratio.low > self.slower else "unclear"


def speed(pairs: Sequence[Pair], limits: Limits) -> Speed | None:
    """Times of the requests that both answered; None where there are none."""
    both = [pair for pair in pairs if pair.first.answered and pair.other.answered]
    if not both:
        return None
    groups = [pair.asked.group for pair in both]
    seconds = np.array([(pair.first.seconds, pair.other.seconds) for pair in both])
    mean = lambda column, times: times @ seconds[:, column] / np.maximum(times.sum(axis=1), 1)  # noqa: E731
    tails = np.percentile(seconds, 95, axis=0)
    return Speed(
        first=resampled_by(groups, partial(mean, 0)),
        other=resampled_by(groups, partial(mean, 1)),
        ratio=resampled_by(groups, lambda times: mean(1, times) / np.maximum(mean(0, times), 1e-9)),
        tails=(float(tails[0]), float(tails[1])),
        slower=limits.max_slower,
    )


@dataclass(frozen=True, kw_only=True)
class Canary:
    """What came of it."""

    names: tuple[str, str]
    pairs: tuple[Pair, ...]
    measures: tuple[Measure, ...]
    speed: Speed | None

    @property
    def verdict(self) -> Verdict:
        """The worst of what decides."""
        said = {one.verdict for one in (*self.measures, *([self.speed] if self.speed is not None else []))}
        return "worse" if "worse" in said else "unclear" if "unclear" in said else "no worse"

    @property
    def outcomes(self) -> dict[Outcome, int]:
        """How many requests were answered alike, differently, or not by both."""
        said = [pair.outcome for pair in self.pairs]
        return {name: said.count(name) for name in get_args(Outcome)}

    def record(self) -> dict[str, Any]:
        """All of it as JSON."""
        told = [
            {
                "name": one.name,
                "verdict": one.verdict,
                "allowed": one.worse,
                "first": one.first._asdict(),
                "other": one.other._asdict(),
                "difference": one.difference._asdict(),
            }
            for one in self.measures
        ]
        return {
            "verdict": self.verdict,
            "first": self.names[0],
            "other": self.names[1],
            "outcomes": self.outcomes,
            "measures": told,
            "seconds": None if self.speed is None else _speed_record(self.speed),
            "requests": [_pair_record(pair) for pair in self.pairs],
        }


def compare(names: tuple[str, str], pairs: Sequence[Pair], limits: Limits) -> Canary:
    """Measure and judge."""
    return Canary(names=names, pairs=tuple(pairs), measures=tuple(measures(pairs, limits)), speed=speed(pairs, limits))


def _speed_record(found: Speed) -> dict[str, Any]:
    values = {"first": found.first._asdict(), "other": found.other._asdict(), "ratio": found.ratio._asdict()}
    return {"verdict": found.verdict, "allowed": found.slower, **values, "p95": list(found.tails)}


def _pair_record(pair: Pair) -> dict[str, Any]:
    sides = [
        {"texts": list(reply.texts), "error": reply.error, "seconds": round(reply.seconds, 4), "well_formed": well_formed(pair.asked.body, reply)}
        for reply in (pair.first, pair.other)
    ]
    scores = pair.scores() if pair.asked.known else None
    return {"name": pair.asked.name, "outcome": pair.outcome, "scores": scores, "first": sides[0], "other": sides[1]}
