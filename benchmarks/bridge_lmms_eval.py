"""lmms-eval really run on our model, and its answers beside those of `sightline eval` on the same rows. The last line is one JSON object; 1 where any answer differs.

A dozen made rows with pictures, two of them in some, become a TSV file for `sightline eval` and a parquet file with a task for lmms-eval. A tiny model with random weights answers both: in conversations, in plain texts,
and by the likelihood of the options, which is compared with our own scorer's. lmms-eval's log of answers is read back and scored.

lmms-eval goes into a folder of its own without torchvision, with the few packages that it imports (some 60 MB), and beside it a wheel of this tree, whose entry point it finds. Nothing is fetched while it runs.
"""

from __future__ import annotations

import argparse
import base64
import csv
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

VERSION = "0.7.3"
PACKAGES = (
    *(f"lmms-eval=={VERSION}", "loguru", "tenacity", "evaluate", "pytz", "sacrebleu", "portalocker", "colorama", "lxml", "tabulate"),
    *("pytablewriter", "DataProperty", "typepy", "pathvalidate", "mbstrdecoder", "tabledata", "tcolorpy", "chardet"),
    *("datasets", "dill", "multiprocess", "xxhash", "aiohttp", "aiosignal", "aiohappyeyeballs", "frozenlist", "multidict", "propcache", "yarl", "attrs"),
)
"""What lmms-eval imports on the way to a local task, without what these need in turn; torch, transformers, accelerate, pandas and pyarrow are ours."""
ROWS = 12
TOKENS = 8
TREE = Path(__file__).resolve().parent.parent
TASKS = ("sightline_rows", "sightline_likelihood")


class NoPeer(Exception):
    """lmms-eval cannot be had here."""


# the two folders of packages


def default_env() -> Path:
    """Where lmms-eval is kept."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "sightline-benchmarks" / f"lmms-eval-{VERSION}"


def install(folder: Path, *wanted: str) -> None:
    """Fill a folder from which packages are imported. NoPeer with the installer's message where that fails."""
    words = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--no-deps", "--target", str(folder), *wanted]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise NoPeer(f"{', '.join(wanted)[:200]} could not be installed into {folder}: {ended.stderr.strip()[-1000:] or f'exit code {ended.returncode}'}")


def make_env(folder: Path) -> Path:
    """The folder with lmms-eval in it, filled once."""
    if not (folder / "lmms_eval").is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            made = Path(scratch) / "made"
            install(made, *PACKAGES)
            made.rename(folder)
    return folder


# what both sides are asked


def rows(count: int = ROWS) -> list[dict[str, Any]]:
    """Questions with options; every third one is about two pictures."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(count):
        pictures = []
        for _ in range(2 if number % 3 == 2 else 1):
            stream = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (12, 20, 3), np.uint8)).save(stream, "PNG")
            pictures.append(stream.getvalue())
        words = ["ships", "Three", "harbor", "user", "yes", "none", "curious", "two"]
        question = " ".join(rng.choice(words, 4)) + "?"
        options = dict(zip("ABC", map(str, rng.choice(words, 3, replace=False)), strict=True))
        found.append({"index": str(number), "pictures": pictures, "question": question, **options, "answer": "ABC"[number % 3]})
    return found


def write_tsv(made: Sequence[dict[str, Any]], path: Path) -> None:
    """The rows as VLMEvalKit has them."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
        writer.writerow(["index", "image", "question", "A", "B", "C", "answer"])
        for row in made:
            coded = [base64.b64encode(one).decode() for one in row["pictures"]]
            writer.writerow([row["index"], coded[0] if len(coded) == 1 else str(coded), *(row[name] for name in ("question", "A", "B", "C", "answer"))])


_TASK = """\
task: {task}
dataset_path: parquet
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: {output}
doc_to_visual: !function rows_of_a_task.visuals
doc_to_text: !function rows_of_a_task.text
doc_to_target: answer
{more}
"""
_MORE = (
    "generation_kwargs: {{max_new_tokens: {tokens}, do_sample: false, num_beams: 1, until: []}}\n"
    "process_results: !function rows_of_a_task.hit\n"
    "metric_list: [{{metric: hit, aggregation: mean, higher_is_better: true}}]",
    "doc_to_choice: !function rows_of_a_task.choices\nmetric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]",
)
_FUNCTIONS = """\
def visuals(doc): return [picture.convert("RGB") for picture in doc["images"]]
def text(doc, lmms_eval_specific_kwargs=None): return doc["prompt"]
def choices(doc): return [doc["A"], doc["B"], doc["C"]]
def hit(doc, results): return {"hit": float(results[0].strip()[:1] == doc["answer"])}
"""


def write_tasks(made: Sequence[dict[str, Any]], prompts: Sequence[str], folder: Path) -> None:
    """The rows as parquet, and two tasks on them: one that writes, one of likelihoods."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {name: [row[name] for row in made] for name in ("question", "A", "B", "C")} | {"prompt": list(prompts)}
    answers = [row["answer"] for row in made]
    picture = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    images = pa.array([[{"bytes": one, "path": None} for one in row["pictures"]] for row in made], type=picture)
    features = {name: {"dtype": "string", "_type": "Value"} for name in columns} | {"images": {"feature": {"_type": "Image"}, "_type": "List"}}
    for task, output, more in zip(TASKS, ("generate_until", "multiple_choice"), _MORE, strict=True):
        right = pa.array(answers if output == "generate_until" else ["ABC".index(one) for one in answers])
        kind = {"dtype": "string" if output == "generate_until" else "int64", "_type": "Value"}
        told = {"info": {"features": {**features, "answer": kind}}}
        table = pa.table({**columns, "images": images, "answer": right}).replace_schema_metadata({"huggingface": json.dumps(told)})
        data = folder / f"{task}.parquet"
        pq.write_table(table, data)
        text = _TASK.format(task=task, data=data, output=output, more=more.format(tokens=TOKENS))
        (folder / f"{task}.yaml").write_text(text, encoding="utf-8")
    (folder / "rows_of_a_task.py").write_text(_FUNCTIONS, encoding="utf-8")


def write_model(folder: Path) -> Path:
    """A model directory of a small writer with random weights, and the golden request by which it is checked."""
    sys.path.insert(0, str(TREE / "tests" / "model"))
    from tiny_models import TEXTS, built, picture, turn, writer

    from sightline.evaluate.answering import LocalAnswerer
    from sightline.evaluate.golden import write_golden
    from sightline.model import directory
    from sightline.model.tokens import train_tokenizer
    from sightline.samples.exchange import Request
    from sightline.samples.sample import Origin, Sample

    config = writer()
    tokenizer = train_tokenizer(TEXTS, 330, config.chat_format())
    model, processor = built(config.resolve(tokenizer.size), tokenizer)
    folder.mkdir()
    weights = directory.save(folder, model, processor)
    asked = Sample(id="g", pictures=(picture(1),), turns=(turn("user", 0, "Where?"),), origin=Origin(source="made"))
    write_golden(folder, model, processor, [(asked, next(LocalAnswerer(model, processor, weights).answer([Request(sample=asked)])))])
    return folder


# the two sides


def ours(model: Path, tsv: Path) -> tuple[list[str], list[str], list[list[float]]]:
    """What `sightline eval` asks and is answered, row by row, and the log-probabilities of the options without their end tokens."""
    from sightline.evaluate.benchmark_kinds.multiple_choice import MultipleChoice
    from sightline.evaluate.comparing import ModelAnswerer
    from sightline.model import directory
    from sightline.samples.exchange import Request
    from sightline.samples.sample import Text, Turn

    benchmark = MultipleChoice(path=str(tsv), max_tokens=TOKENS).build()
    kept = tsv.parent / "ours.jsonl"
    words = ["eval", "--benchmark", "multiple-choice", "--path", str(tsv), "--set", f"max_tokens={TOKENS}", "--model", str(model), "--answers", str(kept)]
    ended = subprocess.run([sys.executable, "-m", "sightline", *words, "--json"], check=False, capture_output=True, text=True)
    if ended.returncode:
        raise RuntimeError(f"sightline eval: {ended.stderr[-2000:]}")
    answers = {one["sample"]: one["text"] for one in map(json.loads, kept.read_text(encoding="utf-8").splitlines())}
    answerer = ModelAnswerer(*directory.load(model))
    likelihoods = []
    for row in benchmark.rows:
        sample = next(one.request.sample for one in benchmark.questions if one.request.sample.id == row.index)
        scores = []
        for option in row.options.values():
            said = Turn(role="assistant", items=(Text(text=option),))
            [answer] = answerer.answer([Request(sample=type(sample)(**{**vars(sample), "turns": (*sample.turns, said)}), ask="score")])
            scores.append(sum(answer.logps[:-1]))
        likelihoods.append(scores)
    asked = [next(item.text for item in question.request.sample.turns[0].items if isinstance(item, Text)) for question in benchmark.questions]
    return asked, [answers[row.index] for row in benchmark.rows], likelihoods


def in_env(command: Sequence[str], folder: Path, packages: Sequence[Path]) -> subprocess.CompletedProcess[str]:
    """A process that imports from these folders first, and is offline. RuntimeError where it fails."""
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HOME": str(folder / "hub"), "CUDA_VISIBLE_DEVICES": ""}
    environment = {**os.environ, **offline, "PYTHONPATH": os.pathsep.join(map(str, packages))}
    ended = subprocess.run(list(command), capture_output=True, text=True, check=False, cwd=folder, env=environment)
    if ended.returncode:
        raise RuntimeError(f"lmms-eval: {ended.stdout[-1000:]}{ended.stderr[-3000:]}")
    return ended


def theirs(model: Path, folder: Path, packages: Sequence[Path], task: str, *words: str) -> list[str]:
    """What lmms-eval logs as the answers to a task, in the order of its rows."""
    out = folder / f"out-{task}{''.join(words)}"
    command = [sys.executable, "-m", "lmms_eval", "--model", "sightline", "--model_args", f"pretrained={model}", "--tasks", task, "--include_path", str(folder)]
    ended = in_env([*command, "--batch_size", "1", "--log_samples", "--output_path", str(out), *words], folder, packages)
    found = sorted(out.rglob("*_samples_*.jsonl"))
    if not found:
        raise RuntimeError(f"lmms-eval {task} wrote no samples: {ended.stdout[-1000:]}{ended.stderr[-3000:]}")
    shutil.copy(found[-1], folder / "samples.jsonl")
    logged = sorted(map(json.loads, found[-1].read_text(encoding="utf-8").splitlines()), key=lambda one: one["doc_id"])
    return [one["filtered_resps"] for one in logged]


_LIKELIHOODS = """\
import json, sys
from lmms_eval.models import get_model
from lmms_eval.tasks import TaskManager, get_task_dict
model, folder, task = sys.argv[1:]
lm = get_model("sightline", True).create_from_arg_string(f"pretrained={model},likelihood=log")
made = get_task_dict([task], TaskManager(include_path=folder), "simple")[task]
lm.task_dict[task] = made.dataset
made.build_all_requests()
print(json.dumps([[one.doc_id, one.idx, *pair] for one, pair in zip(made.instances, lm.loglikelihood(made.instances))]))
"""
"""Up to the model's answers: lmms-eval 0.7.3 itself makes a text of every pair that a model gives, and its own scorer then fails."""


def likelihoods_there(model: Path, folder: Path, packages: Sequence[Path]) -> list[list[float]]:
    """Log-probabilities of the options of each row, asked by lmms-eval's own requests."""
    ended = in_env([sys.executable, "-c", _LIKELIHOODS, str(model), str(folder), TASKS[1]], folder, packages)
    found: list[list[float]] = [[] for _ in range(ROWS)]
    for row, _, score, _ in sorted(json.loads(ended.stdout.splitlines()[-1])):
        found[row].append(score)
    return found


def read_back(tsv: Path, samples: Path) -> list[str]:
    """lmms-eval's log as answers of ours."""
    from sightline.evaluate.answer_files import read_answers
    from sightline.evaluate.benchmark_kinds.multiple_choice import MultipleChoice

    benchmark = MultipleChoice(path=str(tsv)).build(seen=False)
    found = {answer.sample: answer.text for answer in read_answers(samples, benchmark)}
    benchmark.score(read_answers(samples, benchmark))
    return [found[row.index] for row in benchmark.rows]


def compare(folder: Path, env: Path, wheel: Path) -> dict[str, Any]:
    """Both sides on the same rows."""
    made = rows()
    model, tsv = write_model(folder / "model"), folder / "rows.tsv"
    write_tsv(made, tsv)
    asked, answers, likelihoods = ours(model, tsv)
    write_tasks(made, asked, folder)
    packages = (wheel, env)
    spoken, plain = (theirs(model, folder, packages, TASKS[0], *words) for words in ((), ("--force_simple",)))
    scored = likelihoods_there(model, folder, packages)
    apart = max(abs(a - b) for own, other in zip(likelihoods, scored, strict=True) for a, b in zip(own, other, strict=True))
    return {
        "rows": len(made),
        "different_answers": len(set(answers)),
        "equal_chat": sum(a == b for a, b in zip(answers, spoken, strict=True)),
        "equal_simple": sum(a == b for a, b in zip(answers, plain, strict=True)),
        "read_back": read_back(tsv, folder / "samples.jsonl") == answers,
        "likelihoods": sum(map(len, scored)),
        "likelihoods_apart": apart,
        "lmms_eval": VERSION,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Compare; 1 when an answer differs, 2 when lmms-eval cannot be had."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", type=Path, default=default_env(), help="folder of lmms-eval's packages, filled when it is not there")
    told = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            env = make_env(told.env.resolve())
            install(Path(scratch) / "wheel", "--no-build-isolation", str(TREE))
        except NoPeer as absent:
            print(f"nothing was compared: {absent}", file=sys.stderr)
            return 2
        work = Path(scratch) / "work"
        work.mkdir()
        found = compare(work, env, Path(scratch) / "wheel")
    print(json.dumps(found))
    return int(not (found["equal_chat"] == found["equal_simple"] == found["rows"] and found["read_back"] and found["likelihoods_apart"] < 1e-4))


if __name__ == "__main__":
    sys.exit(main())
