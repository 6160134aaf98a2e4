"""A probe: yes/no questions of a user's own annotations, in MME's layout and as JSON lines, with the proof that words alone do not answer them.

OUT/existence/00000.jpg, 00000.txt ..    MME: two lines of question, tab, Yes or No
OUT/questions.jsonl                      the same for the benchmark `jsonl`
OUT/probe.json                           counts, leaks, pictures that were left out
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from sightline.data.hashing import PictureHashes, near_pairs, picture_hashes
from sightline.data.readers.files import PICTURE_SUFFIXES
from sightline.evaluate.metrics import share, tokenize
from sightline.evaluate.probe_pairs import KINDS, Candidate, Kind, balanced, candidates
from sightline.evaluate.published import refused
from sightline.evaluate.read_sets import samples_at
from sightline.lineage import artifact
from sightline.samples.pictures import rgb_pixels
from sightline.samples.sample import Picture, Sample

CUE = "Please answer yes or no."
_FOLDS = 5


class Asked(NamedTuple):
    """One question of a probe."""

    picture: int
    text: str
    yes: bool


def make_probe(data: Sequence[Path], out: Path, train: Sequence[Path] = (), kinds: Sequence[Kind] = KINDS, most: int = 100, seed: int = 0) -> dict[str, Any]:
    """Write a probe of stores or sets at `data` to `out`, at most `most` pictures of each kind; returns the content of probe.json.

    Pictures that stand in `train`, by bytes or by a perceptual hash within 4 bits, are left out and counted. Raises Refused where no balanced pair is found, or `out` is there.
    """
    samples = _distinct([sample for path in data for sample in samples_at(path) if sample.pictures])
    taught = [picture for path in train for sample in samples_at(path) for picture in sample.pictures]
    same, near = _seen(samples, taught)
    free = [sample for number, sample in enumerate(samples) if number not in same | near]
    rng = np.random.default_rng(seed)
    every = candidates(free, kinds, rng)
    chosen: dict[Kind, list[Candidate]] = {kind: balanced([one for one in every if one.kind == kind], most, rng) for kind in kinds}
    if not any(chosen.values()):
        found = f"{len(free)} pictures, {len(every)} possible pairs, none of them balanced"
        allowed = "labels that some pictures have and others, fully annotated with boxes or masks, have not"
        raise refused("no-probe", ", ".join(map(str, data)), found, allowed, "give more pictures, or pictures of more labels")
    report = {
        "data": [str(path) for path in data],
        "train": [str(path) for path in train],
        "seed": seed,
        "pictures": len(samples),
        "left out": {"same bytes as a training picture": len(same), "near a training picture": len(near)},
        "kinds": {kind: _told(every, chosen[kind], kind) for kind in kinds},
        "leaks": leaks([one for kind in kinds for one in _asked(chosen[kind])]),
    }
    with artifact(out) as folder:
        _write(folder, free, chosen)
        (folder / "probe.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return report


def _distinct(samples: Sequence[Sample]) -> list[Sample]:
    """One sample for each first picture: that with the most annotations."""
    best: dict[str, Sample] = {}
    for sample in samples:
        name = sample.pictures[0].hash
        if name not in best or len(sample.annotations) > len(best[name].annotations):
            best[name] = sample
    return list(best.values())


def _seen(samples: Sequence[Sample], taught: Sequence[Picture]) -> tuple[set[int], set[int]]:
    """Numbers of the samples one of whose pictures is in training: by bytes, and by looks alone."""
    known = {picture.hash: picture for picture in taught}
    same = {number for number, sample in enumerate(samples) if any(picture.hash in known for picture in sample.pictures)}
    if not known:
        return same, set()
    owners = [(number, picture) for number, sample in enumerate(samples) if number not in same for picture in sample.pictures]
    hashes: list[PictureHashes] = [picture_hashes(rgb_pixels(picture)) for picture in (*known.values(), *(picture for _, picture in owners))]
    first = len(known)
    close: set[int] = set()
    for pair in near_pairs(hashes):  # training pictures stand first; a repeat of a picture that is left out is left out
        if pair.second >= first and (pair.first < first or (pair.first in close and pair.bits == 0)):
            close.add(pair.second)
    return same, {owners[number - first][0] for number in close}


def _told(every: Sequence[Candidate], chosen: Sequence[Candidate], kind: Kind) -> dict[str, Any]:
    possible = len({one.picture for one in every if one.kind == kind})
    return {"pictures": len(chosen), "questions": 2 * len(chosen), "pictures with a possible pair": possible, "leaks": leaks(_asked(chosen))}


def _asked(chosen: Sequence[Candidate]) -> list[Asked]:
    return [one for pair in chosen for one in (Asked(pair.picture, pair.yes, True), Asked(pair.picture, pair.no, False))]


def leaks(asked: Sequence[Asked]) -> dict[str, Any]:
    """How many questions words alone answer: `majority` (one answer for all), `same words` (of each question its commoner answer: no rule that sees words only is right more often), and
    `bag of words` (naive Bayes on the words, learnt from the other pictures, in five parts); with `above chance`, whether one of them is so beyond its 95 % interval.
    """
    if not asked:
        return {}
    truth = [one.yes for one in asked]
    majority = max(sum(truth), len(truth) - sum(truth))
    by_text: dict[str, Counter[bool]] = {}
    for one in asked:
        by_text.setdefault(one.text, Counter())[one.yes] += 1
    figures = {
        "majority": share(majority, len(truth)),
        "same words": share(sum(max(counts.values()) for counts in by_text.values()), len(truth)),
        "bag of words": share(sum(guess == one.yes for guess, one in zip(_guesses(asked), asked, strict=True)), len(truth)),
    }
    told: dict[str, Any] = {name: value._asdict() for name, value in figures.items()}
    return told | {"above chance": any(value.low > 0.5 for value in figures.values())}


def _guesses(asked: Sequence[Asked]) -> list[bool]:
    """Naive Bayes with one added to each count; the pictures of a part are guessed from those of the others."""
    guesses: list[bool] = []
    words = [set(tokenize(one.text)) for one in asked]
    parts = [one.picture % _FOLDS for one in asked]
    learnt = {}
    for part in set(parts):
        counts: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
        totals: Counter[bool] = Counter()
        for one, said, other in zip(asked, words, parts, strict=True):
            if other != part:
                counts[one.yes].update(said)
                totals[one.yes] += 1
        learnt[part] = counts, totals
    for said, part in zip(words, parts, strict=True):
        counts, totals = learnt[part]
        score = math.log((totals[True] + 1) / (totals[False] + 1))
        score += sum(math.log((counts[True][word] + 1) / (totals[True] + 2) * (totals[False] + 2) / (counts[False][word] + 1)) for word in sorted(said))
        guesses.append(score > 0)
    return guesses


def _write(folder: Path, samples: Sequence[Sample], chosen: dict[Kind, list[Candidate]]) -> None:
    lines: list[str] = []
    for kind, pairs in chosen.items():
        if pairs:
            (folder / kind).mkdir()
        for number, pair in enumerate(pairs):
            picture = samples[pair.picture].pictures[0]
            assert isinstance(picture.data, bytes), "a picture that is a path of a store"
            suffix = PurePosixPath(picture.name).suffix.lower()
            name = f"{number:05d}{suffix if suffix in PICTURE_SUFFIXES else '.png'}"
            (folder / kind / name).write_bytes(picture.data)
            told = [(pair.yes, "Yes"), (pair.no, "No")]
            text = "".join(f"{question} {CUE}\t{answer}\n" for question, answer in told)
            (folder / kind / f"{number:05d}.txt").write_text(text, encoding="utf-8")
            for place, (question, answer) in enumerate(told, 1):
                row = {"id": f"{kind}/{name}/{place}", "question": f"{question} {CUE}", "answer": answer.lower(), "image": f"{kind}/{name}", "kind": kind}
                lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    (folder / "questions.jsonl").write_text("".join(lines), encoding="utf-8")
