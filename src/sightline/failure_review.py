"""Blind review: a page on which people grade answers without knowing whose they are, and what their verdicts come to: figures, and rows that correct.

sightline report RUN --failures --review 40 [--against OTHER]  ->  RUN/failures/review.html (offline), review-key.json, which says whose answer is which, and review-questions, a store
review.html --Export--> verdicts.json --sightline report RUN --verdicts verdicts.json [--corrections STORE]-->  shares by run; a store of rows with the right answers
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from sightline.errors import Problem, Refused
from sightline.evaluate.failures.evidence import Case
from sightline.evaluate.failures.finding import WORST, Failure
from sightline.evaluate.metrics import Value, share
from sightline.failure_page import STYLE, seen
from sightline.lineage import sha256_json, write_json
from sightline.page import Html, Page, escape
from sightline.samples.sample import Sample, Text, Turn
from sightline.samples.store import Store

Fault = Literal["repeats", "invents", "box-off", "other"]
_KEYS = {"run", "evaluation", "request", "drawn"}
FAULTS: tuple[Fault, ...] = get_args(Fault)
Drawn = Literal["random", "worst"]
"""How a question came onto the page: at random, so that its answers speak for all, or because an answer to it shows a failure."""
PAGE, KEY, QUESTIONS = "review.html", "review-key.json", "review-questions"

_GRADES: tuple[object, ...] = ("good", *FAULTS)
_BUTTONS = (("good", "Good", "1"), ("repeats", "Repeats", "2"), ("invents", "Invents", "3"), ("box-off", "Box off", "4"), ("other", "Otherwise wrong", "5"))
_STYLE = """<style>
.item { display: grid; grid-template-columns: minmax(0, 3fr) minmax(0, 4fr); gap: 20px; background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 16px; margin: 14px 0; }
.item[data-done] { border-color: var(--good); } .item:focus-within, .item.now { outline: 2px solid var(--accent); } .item img { width: 100%; display: block; image-rendering: pixelated; border-radius: 6px; }
.answer-text { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 17px; margin: 8px 0 14px; } .buttons { display: flex; flex-wrap: wrap; gap: 8px; margin-bottom: 12px; }
button { font: inherit; padding: 5px 12px; border-radius: 8px; border: 1px solid var(--line); background: var(--back); color: var(--ink); cursor: pointer; } button kbd { color: var(--soft); font-size: 11px; margin-left: 4px; }
button[aria-pressed=true] { background: var(--bad); color: var(--back); border-color: var(--bad); } button.ok[aria-pressed=true] { background: var(--good); border-color: var(--good); }
textarea, input { font: inherit; width: 100%; padding: 6px 8px; border-radius: 8px; border: 1px solid var(--line); background: var(--back); color: var(--ink); }
.top { position: sticky; top: 0; z-index: 1; display: flex; gap: 14px; align-items: center; background: var(--back); padding: 10px 0; border-bottom: 1px solid var(--line); } .top input { width: 12em; } .top b { margin-left: auto; }
@media (max-width: 640px) { .item { grid-template-columns: minmax(0, 1fr); } }
</style>"""
_SCRIPT = """<script>
"use strict";
const review = document.body.querySelector("[data-review]").dataset.review, items = [...document.querySelectorAll(".item")], kept = "review " + review;
const who = document.getElementById("who"), note = document.getElementById("kept");
let said = {}, now = 0;
try { said = JSON.parse(localStorage.getItem(kept)) || {}; } catch (error) { said = {}; }
who.value = said.reviewer || "";
const count = () => { document.getElementById("count").textContent = items.filter(item => (said[item.id] || {}).grades?.length).length + " of " + items.length; };
function show(item) {
  const one = said[item.id] || {grades: [], text: ""};
  for (const button of item.querySelectorAll("button")) button.setAttribute("aria-pressed", one.grades.includes(button.dataset.grade));
  item.querySelector("textarea").value = one.text;
  item.toggleAttribute("data-done", one.grades.length > 0);
}
function keep() { try { localStorage.setItem(kept, JSON.stringify(said)); } catch (error) { note.textContent = "not kept by this browser: export before closing"; } count(); }
who.addEventListener("input", () => { said.reviewer = who.value; keep(); });
function grade(item, what) {
  const one = said[item.id] ||= {grades: [], text: ""}, had = one.grades.includes(what);
  one.grades = what === "good" ? (had ? [] : ["good"]) : had ? one.grades.filter(each => each !== what) : [...one.grades.filter(each => each !== "good"), what];
  show(item); keep();
}
function go(to) { items[now].classList.remove("now"); now = Math.max(0, Math.min(items.length - 1, to)); items[now].classList.add("now"); items[now].scrollIntoView({block: "center"}); }
items.forEach((item, place) => {
  show(item);
  item.addEventListener("click", () => { items[now].classList.remove("now"); now = place; item.classList.add("now"); });
  for (const button of item.querySelectorAll("button")) button.addEventListener("click", () => grade(item, button.dataset.grade));
  item.querySelector("textarea").addEventListener("input", event => { (said[item.id] ||= {grades: [], text: ""}).text = event.target.value; keep(); });
});
document.addEventListener("keydown", event => {
  if (["TEXTAREA", "INPUT"].includes(event.target.tagName) || event.ctrlKey || event.metaKey || event.altKey) return;
  const button = items[now].querySelector(`button[data-key="${event.key}"]`);
  if (button) grade(items[now], button.dataset.grade);
  else if (event.key === "ArrowDown" || event.key === "j") go(now + 1);
  else if (event.key === "ArrowUp" || event.key === "k") go(now - 1);
  else return;
  event.preventDefault();
});
document.getElementById("export").addEventListener("click", () => {
  const verdicts = items.filter(item => (said[item.id] || {}).grades?.length).map(item => ({item: item.id, ...said[item.id]}));
  const alone = items.filter(item => said[item.id]?.text.trim() && !said[item.id].grades.length).length;
  note.textContent = verdicts.length + " exported" + (alone ? "; " + alone + " with a right answer and no grade are not" : "");
  const file = new Blob([JSON.stringify({review, reviewer: who.value, verdicts}, null, 1)], {type: "application/json"});
  const link = Object.assign(document.createElement("a"), {href: URL.createObjectURL(file), download: "verdicts.json"});
  link.click(); setTimeout(() => URL.revokeObjectURL(link.href), 1000);
});
items[0].classList.add("now"); count();
</script>"""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a person said of one answer."""

    run: str
    evaluation: str
    request: str
    good: bool
    drawn: Drawn
    faults: tuple[Fault, ...] = ()
    text: str = ""
    """The right answer in the reviewer's words; empty where none was given."""


def chosen(cases: Sequence[Case], failures: Sequence[Failure], count: int, seed: int) -> list[tuple[Case, Drawn]]:
    """`count` cases, all of them where there are fewer: half at random among all, whose shares are those of all answers; the others show failures, found ones first.
    What is short on either side is taken from the other.
    """
    rng = np.random.default_rng(seed)
    order = [cases[int(place)] for place in rng.permutation(len(cases))]
    drawn = order[: count - count // 2]
    taken = {(case.evaluation, case.name) for case in drawn}
    ordered = sorted(failures, key=lambda one: one.state != "found")
    known = {(case.evaluation, case.name): case for case in cases}
    showing = dict.fromkeys((shown.case.evaluation, shown.case.name) for place in range(WORST) for one in ordered for shown in one.worst[place : place + 1])
    worst = [known[key] for key in showing if key in known and key not in taken][: count // 2]
    taken |= {(case.evaluation, case.name) for case in worst}
    more = [case for case in order if (case.evaluation, case.name) not in taken][: count - len(drawn) - len(worst)]
    return [*((case, "random") for case in drawn), *((case, "worst") for case in worst), *((case, "random") for case in more)]


def write_review(folder: Path, cases: Sequence[tuple[Case, Drawn]], others: Mapping[str, Sequence[Case]], name: str, seed: int) -> Path:
    """Write review.html, review-key.json and the store review-questions. `others`: answers of other runs, by names that differ; those to the questions of `cases` join them.

    Order and names of answers follow from the seed alone. Raises Refused where there is no answer.
    """
    if not cases:
        raise Refused(
            Problem(code="review/nothing-to-grade", place=str(folder), found="no answer", allowed="one at least", fix="ask a model: --ask --data STORE")
        )
    wanted = {(case.evaluation, case.name): drawn for case, drawn in cases}
    told = [(name, case) for case, _ in cases]
    told += [(other, case) for other, several in others.items() for case in several if (case.evaluation, case.name) in wanted]
    items = {sha256_json([seed, run, case.evaluation, case.name, case.answer.text])[:12]: (run, case) for run, case in told}
    order = [sorted(items)[int(place)] for place in np.random.default_rng(seed).permutation(len(items))]
    review = sha256_json([seed, sorted(items)])[:12]
    page = Page(
        "Which answers are good?",
        "Grade each answer by itself; whose it is is not said. Keys: 1 good, 2 to 5 faults (several are allowed), arrows to go on. Dashed boxes are the answer's. Everything stays in this browser until you export it.",
    )
    top = f'<div class="top" data-review="{review}"><input id="who" placeholder="your name" aria-label="your name"><button id="export">Export verdicts</button><span id="kept" class="small"></span><b id="count"></b></div>'
    page.add(STYLE, _STYLE, top, *(_item(key, items[key][1]) for key in order), _SCRIPT)
    page.write(folder / PAGE)
    key = {
        item: {"run": run, "evaluation": case.evaluation, "request": case.name, "drawn": wanted[case.evaluation, case.name]}
        for item, (run, case) in items.items()
    }
    with Store.writer(folder / QUESTIONS, source="review", config=review) as writer:
        for case, _ in cases:
            writer.add(_question(case))
    write_json(folder / KEY, {"review": review, "seed": seed, "items": {item: key[item] for item in order}})
    return folder / PAGE


def _question(case: Case) -> Sample:
    """A question as a row, with its right answer where one is known, and what a correction must know of both."""
    reply = case.reply or (Turn(role="assistant", items=(Text(text=case.right[0]),)) if case.right else None)
    turns = (*case.asked.turns, *([replace(reply, weight=1.0)] if reply is not None else []))
    attributes = {"kind": case.kind, "asked_by": case.evaluation, "request": case.name}
    return replace(case.asked, id=f"{case.evaluation}/{case.name}", turns=turns, annotations=case.annotations, attributes=attributes)


def _item(key: str, case: Case) -> str:
    buttons = "".join(
        f'<button data-grade="{grade}" data-key="{short}"{" class=ok" if grade == "good" else ""} aria-pressed="false">{words}<kbd>{short}</kbd></button>'
        for grade, words, short in _BUTTONS
    )
    shown = seen(case, truth=False) or Html('<p class="small">no picture</p>')
    right = '<textarea rows="2" placeholder="right answer, if you know it" aria-label="right answer"></textarea>'
    told = f'<p><b>{escape(case.question)}</b></p><div class="answer-text">{escape(case.answer.text.strip() or "(nothing)")}</div>'
    return f'<div class="item" id="{key}"><div>{shown}</div><div>{told}<div class="buttons">{buttons}</div>{right}</div></div>'


def read_verdicts(folder: Path, file: Path) -> list[Verdict]:
    """The verdicts of an exported file, with the names of their runs. Raises Refused with everything in it that is not of this review."""
    key = _json(folder / KEY, "write the page first: sightline report RUN --failures --review 40")
    if not isinstance(key, dict) or not all(isinstance(one, dict) and one.keys() == _KEYS for one in key.get("items", {"": None}).values()):
        raise Refused(
            Problem(code="review/not-a-key", place=str(folder / KEY), found="not the key of a review", allowed="what --review wrote", fix="write the page anew")
        )
    told = _json(file, "export it on the page of the review")
    problems, found = [], []
    if not isinstance(told, dict) or not isinstance(told.get("verdicts"), list):
        raise Refused(
            Problem(code="review/not-verdicts", place=str(file), found=type(told).__name__, allowed="the file that the page exports", fix="export again")
        )
    if told.get("review") != key["review"]:
        problems.append(
            Problem(code="review/other", place=str(file), found=f"review {told.get('review')!r}", allowed=repr(key["review"]), fix="use the page of this run")
        )
    seen_before: set[str] = set()
    for number, one in enumerate(told["verdicts"]):
        place, said = f"{file}: verdict {number}", one if isinstance(one, dict) else {}
        item, grades, text = said.get("item"), said.get("grades"), said.get("text", "")
        if not isinstance(item, str) or item not in key["items"] or item in seen_before:
            allowed = "an item of the page, once"
            problems.append(Problem(code="review/strange-item", place=place, found=f"{item!r:.80}", allowed=allowed, fix="export again"))
        elif not isinstance(text, str):
            problems.append(Problem(code="review/strange-text", place=place, found=f"{text!r:.80}", allowed="a text", fix="export again"))
        elif not isinstance(grades, list) or not grades or any(each not in _GRADES for each in grades) or ("good" in grades and len(grades) > 1):
            problems.append(
                Problem(
                    code="review/strange-grade",
                    place=place,
                    found=f"{grades!r:.80}",
                    allowed=f"good alone, or some of {', '.join(FAULTS)}",
                    fix="grade it again",
                )
            )
        else:
            faults: tuple[Fault, ...] = tuple(fault for fault in FAULTS if fault in grades)
            found.append(Verdict(**key["items"][item], good="good" in grades, faults=faults, text=text.strip()))
            seen_before.add(item)
    if problems:
        raise Refused(problems)
    return found


def _json(path: Path, fix: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Refused(Problem(code="usage/no-file", place=str(path), found=str(error), allowed="a JSON file", fix=fix)) from None


def summary(verdicts: Sequence[Verdict]) -> dict[str, dict[Drawn, dict[str, Value]]]:
    """Run -> questions drawn at random, those that show failures -> good and each fault -> share of the graded answers, with Wilson's interval.

    Only the shares of what was drawn at random speak for all answers. What was not graded at all is not there.
    """
    found: dict[str, dict[Drawn, dict[str, Value]]] = {}
    for run in sorted({one.run for one in verdicts}):
        for drawn in get_args(Drawn):
            if own := [one for one in verdicts if one.run == run and one.drawn == drawn]:
                faults = {fault: share(sum(fault in one.faults for one in own), len(own)) for fault in FAULTS}
                found.setdefault(run, {})[drawn] = {"good": share(sum(one.good for one in own), len(own)), **faults}
    return found


def questions_of(folder: Path) -> dict[tuple[str, str], Sample]:
    """(evaluation, request) -> the questions of a review, with their right answers where they are known. Raises Refused where the store is not there."""
    samples = list(Store.open(folder / QUESTIONS))
    return {(str(sample.attributes["asked_by"]), str(sample.attributes["request"])): sample for sample in samples}


def write_corrections(out: Path, verdicts: Sequence[Verdict], questions: Mapping[tuple[str, str], Sample]) -> tuple[Store, list[str]]:
    """A store of one row for each question that some answer failed: the question with the reviewer's answer, else with the known right one, regions included.

    Returns the store, and the names of failed questions without any right answer. Raises Refused when nothing is left, or a verdict is on no question of the review.
    """
    failed: dict[tuple[str, str], str] = {}
    for one in verdicts:
        if not one.good:
            failed[one.evaluation, one.request] = one.text or failed.get((one.evaluation, one.request), "")
    strange = [key for key in failed if key not in questions]
    if strange:
        place, found = "/".join(strange[0]), f"{len(strange)} verdicts on questions that are not kept"
        raise Refused(Problem(code="review/no-question", place=place, found=found, allowed="questions of the page", fix="use the page of this run"))
    corrected = {key: _corrected(questions[key], text) for key, text in failed.items()}
    rows = [row for row in corrected.values() if row is not None]
    if not rows:
        found = f"{len(failed)} questions with a failed answer, none with a right answer"
        fix = "write right answers on the page" if failed else "nothing has to be corrected"
        raise Refused(Problem(code="review/nothing-to-correct", place=str(out), found=found, allowed="one at least", fix=fix))
    with Store.writer(out, source="corrections", config=sha256_json([vars(one) for one in verdicts])) as writer:
        for row in rows:
            writer.add(row)
    return Store.open(out), [name for (_, name), row in corrected.items() if row is None]


def _corrected(question: Sample, text: str) -> Sample | None:
    """The question with the reviewer's text in place of the known answer; None where there is neither."""
    known = question.turns[-1].role == "assistant"
    if not text and not known:
        return None
    turns = (*(question.turns[:-1] if known else question.turns), Turn(role="assistant", items=(Text(text=text),))) if text else question.turns
    maker = "human" if text else question.origin.maker
    origin = replace(question.origin, source="corrections", row=question.id, parents=(str(question.attributes["request"]),), maker=maker)
    return replace(question, turns=turns, origin=origin)
