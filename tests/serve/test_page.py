"""The page without a browser: its files and their headers, the card, tiles, keys, and regions as they are named."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from scripted_words import Script, question, scripted, tiny, write_run
from servers import Running, data_url, png, running, shown

import sightline.serve.page_routes as page_routes
from sightline.model.tilers.windows import source_box
from sightline.samples.codec_table import CODEC
from sightline.samples.codecs import text_of
from sightline.samples.frames import Frame
from sightline.samples.sample import Point, Region, Regions, RotatedBox
from sightline.serve.guard import OPEN
from sightline.serve.named_regions import NamedRegions, closes
from sightline.serve.page_routes import FILES

FOLDER = Path(page_routes.__file__).parent / "page"
SAID = "A pool: {500,250,200,300,10}, and {2,2,3,4,5,6} is none; <p>pier</p> {250,250,100,100,0}."


@pytest.fixture(scope="module")
def script() -> Script:
    return Script(SAID)


@pytest.fixture(scope="module")
def server(script: Script, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    model, processor = tiny("flat")
    asked = [question("Where?", png(1), png(2)), question("How many?"), question(" Is there one? ", png(3))]
    folder = write_run(tmp_path_factory.mktemp("served") / "run", model, processor, asked)
    script.direct(processor)
    with running(model, processor, folder=folder) as found:
        yield found


# files


def test_every_file_of_the_page_is_served_with_its_type_and_a_policy(server: Running) -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(FILES), "what is served is what is there"
    for path in ("/", *(f"/page/{name}" for name in FILES)):
        name = path.rpartition("/")[2] or "index.html"
        status, headers, body = server.ask("GET", path)
        assert status == 200 and body == (FOLDER / name).read_bytes()
        assert headers["content-type"] == f"{FILES[name]}; charset=utf-8" and headers["x-content-type-options"] == "nosniff"
        policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'self'" and "script-src" not in policy and "style-src" not in policy, "no inline script and no inline style"
        assert policy["frame-ancestors"] == policy["base-uri"] == policy["object-src"] == "'none'"


def test_a_file_that_is_known_is_not_sent_again(server: Running) -> None:
    _, headers, _ = server.ask("GET", "/page/page.js")
    assert headers["cache-control"] == "no-cache"
    status, again, body = server.ask("GET", "/page/page.js", None, **{"if-none-match": f'"other", W/{headers["etag"]}'})
    assert status == 304 and body == b"" and again["etag"] == headers["etag"] and "content-security-policy" in again
    assert server.ask("GET", "/page/page.js", None, **{"if-none-match": '"other"'})[0] == 200
    assert server.ask("GET", "/page/page.css")[1]["etag"] != headers["etag"]


@pytest.mark.parametrize("path", ["/page/", "/page/none.js", "/page/../app.py", "/page/..%2fapp.py", "/page/%2e%2e/app.py", "/page/page.js/"])
def test_nothing_else_is_a_file_of_the_page(server: Running, path: str) -> None:
    status, _, body = server.ask("GET", path)
    assert status in (307, 404) and b"import" not in body


def test_the_document_holds_no_code_and_names_nothing_elsewhere() -> None:
    document = (FOLDER / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", document)
    assert [text for text in re.findall(r"<script[^>]*>(.*?)</script>", document, re.DOTALL) if text] == []
    for name in FILES:
        text = (FOLDER / name).read_text(encoding="utf-8")
        assert [found for found in re.findall(r"(?:https?:)?//[\w.]+\.\w+", text) if found != "http://www.w3.org"] == [], name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), f"{name}: what is said stays text"
        for target in re.findall(r'(?:from|src=|href=) ?"(/page/|\./)([\w.]+)"', text):
            assert target[1] in FILES, (name, target)


def test_both_languages_say_the_same_things() -> None:
    text = (FOLDER / "messages.js").read_text(encoding="utf-8")
    tables = re.search(r"\n  en: \{\n(.*?)\n  \},\n  zh: \{\n(.*?)\n  \},\n\};", text, re.DOTALL)
    assert tables is not None
    english, chinese = (dict(re.findall(r'"?([a-z][a-z-]*)"?: "((?:[^"\\]|\\.)*)"', table)) for table in tables.groups())
    assert list(english) == list(chinese) and len(english) > 60
    holes = lambda said: sorted(set(re.findall(r"\{\d\}", said)))  # noqa: E731
    assert {key: holes(said) for key, said in english.items()} == {key: holes(said) for key, said in chinese.items()}
    code = "".join((FOLDER / name).read_text(encoding="utf-8") for name in FILES if name != "messages.js")
    used = re.findall(r'data-(?:say|label|placeholder)="([\w-]+)"|\b(?:say|status|heading)\("([\w-]+)"|(?:worded|labelled)\([^;]*?, "([\w-]+)"', code)
    assert {key for keys in used for key in keys if key} <= set(english)


# the card


def test_the_card_tells_what_is_served_and_where_it_came_from(server: Running) -> None:
    status, _, body = server.ask("GET", "/v1/card")
    card = json.loads(body)
    model = server.served.model
    assert status == 200 and (card["name"], card["names"], card["weights"]) == ("tiny", ["tiny", "other-name"], "w")
    assert card["abilities"] == ["write"] and card["sees"] and card["codec"]["kind"] == "xyhwt" and card["max_model_len"] == 400
    assert (card["images_per_prompt"], card["max_image_pixels"], card["max_media_bytes"], card["max_tokens"]) == (3, 40_000, 16 << 20, 512)
    assert card["parameters"] == sum(weight.numel() for weight in model.parameters())
    parts = {part["path"]: part for part in card["parts"]}
    assert {"encoders.vision", "connector", "language_model", "tiler", "layout", "fusion", "codec"} <= set(parts)
    assert parts["language_model"]["architecture"] == "llama" and parts["connector"]["kind"] == "mlp" and parts["tiler"]["parameters"] == 0
    assert model.connector is not None
    assert parts["connector"]["parameters"] == sum(weight.numel() for weight in model.connector.parameters())
    lineage = card["lineage"]
    assert lineage["model"]["parents"] == [{"id": "d" * 64, "name": "data/scenes"}] and lineage["model"]["seed"] == 3
    assert lineage["run"]["parents"][0]["name"] == "stages/see"
    assert [(step["name"], step["inputs"]) for step in lineage["steps"]] == [("data/scenes", []), ("stages/see", ["data/scenes"])]
    assert card["report"] is True and card["notes"] == []


def test_examples_are_the_golden_questions_with_their_pictures(server: Running) -> None:
    card = json.loads(server.ask("GET", "/v1/card")[2])
    asked = [(example["question"], len(example["pictures"])) for example in card["examples"]]
    assert asked == [("Where?", 2), ("How many?", 0), ("Is there one?", 1)] and card["examples_left_out"] == 0
    paths = [path for example in card["examples"] for path in example["pictures"]]
    for path, seed in zip(paths, (1, 2, 3), strict=True):
        status, headers, body = server.ask("GET", path)
        assert status == 200 and headers["content-type"] == "image/png" and body == png(seed) and "sandbox" in headers["content-security-policy"]
    for number in ("3", "-1", "x", "0" * 5000, "%00", "%D9%A1", "1%0A"):
        status, _, body = server.ask("GET", f"/v1/card/pictures/{number}")
        assert status == 404 and json.loads(body)["error"]["code"] == "serve/no-picture", number


def test_a_report_is_shown_in_a_sandbox_and_only_where_there_is_one(server: Running) -> None:
    status, headers, body = server.ask("GET", "/report")
    assert status == 200 and b"the report" in body and headers["content-type"].startswith("text/html")
    policy = [part.strip() for part in headers["content-security-policy"].split(";")]
    assert "sandbox" in policy and "default-src 'none'" in policy and not any(part.startswith("script-src") for part in policy)
    folder = server.served.folder
    assert folder is not None
    (folder / "report.html").rename(folder / "kept.html")
    try:
        status, _, body = server.ask("GET", "/report")
        assert status == 404 and json.loads(body)["error"]["code"] == "serve/no-report"
        assert json.loads(server.ask("GET", "/v1/card")[2])["report"] is False
    finally:
        (folder / "kept.html").rename(folder / "report.html")


def test_what_cannot_be_read_is_said_on_the_card(tmp_path: Path) -> None:
    model, processor = tiny("flat")
    folder = write_run(tmp_path / "run", model, processor, [question("Where?")])
    (folder / "graph.json").write_text("[", encoding="utf-8")
    (folder / "stages" / "01-see" / "model" / "lineage.json").write_text('{"id": 1, "colour": 2}', encoding="utf-8")
    (folder / "stages" / "01-see" / "model" / "golden" / "requests.jsonl").write_text('{"turns": []}\n', encoding="utf-8")
    for served in (folder, folder / "stages" / "01-see" / "model", None, tmp_path / "nothing"):
        with running(model, processor, folder=served) as server:
            status, _, body = server.ask("GET", "/v1/card")
        card = json.loads(body)
        assert status == 200 and card["examples"] == [] and card["lineage"]["model"] is None
        assert bool(card["notes"]) == (served is not None) and str(tmp_path) not in body.decode(), served


# tiles


def test_tiles_are_those_of_the_processor() -> None:
    with scripted(Script(), name="separated") as server:
        processor = server.served.processor
        status, _, body = server.ask("POST", "/v1/tiles", {"image_url": {"url": data_url(png(1, 120, 60))}})
        found = json.loads(body)
        measure = processor.measure(120, 60)
        assert status == 200 and found["size"] == [120, 60] and found["grid"] == list(measure.tiling.grid)
        assert found["tokens"] == measure.decoder and len(found["crops"]) == len(measure.tiling.crops) > 2
        for told, crop, grid in zip(found["crops"], measure.tiling.crops, measure.grids, strict=True):
            assert told["role"] == crop.role and told["window"] == list(crop.window) and told["tokens"] == grid.count and told["valid"] == list(crop.valid)
            assert told["box"] == pytest.approx(source_box(measure.tiling, crop), abs=0.01)
        tiles = [crop["box"] for crop in found["crops"] if crop["role"] == "tile"]
        assert sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in tiles) == pytest.approx(120 * 60, rel=0.01), "tiles cover the picture once"
        for body, code in (
            ({"image_url": {"url": "file:///etc/passwd"}}, "serve/url-scheme"),
            ({"image_url": {"url": data_url(png(0, 400, 200))}}, "serve/picture-too-large"),
            ({}, "serve/body"),
            ({"image_url": {"url": data_url(png())}, "among": 0}, "serve/body"),
        ):
            status, _, reply = server.ask("POST", "/v1/tiles", body)
            assert status == 400 and json.loads(reply)["error"]["code"] == code


# keys


def test_the_page_is_open_and_what_it_reads_is_not() -> None:
    with scripted(Script(), api_keys=("one",)) as server:
        for path in ("/", *(f"/page/{name}" for name in FILES)):
            assert server.ask("GET", path)[0] == 200
        for path in ("/v1/card", "/v1/card/pictures/0", "/report", "/page/none.js"):
            assert server.ask("GET", path)[0] == 401, path
        assert server.ask("POST", "/v1/tiles", {"image_url": {"url": data_url(png())}})[0] == 401
        assert server.ask("GET", "/v1/card", authorization="Bearer one")[0] == 200
    assert {"/", "/health", "/ready", "/metrics", "/openapi.json"} | {f"/page/{name}" for name in FILES} == OPEN


# regions, as they are named


def streamed(server: Running, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    status, _, body = server.ask("POST", "/v1/chat/completions", {"model": "tiny", "messages": messages, "max_tokens": 200, "stream": True})
    assert status == 200
    events = [json.loads(line[6:]) for line in body.decode().split("\n") if line.startswith("data: {")]
    return [event["choices"][0]["delta"] for event in events]


def test_a_region_is_told_with_the_words_that_name_it(server: Running) -> None:
    messages = shown(data_url(png(1, 200, 100)))
    deltas = streamed(server, messages)
    told = [delta["regions"] for delta in deltas if "regions" in delta]
    assert [len(regions) for regions in told] == [1, 2, 2], "each as it is whole, and all at the end"
    assert all(later[: len(earlier)] == earlier for earlier, later in pairwise(told))
    [box, pier] = told[-1]
    assert box["rotated_box"] == pytest.approx([100, 50, 60, 40, 10]) and box["label"] is None and pier["label"] == "pier"
    before = ""
    for delta in deltas:
        before += delta.get("content", "")
        if len(delta.get("regions", ())) == 1:
            break
    assert before.startswith("A pool: {500,250,200,300,10}") and len(before) < len("A pool: {500,250,200,300,10}") + 3
    assert "region_problems" in deltas[-1] and not any("region_problems" in delta for delta in deltas[:-1])
    _, body = server.chat(messages, max_tokens=200)
    assert body["choices"][0]["message"]["regions"] == told[-1] and body["choices"][0]["message"]["content"] == SAID


@pytest.mark.parametrize("kind", sorted(set(CODEC.table()) - {"seg"}))
def test_what_an_answer_named_so_far_stays_what_it_named(kind: str) -> None:
    codec: Any = CODEC.parse({"kind": kind, "convert": True})
    frame = Frame(width=100, height=100)
    boxes = [RotatedBox(cx=30, cy=40, w=30, h=20, theta=30), RotatedBox(cx=60, cy=60, w=20, h=12, theta=0)]
    shapes: list[Any] = [Point(x=box.cx, y=box.cy) for box in boxes] if kind == "molmo" else boxes
    items = [Regions(regions=tuple(Region(shape=shape, label=label) for shape in shapes), label=label) for label in ("pool", "pier")]
    text = "Here: " + " and, beside it, ".join(text_of(codec.render(item, frame)) for item in items) + " are all."

    def named(part: str) -> list[Any]:
        return [(region.shape, region.label) for item in codec.parse(part, frame)[0] if isinstance(item, Regions) for region in item.regions]

    whole = named(text)
    assert len(whole) == 4
    known = 0
    for end in range(len(text)):
        early = named(text[:end])
        assert early == whole[: len(early)], text[:end]
        assert len(early) == known or closes(text[end - 1]), "a text is read again only after such a sign"
        known = len(early)


def test_a_stream_is_read_again_only_where_a_region_may_end(monkeypatch: pytest.MonkeyPatch) -> None:
    _, processor = tiny("flat")
    named = NamedRegions(processor=processor, sample=question("Where?", png(1, 200, 100)))
    read: list[str] = []
    items = processor.items
    monkeypatch.setattr(processor, "items", lambda text, sample: (read.append(text), items(text, sample))[1])
    told = [named.newly(0, sign) for sign in SAID]
    assert len(read) == sum(map(closes, SAID)) < len(SAID) / 8 and [len(one["regions"]) for one in told if one] == [1, 2] and named.texts[0] == SAID
