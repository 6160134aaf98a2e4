"""`check`: look at everything once, apply every rule, and say what was found so that the counts add up."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from sightline.data.check.check_config import CheckConfig, Severity
from sightline.data.check.gathering import DataSet, Measure, Role, gather, opened
from sightline.data.check.mix_rules import languages
from sightline.data.check.row_facts import Finding, RowFacts
from sightline.data.check.rules import RULES, known_rules, set_findings, severity
from sightline.data.check.survey import Survey
from sightline.data.engine import Engine, Local
from sightline.data.reading import read_sets
from sightline.errors import Problem, Refused
from sightline.lineage import sha256_json
from sightline.samples.store import Store

EXAMPLES = 12
"""Findings of a rule that are shown in full."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What a check found."""

    config: CheckConfig
    sets: Sequence[DataSet]
    survey: Survey
    findings: Sequence[Finding]
    """Everything that was found, by rule in the order of the table, then by row."""

    @cached_property
    def by_rule(self) -> dict[str, list[Finding]]:
        """Findings of each rule that speaks, in the order of the table."""
        found: dict[str, list[Finding]] = {code: [] for code in RULES}
        for finding in self.findings:
            found[finding.rule].append(finding)
        return {code: every for code, every in found.items() if every}

    def severity(self, code: str) -> Severity:
        """How grave a rule is in this check."""
        return severity(code, self.config)

    @property
    def own(self) -> list[RowFacts]:
        """Every row of the sets to be trained on, refused ones too."""
        return [row for row in self.survey.rows if self.survey.roles[row.data_set] != "against"]

    @cached_property
    def counts(self) -> dict[str, int]:
        """rows = clean + flagged + refused; a row is flagged when a finding names it. Rows of benchmarks are not among them."""
        refused = {row.number for row in self.own if row.refused}
        flagged = {finding.row for finding in self.findings if finding.row is not None} - refused
        return {"rows": len(self.own), "clean": len(self.own) - len(flagged) - len(refused), "flagged": len(flagged), "refused": len(refused)}

    @property
    def passed(self) -> bool:
        """Whether no finding is grave."""
        return not any(self.severity(code) == "refuse" for code in self.by_rule)

    def place(self, finding: Finding) -> str:
        """Where a finding is: file and row, or the name of the source."""
        return finding.source or "all sources" if finding.row is None else self.survey.rows[finding.row].place

    def record(self) -> dict[str, Any]:
        """The check as JSON: counts, one entry per rule that speaks with its first findings, and what the sets are made of."""
        rules = {
            code: {
                "severity": self.severity(code),
                "what": RULES[code].what,
                "fix": RULES[code].fix,
                "findings": len(found),
                "rows": len({finding.row for finding in found if finding.row is not None}),
                "examples": [self._example(finding) for finding in found[:EXAMPLES]],
            }
            for code, found in self.by_rule.items()
        }
        sets = [
            {"name": one.name, "path": str(one.path), "role": one.role, "format": one.format, "quarantined before": one.quarantined}
            | {"rows": sum(row.data_set == number for row in self.survey.rows)}
            for number, one in enumerate(self.sets)
        ]
        return {"passed": self.passed, **self.counts, "sets": sets, "rules": rules, "makeup": self.makeup}

    def _example(self, finding: Finding) -> dict[str, Any]:
        row = {} if finding.row is None else {"id": self.survey.rows[finding.row].id}
        return {"place": self.place(finding), **row, "found": finding.found, **({"figures": dict(finding.figures)} if finding.figures else {})}

    @cached_property
    def makeup(self) -> dict[str, Any]:
        """What the sets are made of: pictures, texts, languages, modalities, makers, licences, splits."""
        rows = self.survey.read
        return {
            "pictures": len({picture.hash for row in rows for picture in row.pictures}),
            "texts": sum(len(row.texts) for row in rows),
            "regions": sum(len(row.labels) for row in rows),
            "languages": dict(languages(rows).most_common()),
            "modality": dict(Counter(_modality(row) for row in rows).most_common()),
            "makers": dict(Counter(row.origin.maker.partition(":")[0] for row in rows).most_common()),
            "licences": dict(Counter(row.origin.licence or "not stated" for row in rows).most_common()),
            "splits": dict(Counter(row.split or "none" for row in rows).most_common()),
        }

    def __str__(self) -> str:
        counts = self.counts
        lines = [f"{counts['rows']} rows: {counts['clean']} clean, {counts['flagged']} flagged, {counts['refused']} refused"]
        for code, found in self.by_rule.items():
            rows = len({finding.row for finding in found if finding.row is not None})
            where = f"{rows} rows" if rows else ", ".join(dict.fromkeys(finding.source for finding in found if finding.source)) or "all sources"
            lines += ["", f"{self.severity(code):7}{code}: {RULES[code].what} ({where})"]
            lines += [f"       {self.place(finding)}: {finding.found}" for finding in found[:3]]
            lines += [f"       and {len(found) - 3} more"] if len(found) > 3 else []
            lines += [f"       fix: {RULES[code].fix}"]
        return "\n".join(lines)


def _modality(row: RowFacts) -> str:
    pictures = ("text", "one picture", "several pictures")[min(len(row.pictures), 2)]
    said = "" if row.exchanges else ", annotations only"
    return pictures + said


def check(
    paths: Sequence[Path],
    config: CheckConfig | None = None,
    *,
    generic: Sequence[Path] = (),
    against: Sequence[Path] = (),
    measure: Measure | None = None,
    engine: Engine | None = None,
    work: Path | None = None,
) -> Checked:
    """Check data sets (stores or published formats) as they would be trained on together; `against` are benchmarks that they must not contain, `generic` those that are no domain data.

    `measure` gives the tokens of a sample; without it nothing is said about answers that would be cut. `work` is a folder in which a killed check finds what it had done. Refused when a path is no data set or a rule is unknown.
    """
    config = config or CheckConfig()
    known_rules(config)
    problems: list[Problem] = []
    sets: list[DataSet] = []
    roles: dict[Role, Sequence[Path]] = {"own": paths, "generic": generic, "against": against}
    for role, given in roles.items():
        for path in given:
            try:
                sets += opened(path, role)
            except Refused as refused:
                problems += refused.problems
    if problems:
        raise Refused(problems)
    rows = gather(sets, config, measure, engine or Local(), work)
    survey = Survey(config=config, rows=rows, names=_names(sets), roles=[one.role for one in sets])
    findings = [Finding(rule="unreadable", found=_why(row), row=row.number) for row in rows if row.refused and survey.roles[row.data_set] != "against"]
    findings += [finding for row in rows for finding in row.findings]
    findings += set_findings(survey)
    order = {code: number for number, code in enumerate(RULES)}
    findings.sort(key=lambda finding: (order[finding.rule], -1 if finding.row is None else finding.row))
    return Checked(config=config, sets=sets, survey=survey, findings=findings)


def _names(sets: Sequence[DataSet]) -> list[str]:
    """Names of sets, told apart by their path where they are the same."""
    times = Counter(one.name for one in sets)
    return [one.name if times[one.name] == 1 else str(one.path) for one in sets]


def _why(row: RowFacts) -> str:
    return "; ".join(f"{problem.code}: {problem.found}" for problem in row.refused)


def quarantine(checked: Checked, out: Path) -> Store:
    """Write a store at `out` in which the rows that the policy names are quarantined, each under the first rule that names it; a duplicate's first row stays.

    The policy is `config.quarantine`, or all rules of severity `refuse`. Rows that could not be read are refused and counted as in `data read`. Refused when there is more than one set to write.
    """
    own = [(number, one) for number, one in enumerate(checked.sets) if one.role == "own"]
    if len(own) != 1:
        found = f"{len(own)} sets"
        raise Refused(
            Problem(code="usage/one-set", place="--quarantine", found=found, allowed="one SRC", fix="check each SRC on its own, with --against the others")
        )
    number, one = own[0]
    policy = checked.config.quarantine or tuple(code for code in RULES if checked.severity(code) == "refuse")
    rules: dict[tuple[str, str], str] = {}
    for finding in checked.findings:
        if finding.row is not None and finding.rule in policy and (row := checked.survey.rows[finding.row]).data_set == number:
            rules.setdefault((row.origin.source, row.id), f"check/{finding.rule}")
    if one.store:
        return _judged(Store.open(one.path), rules, out, checked.config)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tmp-read-", dir=out.parent) as scratch:
        read = read_sets([one.sources], Path(scratch) / "read", on_problem="quarantine")
        return _judged(read, rules, out, checked.config)


def _judged(store: Store, rules: dict[tuple[str, str], str], out: Path, config: CheckConfig) -> Store:
    columns = (store.index[name].to_pylist() for name in ("source", "id", "verdict", "rule"))
    judged = [
        (verdict, rule) if verdict == "quarantined" or (source, row) not in rules else ("quarantined", rules[(source, row)])
        for source, row, verdict, rule in zip(*columns, strict=True)
    ]
    table = pa.table({"row": range(len(store)), "verdict": [verdict for verdict, _ in judged], "rule": [rule for _, rule in judged]})
    return store.with_verdicts(table, out, config=sha256_json(config.model_dump(mode="json")), maker={"step": "check"})
