"""Blind review: a page on which people grade answers without knowing whose they are, and what their verdicts come to: figures, and rows that correct.

sightline report RUN --failures --review 40 [--against OTHER]  ->  RUN/failures/review.html (offline) and review-key.json, which says whose answer is which
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
from sightline.evaluate.failures.finding import Failure
from sightline.evaluate.metrics import Value, share
from sightline.failure_page import STYLE, seen
from sightline.lineage import sha256_json, write_json
from sightline.page import Html, Page, escape
from sightline.samples.sample import Text, Turn
from sightline.samples.store import Store

Fault = Literal["repeats", "invents", "box-off", "other"]
FAULTS: tuple[Fault, ...] = get_args(Fault)
PAGE, KEY = "review.html", "review-key.json"

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
let said = {}, now = 0;
try { said = JSON.parse(localStorage.getItem(kept)) || {}; } catch (error) { said = {}; }
const count = () => { document.getElementById("count").textContent = items.filter(item => (said[item.id] || {}).grades?.length).length + " of " + items.length; };
function show(item) {
  const one = said[item.id] || {grades: [], text: ""};
  for (const button of item.querySelectorAll("button")) button.setAttribute("aria-pressed", one.grades.includes(button.dataset.grade));
  item.querySelector("textarea").value = one.text;
  item.toggleAttribute("data-done", one.grades.length > 0);
}
function keep() { try { localStorage.setItem(kept, JSON.stringify(said)); } catch (error) { document.getElementById("kept").textContent = "not kept by this browser: export before closing"; } count(); }
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
  const file = new Blob([JSON.stringify({review, reviewer: document.getElementById("who").value, verdicts}, null, 1)], {type: "application/json"});
  const link = Object.assign(document.createElement("a"), {href: URL.createObjectURL(file), download: "verdicts.json"});
  link.click(); URL.revokeObjectURL(link.href);
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
    faults: tuple[Fault, ...] = ()
    text: str = ""
    """The right answer in the reviewer's words; empty where none was given."""


def chosen(cases: Sequence[Case], failures: Sequence[Failure], count: int, seed: int) -> list[Case]:
    """About half answers that show failures, found ones first, and others at random, so that the shares of the review say something about all answers."""
    rng = np.random.default_rng(seed)
    ordered = sorted(failures, key=lambda one: one.state != "found")
    worst = dict.fromkeys((shown.case.evaluation, shown.case.name) for place in range(8) for one in ordered for shown in one.worst[place : place + 1])
    by_name = {(case.evaluation, case.name): case for case in cases}
    first = [by_name[key] for key in list(worst)[: count // 2] if key in by_name]
    taken = {(case.evaluation, case.name) for case in first}
    rest = [case for case in cases if (case.evaluation, case.name) not in taken]
    drawn = rng.permutation(len(rest))[: count - len(first)]
    return [*first, *(rest[int(number)] for number in drawn)]


def write_review(folder: Path, cases: Sequence[Case], others: Mapping[str, Sequence[Case]], name: str, seed: int) -> Path:
    """Write review.html and review-key.json. `others`: answers of other runs; those to the questions of `cases` join them. Order and names of answers follow from the seed alone."""
    wanted = {(case.evaluation, case.name) for case in cases}
    told = [(name, case) for case in cases] + [(other, case) for other, several in others.items() for case in several if (case.evaluation, case.name) in wanted]
    items = {sha256_json([seed, run, case.evaluation, case.name, case.answer.text])[:12]: (run, case) for run, case in told}
    order = [sorted(items)[int(place)] for place in np.random.default_rng(seed).permutation(len(items))]
    review = sha256_json([seed, sorted(items)])[:12]
    page = Page(
        "Which answers are good?",
        "Grade each answer by itself; whose it is is not said. Keys: 1 good, 2 to 5 faults (several are allowed), arrows to go on. Everything stays in this browser until you export it.",
    )
    top = f'<div class="top" data-review="{review}"><input id="who" placeholder="your name" aria-label="your name"><button id="export">Export verdicts</button><span id="kept" class="small"></span><b id="count"></b></div>'
    page.add(STYLE, _STYLE, top, *(_item(key, items[key][1]) for key in order), _SCRIPT)
    page.write(folder / PAGE)
    key = {item: {"run": run, "evaluation": case.evaluation, "request": case.name} for item, (run, case) in items.items()}
    write_json(folder / KEY, {"review": review, "seed": seed, "items": {item: key[item] for item in order}})
    return folder / PAGE


def _item(key: str, case: Case) -> str:
    buttons = "".join(
        f'<button data-grade="{grade}" data-key="{short}"{" class=ok" if grade == "good" else ""} aria-pressed="false">{words}<kbd>{short}</kbd></button>'
        for grade, words, short in _BUTTONS
    )
    shown = seen(case, truth=False) or Html('<p class="small">no picture</p>')
    right = f'<textarea rows="2" placeholder="right answer, if you know it" aria-label="right answer"></textarea>'  # noqa: F541 - one line of the page
    told = f'<p><b>{escape(case.question)}</b></p><div class="answer-text">{escape(case.answer.text.strip() or "(nothing)")}</div>'
    return f'<div class="item" id="{key}"><div>{shown}</div><div>{told}<div class="buttons">{buttons}</div>{right}</div></div>'


def read_verdicts(folder: Path, file: Path) -> list[Verdict]:
    """The verdicts of an exported file, with the names of their runs. Raises Refused with everything in it that is not of this review."""
    key = _json(folder / KEY, "write the page first: sightline report RUN --failures --review 40")
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
    for number, one in enumerate(told["verdicts"]):
        place, item = f"{file}: verdict {number}", one.get("item") if isinstance(one, dict) else None
        grades = one.get("grades") if isinstance(one, dict) else None
        if item not in key["items"]:
            problems.append(Problem(code="review/strange-item", place=place, found=repr(item), allowed="an item of the page", fix="export again"))
        elif not isinstance(grades, list) or not grades or not set(grades) <= {"good", *FAULTS} or ("good" in grades and len(grades) > 1):
            problems.append(
                Problem(
                    code="review/strange-grade", place=place, found=repr(grades), allowed=f"good alone, or some of {', '.join(FAULTS)}", fix="grade it again"
                )
            )
        else:
            faults: tuple[Fault, ...] = tuple(fault for fault in FAULTS if fault in grades)
            found.append(Verdict(**key["items"][item], good="good" in grades, faults=faults, text=str(one.get("text") or "").strip()))
    if problems:
        raise Refused(problems)
    return found


def _json(path: Path, fix: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Refused(Problem(code="usage/no-file", place=str(path), found=str(error), allowed="a JSON file", fix=fix)) from None


def summary(verdicts: Sequence[Verdict]) -> dict[str, dict[str, Value]]:
    """Run -> good and each fault -> share of its graded answers, with Wilson's interval."""
    found: dict[str, dict[str, Value]] = {}
    for run in sorted({one.run for one in verdicts}):
        own = [one for one in verdicts if one.run == run]
        found[run] = {"good": share(sum(one.good for one in own), len(own))}
        found[run] |= {fault: share(sum(fault in one.faults for one in own), len(own)) for fault in FAULTS}
    return found


def write_corrections(out: Path, verdicts: Sequence[Verdict], cases: Sequence[Case]) -> tuple[Store, list[str]]:
    """A store of one row for each question that some answer failed: the question with the reviewer's answer, else with the known right one, regions included.

    Returns the store, and the names of failed questions without any right answer. Raises Refused when nothing is left.
    """
    by_name = {(case.evaluation, case.name): case for case in cases}
    failed: dict[tuple[str, str], str] = {}
    for one in verdicts:
        key = (one.evaluation, one.request)
        if not one.good and key in by_name:
            failed[key] = one.text or failed.get(key, "")
    replies = {key: _reply(by_name[key], text) for key, text in failed.items()}
    without = [name for (_, name), reply in replies.items() if reply is None]
    if not any(replies.values()):
        raise Refused(
            Problem(
                code="review/nothing-to-correct",
                place=str(out),
                found=f"{len(failed)} failed answers, none with a right answer",
                allowed="one at least",
                fix="write right answers on the page",
            )
        )
    with Store.writer(out, source="corrections", config=sha256_json([vars(one) for one in verdicts])) as writer:
        for (evaluation, name), reply in replies.items():
            if reply is not None:
                case = by_name[evaluation, name]
                maker = "human" if failed[evaluation, name] else case.asked.origin.maker
                origin = replace(case.asked.origin, source="corrections", row=f"{evaluation}/{name}", parents=(name,), maker=maker)
                attributes = {"kind": case.kind, "asked_by": evaluation}
                turns = (*case.asked.turns, reply)
                writer.add(replace(case.asked, id=f"{evaluation}/{name}", turns=turns, annotations=case.annotations, attributes=attributes, origin=origin))
    return Store.open(out), without


def _reply(case: Case, text: str) -> Turn | None:
    if text:
        return Turn(role="assistant", items=(Text(text=text),))
    if case.reply is not None:
        return replace(case.reply, weight=1.0)
    return Turn(role="assistant", items=(Text(text=case.right[0]),)) if case.right else None
