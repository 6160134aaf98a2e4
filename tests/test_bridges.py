"""Our models behind the interfaces of VLMEvalKit and lmms-eval, told by stand-ins of their base classes, and files of both, written and read back."""

from __future__ import annotations

import base64
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.scripted_endpoint import scripted
from tiny_models import TEXTS, built, picture, turn, writer

from published_files import built as benchmark_of
from published_files import coded, lines, mme_folder, png, tsv
from sightline.bridges import lmms_eval_bridge, vlmevalkit_bridge
from sightline.bridges.harness import decoding_of, picture_of
from sightline.bridges.result_files import write_predictions, write_questions, write_samples
from sightline.errors import Refused
from sightline.evaluate.answer_files import read_answers
from sightline.evaluate.answering import LocalAnswerer, conversation
from sightline.evaluate.benchmarks import QuestionBenchmark, Questions
from sightline.evaluate.comparing import ModelAnswerer
from sightline.evaluate.golden import write_golden
from sightline.model import directory
from sightline.model.tokens import train_tokenizer
from sightline.samples.exchange import Answer, Decoding, Request
from sightline.samples.pictures import describe, pixels
from sightline.samples.sample import Origin, Sample

ABOUT = [picture_of(png(k), "test") for k in range(3)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory with a golden request, as a stage leaves it."""
    config = writer()
    tokenizer = train_tokenizer(TEXTS, 330, config.chat_format())
    model, processor = built(config.resolve(tokenizer.size), tokenizer)
    where = tmp_path_factory.mktemp("models") / "model"
    where.mkdir()
    weights = directory.save(where, model, processor)
    asked = Sample(id="g", pictures=(picture(1),), turns=(turn("user", 0, "Where?"),), origin=Origin(source="t"))
    write_golden(where, model, processor, [(asked, next(LocalAnswerer(model, processor, weights).answer([Request(sample=asked)])))])
    return where


@pytest.fixture(scope="module")
def says(folder: Path) -> Callable[..., str]:
    """What the model answers when it is asked by itself."""
    answerer = LocalAnswerer(*directory.load(folder))
    return lambda pictures, question, tokens: answerer.ask(pictures, [], question, Decoding(max_tokens=tokens)).text


# lmms-eval


class Lmms:
    """lmms_eval.api.model.lmms, as far as it is documented."""

    is_simple = True

    def __init__(self) -> None:
        self.task_dict: dict[str, Any] = {}
        self._rank, self._world_size = 0, 1


@pytest.fixture
def lmms_eval(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in of the package."""
    for name, content in {"lmms_eval": {}, "lmms_eval.api": {}, "lmms_eval.api.model": {"lmms": Lmms}, "lmms_eval.models": {}}.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    registry = ModuleType("lmms_eval.models.registry_v2")
    vars(registry)["ModelManifest"] = SimpleNamespace
    monkeypatch.setitem(sys.modules, registry.__name__, registry)


def opened(number: int) -> Image.Image:
    return Image.open(io.BytesIO(png(number)))


DOCS = [{"id": k, "q": f"How many {word}?", "image": opened(k)} for k, word in enumerate(("ships", "yes", "harbor"))]


def harness_model(name: str, folder: Path | str, **options: Any) -> Any:
    model = getattr(lmms_eval_bridge, name)(pretrained=str(folder), **options)
    model.task_dict["t"] = {"test": DOCS}
    return model


def simple(number: int, **options: Any) -> SimpleNamespace:
    """A request as lmms-eval makes it for simple models."""
    return SimpleNamespace(args=(DOCS[number]["q"], {"max_new_tokens": 6, **options}, lambda doc: [doc["image"]], number, "t", "test"))


def messages(doc: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image", "url": doc["image"]}, {"type": "text", "text": doc["q"]}]}]


def test_the_entry_point_leads_to_classes_of_both_forms(lmms_eval: None, repository: Path) -> None:
    told = lmms_eval_bridge.manifest()
    assert told.model_id == "sightline"
    for path, is_simple in ((told.simple_class_path, True), (told.chat_class_path, False)):
        module, _, name = path.rpartition(".")
        made = getattr(sys.modules[module], name)
        assert issubclass(made, Lmms) and made.is_simple is is_simple and f"{made.__module__}.{made.__name__}" == path
    assert 'sightline = "sightline.bridges.lmms_eval_bridge:manifest"' in (repository / "pyproject.toml").read_text(encoding="utf-8")


def test_without_the_harness_its_classes_are_not_there() -> None:
    with pytest.raises(ImportError):
        _ = lmms_eval_bridge.SightlineChat
    assert not hasattr(lmms_eval_bridge, "SightlineOther")


def test_answers_come_in_the_order_of_requests_and_are_those_of_our_own(lmms_eval: None, folder: Path, says: Callable[..., str]) -> None:
    order, lengths = (2, 0, 1, 0), (3, 9, 5, 9)
    expected = [says([ABOUT[k]], DOCS[k]["q"], n) for k, n in zip(order, lengths)]
    assert len(set(expected)) > 2
    model = harness_model("SightlineSimple", folder)
    assert model.generate_until([simple(k, max_new_tokens=n) for k, n in zip(order, lengths)]) == expected
    chat = harness_model("SightlineChat", folder)
    requests = [SimpleNamespace(args=("ctx", messages, {"max_new_tokens": n}, k, "t", "test")) for k, n in zip(order, lengths)]
    assert chat.generate_until(requests) == expected
    assert model.generate_until([]) == []


def test_an_answer_ends_before_until(lmms_eval: None, folder: Path, says: Callable[..., str]) -> None:
    whole = says([ABOUT[0]], DOCS[0]["q"], 9)
    stop = whole[len(whole) // 2]
    model = harness_model("SightlineSimple", folder)
    cut = whole[: whole.index(stop)]
    assert model.generate_until([simple(0, max_new_tokens=9, until=[stop]), simple(0, max_new_tokens=9, until=stop)]) == [cut, cut]
    assert model.generate_until([simple(0, max_new_tokens=9, until=None), simple(0, max_new_tokens=9, until=[""])]) == [whole, whole]


def test_copies_of_a_drawn_request_are_drawn_anew(lmms_eval: None, folder: Path) -> None:
    model = harness_model("SightlineSimple", folder)
    drawn = model.generate_until([simple(0, max_new_tokens=12, temperature=1.5, do_sample=True)] * 4)
    assert len(set(drawn)) > 1
    assert drawn == model.generate_until([simple(0, max_new_tokens=12, temperature=1.5, do_sample=True)] * 4)


def test_pictures_stand_where_a_text_marks_them(lmms_eval: None, folder: Path) -> None:
    request = SimpleNamespace(args=("a <image> b <image>", {}, lambda doc: [opened(1), opened(2)], 0, "t", "test"))
    with scripted(lambda asked, number: "yes") as endpoint:
        assert harness_model("SightlineSimple", f"{endpoint.url}#m").generate_until([request]) == ["yes"]
        parts = endpoint.asked[0]["messages"][0]["content"]
    assert [part.get("text") for part in parts] == ["a ", None, " b ", None]


def test_rounds_are_asked_as_the_task_says(lmms_eval: None) -> None:
    def texts(doc: Any, round_idx: int, previous_output: list[str], previous_round_info: Any) -> tuple[Any, ...]:
        done = round_idx > doc["id"]
        return (None, None, True, None, None) if done else ([], f"{doc['id']}: {previous_output[-1]}?", False, previous_output, round_idx)

    def talk(doc: Any, round_idx: int | None = None, previous_output: Any = None, previous_round_info: Any = None) -> Any:
        if round_idx is None:
            return messages(doc)
        _, text, done, *_ = texts(doc, round_idx, previous_output, previous_round_info)
        return (None, True, ["kept"], None) if done else ([{"role": "user", "content": [{"type": "text", "text": text}]}], False, None, None)

    with scripted(lambda asked, number: f"<{str(asked['messages'][0]['content'])[-6:]}>") as endpoint:
        plain = harness_model("SightlineSimple", f"{endpoint.url}#m")
        requests = [SimpleNamespace(args=(DOCS[k]["q"], {}, lambda doc: None, texts, k, "t", "test")) for k in (2, 0)]
        found = plain.generate_until_multi_round(requests)
        assert [len(rounds) for rounds in found] == [3, 1] and found[1] == ["<ships?>"]
        assert "2: <arbor?>?" in [asked["messages"][0]["content"] for asked in endpoint.asked]
        chat = harness_model("SightlineChat", f"{endpoint.url}#m")
        assert chat.generate_until_multi_round([SimpleNamespace(args=("c", talk, {}, 1, "t", "test"))]) == [["kept"]]
        once = [SimpleNamespace(args=("c", lambda doc, **rounds: "no rounds" if rounds else messages(doc), {}, 1, "t", "test"))]
        assert len(chat.generate_until_multi_round(once)[0]) == 1
        endless = [SimpleNamespace(args=(DOCS[0]["q"], {}, lambda doc: None, lambda doc, **_: ([], "on", False, None, None), 0, "t", "test"))]
        with pytest.raises(Refused, match="rounds"):
            plain.generate_until_multi_round(endless)


def test_likelihoods_are_those_of_our_scorer(lmms_eval: None, folder: Path) -> None:
    answerer = ModelAnswerer(*directory.load(folder))
    asked = conversation([ABOUT[1]], [], DOCS[1]["q"])
    greedy = next(answerer.answer([Request(sample=asked, decoding=Decoding(max_tokens=2))])).text
    options = [" none", "Three ships", greedy]
    sums = []
    for option in options:
        said = Sample(id="s", pictures=asked.pictures, turns=(*asked.turns, turn("assistant", option.lstrip())), origin=asked.origin)
        sums.append(sum(next(answerer.answer([Request(sample=said, ask="score")])).logps[:-1]))
    requests = [SimpleNamespace(args=(DOCS[1]["q"], option, lambda doc: [doc["image"]], 1, "t", "test")) for option in options]
    scores, drawn = zip(*harness_model("SightlineSimple", folder).loglikelihood(requests))
    assert scores == pytest.approx([-one for one in sums], abs=1e-4) and min(scores) > 0
    assert drawn[0] is False
    logs = harness_model("SightlineSimple", folder, likelihood="log").loglikelihood([*requests[::-1], SimpleNamespace(args=("", "yes"))])
    assert [score for score, _ in logs[:3]] == pytest.approx(sums[::-1], abs=1e-4)
    with pytest.raises(Refused, match="endpoint"):
        harness_model("SightlineSimple", "http://127.0.0.1:1/v1#m").loglikelihood(requests)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({}, Decoding(max_tokens=50)),
        (
            {"max_new_tokens": 3, "temperature": 0, "top_p": None, "num_beams": 1, "until": "\n", "image_aspect_ratio": "pad"},
            Decoding(max_tokens=3, stop=("\n",)),
        ),
        ({"temperature": 0.7, "top_p": 0.9, "seed": 2}, Decoding(max_tokens=50, temperature=0.7, top_p=0.9, seed=5)),
        ({"temperature": 0.7, "do_sample": False, "seed": None, "top_k": 5}, Decoding(max_tokens=50)),
    ],
)
def test_options_of_drawing(options: dict[str, Any], found: Decoding) -> None:
    made = decoding_of(options, 50, "t", seed=3)
    assert made == Decoding(**{**vars(found), "seed": made.seed}) and made.seed == (5 if options.get("seed") else 3)


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"repetition_penalty": 1.2}, {"temperature": 1, "top_k": 5}])
def test_options_that_we_have_not_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(Refused, match=next(reversed(options))):
        decoding_of(options, 50, "t")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_pictures_keep_their_pixels(mode: str, tmp_path: Path) -> None:
    given = opened(2).convert(mode)
    assert (pixels(picture_of(given, "t")) == pixels(picture_of(given.convert("RGBA" if mode in ("LA", "RGBA") else "RGB"), "t"))).all()
    (tmp_path / "p.png").write_bytes(png(2))
    forms = [png(2), str(tmp_path / "p.png"), f"data:image/png;base64,{coded(2)}", {"bytes": png(2)}, {"path": str(tmp_path / "p.png")}]
    assert {picture_of(one, "t").hash for one in forms} == {describe(png(2), "", "t").hash}


@pytest.mark.parametrize("given", ["clip.mp4", "http://x/y.png", 3, "data:image/png;base64,!", {}])
def test_what_is_no_picture_is_refused(given: object) -> None:
    with pytest.raises(Refused):
        picture_of(given, "t")


def test_a_turned_picture_is_upright() -> None:
    sideways = Image.new("RGB", (4, 2))
    sideways.getexif()[0x0112] = 6
    found = picture_of(sideways, "t")
    assert (found.width, found.height) == (2, 4)


# VLMEvalKit


class BaseModel:
    """vlmeval.vlm.base.BaseModel, as far as it is documented."""

    INTERLEAVE = False
    allowed_types: ClassVar = ["text", "image"]

    def __init__(self) -> None:
        self.dump_image_func: Any = None

    def use_custom_prompt(self, dataset: str) -> bool:
        return False

    def set_dump_image(self, function: Any) -> None:
        self.dump_image_func = function

    def dump_image(self, line: Any, dataset: str) -> Any:
        return self.dump_image_func(line)

    def generate(self, message: Any, dataset: str | None = None) -> str:
        assert all(item["type"] in self.allowed_types for item in message)
        return self.generate_inner(message, dataset)  # pyright: ignore[reportAttributeAccessIssue]


class Line(dict[str, Any]):
    """A row of a table as pandas gives it: what is iterated are its values."""

    def __iter__(self) -> Any:
        return iter(self.values())


def as_vlmevalkit(model: Any, rows: Sequence[Line], dataset: str) -> list[str]:
    """The loop of VLMEvalKit's inference."""
    return [model.generate(model.build_prompt(row, dataset=dataset), dataset=dataset) for row in rows]


def test_answers_in_vlmevalkit_are_those_of_our_evaluation(folder: Path, tmp_path: Path) -> None:
    table = [[k, coded(k), f"<image 1> Where are ships {k}?" if k == 2 else f"How many {k}?", "yes", "none", "A"] for k in range(3)]
    path = tsv(tmp_path / "x.tsv", "index image question A B answer", *table)
    benchmark = benchmark_of("mmmu", path)
    ours = [answer.text for answer in sorted(ModelAnswerer(*directory.load(folder)).answer(benchmark.requests()), key=lambda one: one.sample)]
    files = []
    for k in range(3):
        (tmp_path / f"{k}.png").write_bytes(png(k))
        files.append(str(tmp_path / f"{k}.png"))
    model = vlmevalkit_bridge.model_class(BaseModel)(model_path=str(folder))
    model.set_dump_image(lambda line: [files[int(line["index"])]])
    rows = [Line(index=k, image=c, question=q, A=a, B=b, answer=right, hint=float("nan")) for k, c, q, a, b, right in table]
    assert model.use_custom_prompt("MMMU_DEV_VAL") and not model.use_custom_prompt("Other")
    assert [item["type"] for item in model.build_prompt(rows[2], dataset="MMMU_DEV_VAL")] == ["image", "text"]
    assert as_vlmevalkit(model, rows, "MMMU_DEV_VAL") == ours
    assert len(set(ours)) > 1
    together = model.generate_batch([model.build_prompt(row, "MMMU_DEV_VAL") for row in rows], "MMMU_DEV_VAL")
    assert together == ours


def test_messages_keep_their_order(tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(png())
    shown = {"type": "image", "value": str(tmp_path / "p.png")}
    texts = [{"type": "text", "value": text} for text in ("a", "b", "c")]
    with scripted(lambda asked, number: "yes") as endpoint:
        model = vlmevalkit_bridge.model_class(BaseModel)(model_path=f"{endpoint.url}#m", presets={"Mine": "multiple-choice"}, max_new_tokens=7)
        assert model.INTERLEAVE and model.generate([*texts[:2], shown, texts[2]]) == "yes"
        assert [part.get("text") for part in endpoint.asked[0]["messages"][0]["content"]] == ["a\nb", None, "c"]
        assert endpoint.asked[0]["max_tokens"] == 7
        history = [{"role": "user", "content": [shown, texts[0]]}, {"role": "assistant", "content": [texts[1]]}, {"role": "user", "content": [texts[2]]}]
        assert model.chat_inner(history, "Mine") == "yes"
        assert [one["role"] for one in endpoint.asked[1]["messages"]] == ["user", "assistant", "user"] and endpoint.asked[1]["max_tokens"] == 32
        with pytest.raises(Refused, match="video"):
            model.generate_inner([{"type": "video", "value": "x.mp4"}])
        assert not vlmevalkit_bridge.model_class(BaseModel)(model_path=f"{endpoint.url}#m", own_prompts=False).use_custom_prompt("MMStar")


def test_a_model_is_registered_by_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Refused, match="no-harness"):
        vlmevalkit_bridge.register("mine", "runs/mine")
    known: dict[str, Any] = {}
    for name, content in {"vlmeval": {}, "vlmeval.config": {"supported_VLM": known}, "vlmeval.vlm": {}, "vlmeval.vlm.base": {"BaseModel": BaseModel}}.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    vlmevalkit_bridge.register("mine", "http://127.0.0.1:1/v1#m", max_new_tokens=3)
    made = known["mine"]()
    assert isinstance(made, BaseModel) and made.max_new_tokens == 3  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(Refused, match="name-taken"):
        vlmevalkit_bridge.register("mine", "other/model")


# files


def answers_to(benchmark: Any, *texts: str) -> list[Answer]:
    return [Answer(key=q.request.sample.id, sample=q.request.sample.id, weights="t", text=text) for q, text in zip(benchmark.questions, texts, strict=True)]


@pytest.mark.parametrize("form", ["p.tsv", "p.json", "p.xlsx", "p.jsonl"])
def test_answers_are_written_and_read_back(form: str, tmp_path: Path) -> None:
    if form.endswith("xlsx"):
        pytest.importorskip("openpyxl")
    benchmark = benchmark_of("mme", mme_folder(tmp_path / "mme"))
    texts = ["Yes", '=1+1 "no"', "a\tb\nc", "no", " ", "\u662f", "", "nan"]
    (write_samples if form.endswith("jsonl") else write_predictions)(benchmark, answers_to(benchmark, *texts), tmp_path / form)
    found = {answer.sample: answer.text for answer in read_answers(tmp_path / form, benchmark)}
    assert [found[row.index] for row in benchmark.rows] == texts
    assert benchmark.score(read_answers(tmp_path / form, benchmark)).metrics == benchmark.score(answers_to(benchmark, *texts)).metrics


@given(st.lists(st.text(st.characters(codec="utf-8")), min_size=3, max_size=3))
def test_any_answer_survives_tables_and_lines(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    folder = tmp_path_factory.mktemp("files")
    path = tsv(folder / "x.tsv", "index question A B answer", *[[k, f"q {k}", "x", "y", "A"] for k in range(3)])
    benchmark = benchmark_of("ai2d", path, seen=False)
    for name, write in (("p.tsv", write_predictions), ("p.json", write_predictions), ("p.jsonl", write_samples)):
        write(benchmark, answers_to(benchmark, *texts), folder / name)
        assert [answer.text for answer in read_answers(folder / name, benchmark)] == texts


def test_logs_of_lmms_eval_are_paired_by_row(tmp_path: Path) -> None:
    path = tsv(tmp_path / "x.tsv", "index image question A B answer", *[[k + 7, coded(k), f"q <image 1>  {k}?", "x", "y", "A"] for k in range(2)])
    benchmark = benchmark_of("ai2d", path)
    logged = [{"doc_id": k, "input": f"Look: <image>\nq {k}? A", "target": "A", "filtered_resps": said} for k, said in ((1, ["B"]), (0, "A"))]
    found = {answer.sample: answer.text for answer in read_answers(lines(tmp_path / "s.jsonl", *logged), benchmark)}
    assert found == {"7": "A", "8": "B"}
    with pytest.raises(Refused, match="doc_id 1"):
        read_answers(lines(tmp_path / "t.jsonl", {**logged[0], "input": "q 0?"}), benchmark)
    with pytest.raises(Refused, match="strange-answer"):
        benchmark.score(read_answers(lines(tmp_path / "u.jsonl", *logged, {**logged[0], "doc_id": 2}), benchmark))
    with pytest.raises(Refused, match="answer-file"):
        read_answers(lines(tmp_path / "v.jsonl", {**logged[0], "filtered_resps": ["a", "b"]}), benchmark)


def test_predictions_of_another_form_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = benchmark_of("ai2d", tsv(tmp_path / "x.tsv", "index question A B answer", [0, "q", "x", "y", "A"]), seen=False)
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    for name, said in (("p.xls", "suffix"), ("p.xlsx", "no-openpyxl")):
        with pytest.raises(Refused, match=said):
            write_predictions(benchmark, answers_to(benchmark, "A"), tmp_path / name)
    (tmp_path / "q.xlsx").write_bytes(b"PK")
    with pytest.raises(Refused, match="openpyxl"):
        read_answers(tmp_path / "q.xlsx", benchmark)


def test_a_published_benchmark_becomes_a_table_that_asks_the_same(tmp_path: Path) -> None:
    cells = [
        ["3", coded(0), "q?", "x", "y", "A", "c"],
        ["4", "3", "r <image 1>?", "x", "", "A", "d"],
        ["5", f"['{coded(1)}', '{coded(2)}']", "s?", "x", "y", "B", "c"],
    ]
    benchmark = benchmark_of("multiple-choice", tsv(tmp_path / "x.tsv", "index image question A B answer category", *cells))
    assert write_questions(benchmark, tmp_path / "out.tsv") == 3
    again = benchmark_of("multiple-choice", tmp_path / "out.tsv")
    assert [(row.index, row.options, row.answer, row.told("category")) for row in again.rows] == [
        (row.index, row.options, row.answer, row.told("category")) for row in benchmark.rows
    ]
    told = lambda made: [(q.request.sample.turns, q.request.sample.pictures) for q in made.questions]  # noqa: E731
    assert told(again) == told(benchmark)
    assert (tmp_path / "out.tsv").read_text(encoding="utf-8").splitlines()[2].split("\t")[-1] == '"3"'


def test_questions_of_samples_become_a_table(tmp_path: Path) -> None:
    jpeg = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4), (9, 99, 9)).save(jpeg, "JPEG", exif=exif)
    turned = describe(jpeg.getvalue(), "", "t")
    pairs = [("s", (ABOUT[0],), turn("user", 0, "Where?")), ("t", (ABOUT[1], turned), turn("user", "Is ", 1, " in ", 0, "?"))]
    samples = [
        Sample(id=name, pictures=pictures, turns=(asked, turn("assistant", "yes")), attributes={"kind": "presence"}, origin=Origin(source="t"))
        for name, pictures, asked in pairs
    ]
    benchmark: QuestionBenchmark = Questions(data="d").build(samples)
    assert write_questions(benchmark, tmp_path / "out.tsv") == 2
    again = benchmark_of("pope", tmp_path / "out.tsv", prompt="")
    assert [row.question for row in again.rows] == ["Where?", "Is <image 2> in <image 1>?"]
    assert [(row.index, row.fields["sample"], row.answer, row.told("category")) for row in again.rows] == [
        ("0", "s#0", "yes", "presence"),
        ("1", "t#0", "yes", "presence"),
    ]
    first, second = (row.pictures for row in again.rows)
    assert [one.hash for one in first] == [ABOUT[0].hash]
    assert isinstance(second[1].data, bytes) and Image.open(io.BytesIO(second[1].data)).size == (4, 8)
    assert (
        second[0].hash == ABOUT[1].hash
        and (second[1].width, second[1].height) == (4, 8)
        and again.questions[1].request.sample.turns[0].items == pairs[1][2].items
    )
    assert base64.b64decode((tmp_path / "out.tsv").read_text(encoding="utf-8").splitlines()[1].split("\t")[-1].strip('"')) == png(0)
