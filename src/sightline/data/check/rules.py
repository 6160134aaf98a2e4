"""The table of rules: what each finds, how it is mended, and how grave it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sightline.data.check import answer_rules, label_rules, mix_rules, picture_rules, region_rules, text_rules, twin_rules
from sightline.data.check.check_config import CheckConfig, Severity
from sightline.data.check.row_facts import Finding, RowFacts
from sightline.data.check.survey import Survey
from sightline.errors import Problem, Refused, nearest
from sightline.samples.sample import Sample

RowRule = Callable[[Sample, RowFacts, CheckConfig], Iterator[Finding]]
SetRule = Callable[[Survey], Iterator[Finding]]


@dataclass(frozen=True)
class Rule:
    """One rule. Its name is its code; `look` sees one row in a worker, `survey` all rows at the end, and neither is for what reading itself finds."""

    severity: Severity
    what: str
    fix: str
    look: RowRule | None = None
    survey: SetRule | None = None


def _look(severity: Severity, what: str, fix: str, look: RowRule) -> Rule:
    return Rule(severity, what, fix, look=look)


def _survey(severity: Severity, what: str, fix: str, survey: SetRule) -> Rule:
    return Rule(severity, what, fix, survey=survey)


RULES: dict[str, Rule] = {
    # What reading finds
    "unreadable": Rule(
        "refuse", "rows that cannot be read: a picture that is missing, cut off, too large or no picture; a broken record", "mend or remove what is named"
    ),
    "read-with-loss": _look(
        "warn", "rows of which reading lost or changed something", "see each row; write the original if it matters", text_rules.read_with_loss
    ),
    # Pictures
    "exif-rotation": _look("warn", "pictures that EXIF turns", "check that boxes were drawn on the upright picture", picture_rules.exif_rotation),
    "picture-mode": _look("warn", "pictures that are not three bands of 8 bits", "convert them yourself if what is lost matters", picture_rules.picture_mode),
    "constant-band": _look("warn", "bands of one value everywhere", "the band is missing in the file: fill it, or leave it out", picture_rules.constant_band),
    "no-data": _look("warn", "pictures with much no-data", "cut them by `data tile`, which drops such tiles", picture_rules.no_data),
    "grey-picture": _look("warn", "grey pictures stored as colour", "ask no questions about colour", picture_rules.grey_picture),
    "picture-size": _look("warn", "small, large or long pictures", "tile long pictures, leave tiny ones out", picture_rules.picture_size),
    "mixed-sizes": _survey("warn", "pictures of many sizes", "choose a tiler that keeps the aspect", mix_rules.mixed_sizes),
    "duplicate-picture": _survey("warn", "the same bytes under two names", "`dedup`, or join their texts", twin_rules.duplicate_picture),
    "near-duplicate": _survey("warn", "nearly the same picture, also turned or mirrored", "`dedup`", twin_rules.near_duplicate),
    "neighbouring-pictures": _survey("warn", "tiles of one scene, frames of one film", "split by scene", mix_rules.neighbouring_pictures),
    # Regions
    "region-outside": _look("refuse", "regions wholly outside their picture", "correct the convention, or remove them", region_rules.region_outside),
    "region-past-edge": _look("warn", "regions past the edge of their picture", "cut them at the edge", region_rules.region_past_edge),
    "region-degenerate": _look("refuse", "regions without an extent", "remove them", region_rules.region_degenerate),
    "wrong-convention": _survey(
        "refuse", "numbers of boxes in another convention", "read the source in the convention that is named", region_rules.wrong_convention
    ),
    "region-aside": _look("warn", "crowds, difficult and ignored objects", "leave them out of counts and questions", region_rules.region_aside),
    "crowded-picture": _look("warn", "more objects than a text can list", "tile, or say the remainder", region_rules.crowded_picture),
    "tiny-objects": _survey("warn", "mostly tiny objects", "tile, or choose a larger input", region_rules.tiny_objects),
    "no-annotation": _survey(
        "warn", "rows without a region where others have some", "keep as `nothing there` only if somebody looked", mix_rules.no_annotation
    ),
    # Labels
    "label-variants": _survey("warn", "several spellings of one name", "`unify-labels`, with an alias in the table", label_rules.label_variants),
    "class-imbalance": _survey("warn", "classes far apart in number", "weigh or balance", label_rules.class_imbalance),
    "name-against-answer": _survey("warn", "answers unlike the file name where the others agree", "unify the label", label_rules.name_against_answer),
    "caption-names-class": _survey(
        "warn", "captions that say the class of the file name", "do not score classification with them", label_rules.caption_names_class
    ),
    # Texts
    "odd-text": _look("warn", "characters that an encoding, markup or an export left", "export again as UTF-8, strip markup", text_rules.odd_text),
    "empty-text": _look("refuse", "answers that say nothing", "fill in or remove", text_rules.empty_text),
    "lost-word": _look("warn", "two blanks inside a text, where a word may be lost", "mend or remove", text_rules.lost_word),
    "stray-white-space": _look("warn", "white space around published texts", "strip it (readers do where the publisher says so)", text_rules.stray_white_space),
    "repeated-caption": _look("warn", "pictures with one caption several times", "`dedup` captions before weighting", text_rules.repeated_caption),
    "caption-length": _look("warn", "captions too short, too long, or hardly words", "`lengths`, or rewrite", text_rules.caption_length),
    "mixed-writing": _survey("warn", "captions that end or begin in several ways", "write them one way", mix_rules.mixed_writing),
    "template-monotony": _survey("warn", "sentences of one form", "more phrasings, or rewrite", answer_rules.template_monotony),
    "repeated-text": _survey("warn", "texts that stand with several pictures", "split by text, too", twin_rules.repeated_text),
    "duplicate-row": _survey("warn", "rows twice", "`dedup`", twin_rules.duplicate_row),
    "alike-text": _survey("warn", "rows without pictures that are nearly the same", "`dedup`", twin_rules.alike_text),
    "language-mix": _survey("warn", "several languages in one source", "say so in the recipe, weigh them", mix_rules.language_mix),
    "language-switch": _look("warn", "answers in another language than their question", "remove or translate", text_rules.language_switch),
    # Answers
    "conflicting-answers": _survey("refuse", "one question, different answers", "remove all of them: one is wrong", answer_rules.conflicting_answers),
    "answer-against-annotations": _look("warn", "answers that annotations contradict", "trust neither; look", answer_rules.answer_against_annotations),
    "missing-label": _survey("warn", "captions that name labels which annotations lack", "look: invented, or forgotten", answer_rules.missing_label),
    "annotators-disagree": _look("warn", "answers of several people that differ", "weigh by votes", text_rules.annotators_disagree),
    "answer-variants": _survey("warn", "one answer in several spellings", "write it one way", answer_rules.answer_variants),
    "language-prior": _survey("warn", "answers that need no picture", "balance answers per question", answer_rules.language_prior),
    "negated-questions": _survey("warn", "many negated questions", "score them apart", answer_rules.negated_questions),
    "cut-answer": _look("refuse", "rows longer than the model takes", "raise model.max_tokens, or shorten", text_rules.cut_answer),
    "unfit-row": _look("refuse", "rows that the model of the recipe does not take", "mend what is named", text_rules.unfit_row),
    # Splits, benchmarks and the mixture
    "leak-between-splits": _survey("refuse", "training rows with a picture or text of a held-out split", "split by picture", twin_rules.leak_between_splits),
    "leak-into-benchmark": _survey("refuse", "training rows with a picture or text of a benchmark", "quarantine them", twin_rules.leak_into_benchmark),
    "text-in-both-splits": _survey("warn", "long texts on both sides of a split, or in a benchmark", "split by text, too", twin_rules.text_in_both_splits),
    "no-split": _survey("warn", "rows in no split", "assign or leave out", mix_rules.no_split),
    "modality-mix": _survey("warn", "rows with and without pictures", "batches hold both; weigh them", mix_rules.modality_mix),
    "generic-ratio": _survey("warn", "more generic than domain rows", "cap the generic set", mix_rules.generic_ratio),
    "model-written": _survey("warn", "mostly model-written text", "cap it", mix_rules.model_written),
    "missing-licence": _survey("warn", "rows without a licence", "`licence:` of the reader", mix_rules.missing_licence),
}


def severity(code: str, config: CheckConfig) -> Severity:
    """How grave a rule is under this Config."""
    if config.rules and code not in config.rules and code != "unreadable":
        return "off"
    return config.severity.get(code, RULES[code].severity)


def row_rules(config: CheckConfig) -> tuple[RowRule, ...]:
    """Rules about single rows that are on."""
    return tuple(rule.look for code, rule in RULES.items() if rule.look is not None and severity(code, config) != "off")


def set_findings(survey: Survey) -> Iterator[Finding]:
    """What the rules about whole sets say."""
    for code, rule in RULES.items():
        if rule.survey is not None and severity(code, survey.config) != "off":
            yield from rule.survey(survey)


def known_rules(config: CheckConfig) -> None:
    """Refused with every rule that `config` names and nobody knows."""
    named = {"rules": config.rules, "severity": config.severity, "quarantine": config.quarantine}
    problems = [
        Problem(code="usage/no-rule", place=where, found=repr(code), allowed=", ".join(RULES), fix=nearest(code, list(RULES)))
        for where, codes in named.items()
        for code in codes
        if code not in RULES
    ]
    if problems:
        raise Refused(problems)
