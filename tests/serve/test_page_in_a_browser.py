"""The page in a real browser: pictures in, streamed words and drawn regions out, both languages, light and dark, a phone, hostile texts, and no request to anywhere else."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from scripted_words import Script, question, scripted, tiny, write_run
from servers import PATIENCE, Running, png, running

from chromium import Chromium

pytestmark = pytest.mark.slow
HOSTILE = "<img src=x onerror=\"document.title='taken'\">"
BOX = "{500,250,200,300,10}"
"""On a picture of 200 x 100 px: 60 px wide and 40 high, 10 degrees about (100, 50)."""


class Page:
    """The page of a server in a browser, which notes everything that goes wrong in it."""

    def __init__(self, browser: Chromium) -> None:
        self.browser = browser
        note = "window.wrong = []; for (const kind of ['error', 'unhandledrejection', 'securitypolicyviolation'])"
        note += " addEventListener(kind, e => wrong.push(`${kind}: ${e.message ?? e.reason ?? e.blockedURI}`), true);"
        self._script = browser.call("Page.addScriptToEvaluateOnNewDocument", source=note)["identifier"]

    def open(self, server: Running, width: int = 1280, dark: bool = False, language: str = "en") -> None:
        self.browser.call("Emulation.setLocaleOverride", locale=language)
        self.browser.call("Network.setUserAgentOverride", userAgent="test", acceptLanguage=language)
        self.browser.open(f"{server.base}/", width, dark)

    def js(self, expression: str) -> Any:
        return self.browser.js(expression)

    def until(self, expression: str) -> None:
        """Wait until an expression holds on the page."""
        ends = time.monotonic() + PATIENCE
        while not self.js(f"Boolean({expression})"):
            assert time.monotonic() < ends, (expression, self.text("#status"), self.text("#log"), self.js("wrong"))
            time.sleep(0.05)

    def text(self, selector: str, number: int = 0) -> str:
        return self.js(f"document.querySelectorAll({json.dumps(selector)})[{number}]?.textContent ?? ''")

    def count(self, selector: str) -> int:
        return self.js(f"document.querySelectorAll({json.dumps(selector)}).length")

    def give(self, how: str, *files: tuple[str, bytes]) -> None:
        """Drop or paste files."""
        told = json.dumps([[name, base64.b64encode(data).decode()] for name, data in files])
        make = "const files = new DataTransfer(); for (const [name, data] of given)"
        make += " files.items.add(new File([Uint8Array.from(atob(data), one => one.charCodeAt(0))], name, {type: 'image/png'}));"
        drop = "for (const kind of ['dragenter', 'dragover', 'drop'])"
        drop += " document.body.dispatchEvent(new DragEvent(kind, {bubbles: true, cancelable: true, dataTransfer: files}));"
        paste = "document.body.dispatchEvent(new ClipboardEvent('paste', {bubbles: true, cancelable: true, clipboardData: files}));"
        self.js(f"(given => {{ {make} {drop if how == 'drop' else paste} }})({told})")

    def ask(self, words: str) -> None:
        self.js("document.getElementById('question').focus()")
        self.browser.write(words)
        self.browser.press("Enter")

    def answered(self, how: str = "done") -> None:
        self.until(f"document.getElementById('status').dataset.say === '{how}'")

    def end(self) -> None:
        """Nothing went wrong, and nothing was asked of anybody else."""
        assert self.js("wrong") == []
        names = self.js("performance.getEntriesByType('resource').map(one => one.name)")
        origin = self.js("location.origin")
        assert [name for name in names if not name.startswith((f"{origin}/", "data:", "blob:"))] == []
        assert len([name for name in names if "/page/" in name]) >= 6
        self.browser.call("Page.removeScriptToEvaluateOnNewDocument", identifier=self._script)


@pytest.fixture
def page(chromium: Chromium) -> Iterator[Page]:
    chromium.call("Network.enable")
    found = Page(chromium)
    yield found
    found.end()


@pytest.fixture(scope="module")
def script() -> Script:
    return Script()


@pytest.fixture(scope="module")
def server(script: Script, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    model, processor = tiny("flat")
    folder = write_run(tmp_path_factory.mktemp("served") / "run", model, processor, [question("Where?", png(1)), question(HOSTILE)])
    script.direct(processor)
    with running(model, processor, folder=folder) as found:
        yield found


WATCH = """
window.seen = [];
new MutationObserver(() => {
  const words = document.querySelector('.said .words')?.textContent ?? '';
  if (seen.at(-1)?.[0] !== words) seen.push([words, document.querySelectorAll('.said .region').length]);
}).observe(document.getElementById('log'), {subtree: true, childList: true, characterData: true});
"""


def test_a_picture_is_dropped_and_its_regions_drawn_as_they_are_named(page: Page, server: Running, script: Script) -> None:
    script.text, script.step, script.pause = f"A pool: {BOX}, and <p>pier</p> {{750,100,100,100,0}} beside it.", 3, 0.02
    page.open(server)
    page.until("document.querySelectorAll('#examples button').length === 2")
    page.give("drop", ("one.png", png(1, 200, 100)))
    page.until("document.querySelectorAll('#tray li').length === 1")
    assert page.text("#tray span") == "picture 1" and not page.js("document.getElementById('drop').checkVisibility()")
    page.js(WATCH)
    page.ask("Where is the pool?")
    page.answered()
    assert page.text(".said .words") == script.text and page.text(".asked .words") == "Where is the pool?" and page.count("#tray li") == 0
    seen = page.js("seen")
    assert len(seen) > 8 and all(script.text.startswith(words) for words, _ in seen), "words come one after another"
    early = next(words for words, regions in seen if regions)
    assert len(early) < len(script.text) / 2, "the first region is drawn before the second is named"
    points = page.js("document.querySelector('.said polygon').getAttribute('points')")
    corners = [tuple(map(float, point.split(","))) for point in points.split()]
    # cos 10 = 0.9848, sin 10 = 0.1736; clockwise on screen: the right end of the upper side lies lower than its left end
    assert corners[0] == pytest.approx((100 - 30 * 0.9848 + 20 * 0.1736, 50 - 30 * 0.1736 - 20 * 0.9848), abs=0.01)
    assert corners[1] == pytest.approx((100 + 30 * 0.9848 + 20 * 0.1736, 50 + 30 * 0.1736 - 20 * 0.9848), abs=0.01)
    place = "(r => [r.x + r.width / 2, r.y + r.height / 2])(document.querySelector({}).getBoundingClientRect())"
    (x, y), (left, top) = page.js(place.format("'.said polygon'")), page.js(place.format("'.said img'"))
    assert (x, y) == pytest.approx((left, top), abs=1), "the box stands in the middle of the picture, as it was said"
    assert [page.text(".chip", number) for number in (0, 1)] == ["1", "2 pier"]
    assert page.text("mark") == f"A pool: {BOX}" and page.text("mark", 1).startswith("pier</p> {750")
    page.browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    assert page.js("[...document.querySelectorAll('.lit')].map(one => one.tagName)") == ["MARK", "polygon", "SPAN"]
    page.js("document.querySelectorAll('mark')[1].focus()")
    assert page.js("[...document.querySelectorAll('.lit')].every(one => one.dataset.region === '1')")
    page.ask("And again?")
    page.until("document.querySelectorAll('.said').length === 2")
    page.answered()
    assert page.count(".said figure") == 2, "a later answer is about the picture that was shown last"


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_both_languages_light_and_dark_and_a_phone(page: Page, server: Running, script: Script, width: int, dark: bool) -> None:
    script.text, script.pause = f"{BOX} " + "averylongword" * 12, 0.0
    page.open(server, width, dark, "zh-CN" if dark else "en-US")
    page.until("document.querySelectorAll('#examples button').length === 2")
    other = {"Send": "\u53d1\u9001", "\u53d1\u9001": "Send"}
    page.js("localStorage.clear()")
    first = page.text("#send")
    assert first == ("\u53d1\u9001" if dark else "Send"), "the browser's language"
    page.give("drop", ("one.png", png(1, 200, 100)), ("two.png", png(2, 250, 40)))
    page.until("document.querySelectorAll('#tray li').length === 2")
    page.ask("Where?")
    page.answered()
    told = "[...document.querySelectorAll('#status, .shown span, h2, .said .acts')].map(one => one.textContent).concat(document.getElementById('question').placeholder)"
    before = page.js(told)
    page.browser.click("#language")
    assert page.text("#send") == other[first] and page.js("document.documentElement.lang").startswith("en" if dark else "zh")
    after = page.js(told)
    assert len(before) == len(after) > 6 and all(one != other for one, other in zip(before, after) if one != "tiny"), "all that stands there is said anew"
    assert all((max(said) >= "\u4e00") != dark for said in (page.text(".shown span"), page.text("#status"), page.text("h2")))
    shape = page.js("(r => r.width / r.height)(document.querySelector('figure img').getBoundingClientRect())")
    assert shape == pytest.approx(250 / 40, rel=0.02), "a picture keeps its shape"
    assert page.js("document.documentElement.scrollWidth <= innerWidth && document.body.scrollWidth <= innerWidth"), "nothing is wider than the screen"
    for opens, dialog in (("#open-card", "card"), ("#open-settings", "settings")):
        page.browser.click(opens)
        assert page.js(f"document.getElementById('{dialog}').open")
        assert page.js(f"(r => r.left >= 0 && r.right <= innerWidth)(document.getElementById('{dialog}').getBoundingClientRect())")
        assert page.js("document.documentElement.scrollWidth <= innerWidth")
        page.js(f"document.getElementById('{dialog}').close()")
    light = "getComputedStyle(document.body).backgroundColor"
    before = page.js(light)
    assert (before == "rgb(255, 255, 255)") != dark
    page.browser.click("#theme")
    assert page.js(light) != before
    page.open(server, width, dark, "zh-CN" if dark else "en-US")
    page.until("document.getElementById('facts').textContent")
    assert page.text("#send") == other[first] and page.js(light) != before, "both choices are kept"
    page.js("localStorage.clear()")


def test_everything_that_is_pressed_or_filled_has_a_name(page: Page, server: Running, script: Script) -> None:
    script.text, script.pause = BOX, 0.0
    page.open(server)
    page.until("document.querySelectorAll('#examples button').length === 2")
    page.give("drop", ("one.png", png(1)))
    page.until("document.querySelectorAll('#tray li').length === 1")
    page.ask("Where?")
    page.answered()
    nameless = """[...document.querySelectorAll('button, input, textarea, dialog, main, nav, form#composer')].filter(one => {
      const label = one.getAttribute('aria-label') || document.getElementById(one.getAttribute('aria-labelledby'))?.textContent || one.labels?.[0]?.textContent;
      return !(label || one.textContent).trim() || (['INPUT', 'TEXTAREA'].includes(one.tagName) && !label);
    }).map(one => one.outerHTML.slice(0, 80))"""
    assert page.js(nameless) == []
    assert page.js("[...document.images].every(one => one.hasAttribute('alt'))")
    ids = page.js("[...document.querySelectorAll('[id]')].map(one => one.id)")
    assert len(ids) == len(set(ids)) and page.js("document.querySelectorAll('h1').length") == 1
    page.js("document.getElementById('question').blur(); document.getElementById('language').focus()")
    page.browser.call("Input.dispatchKeyEvent", type="keyDown", key="Tab", code="Tab", windowsVirtualKeyCode=9)
    assert page.js("document.activeElement.id") == "theme" and page.js("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_pictures_are_pasted_removed_and_kept_within_what_the_server_takes(page: Page, server: Running, script: Script) -> None:
    script.text, script.pause = "yes", 0.0
    page.open(server)
    page.until("document.getElementById('facts').textContent")
    page.give("paste", ("a.png", png(1)), (f"{HOSTILE}.png", b"no picture"), ("large.png", png(2, 400, 200)))
    page.until("document.querySelectorAll('#tray li').length === 2")
    said = page.text("#status")
    assert HOSTILE in said and "not a picture" in said and "large.png: 400x200 px is above the server's limit of 40000 px" in said
    width, height = map(int, said.rpartition("scaled down to ")[2].split(" ")[0].split("x"))
    assert width * height <= 40_000 and width / height == pytest.approx(2, rel=0.02)
    page.browser.click("#tray li [data-label=remove]")
    assert page.count("#tray li") == 1 and page.text("#tray span") == "picture 1"
    page.give("paste", *((f"{number}.png", png(number)) for number in (5, 6, 7)))
    page.until("document.querySelectorAll('#tray li').length === 3")
    assert "at most 3 pictures" in page.text("#status")
    page.ask("How many?")
    page.answered()
    assert page.count(".shown li") == 3 and page.text(".said .words") == "yes"
    page.browser.click("#clear")
    assert page.count("#log > article") == 0 and page.js("document.getElementById('welcome').checkVisibility()")


def test_an_answer_is_stopped(page: Page, server: Running, script: Script) -> None:
    script.text, script.step, script.pause = "on and on " * 200, 3, 0.05
    page.open(server)
    page.until("document.getElementById('facts').textContent")
    page.ask("Tell me.")
    page.until("document.querySelector('.said .words')?.textContent.length > 10")
    assert not page.js("document.getElementById('send').checkVisibility()")
    page.browser.click("#stop")
    page.answered("stopped")
    engine = server.served.engine
    assert engine is not None
    ends = time.monotonic() + PATIENCE
    while engine.running and time.monotonic() < ends:
        time.sleep(0.02)
    assert not engine.running and len(page.text(".said .words")) < 600
    script.text, script.pause = "and more", 0.0
    page.ask("Go on.")
    page.until("document.querySelectorAll('.said').length === 2")
    page.answered()
    assert page.text(".said .words", 1) == "and more", "what was said so far is part of the conversation"


def test_whatever_is_said_stays_text(page: Page, server: Running, script: Script) -> None:
    script.text, script.step, script.pause = f"<script>document.title = 'taken'</script> <p>{HOSTILE}</p> {BOX}", 3, 0.0
    page.open(server)
    page.until("document.querySelectorAll('#examples button').length === 2")
    page.give("drop", (HOSTILE, png(1, 200, 100)))
    page.until("document.querySelectorAll('#tray li').length === 1")
    page.ask(HOSTILE)
    page.answered()
    assert page.text(".said .words") == script.text and page.text(".asked .words") == HOSTILE and page.text(".chip") == f"1 {HOSTILE}"
    page.browser.click("#open-card")
    assert page.js("document.title") == "tiny" and page.count("[onerror]") == 0 and page.js("document.scripts.length") == 1
    assert HOSTILE in page.text("#examples button", 1)


def test_tiles_are_drawn_over_the_picture(page: Page) -> None:
    with scripted(Script("yes"), name="separated") as server:
        page.open(server)
        page.until("document.getElementById('facts').textContent")
        page.give("drop", ("one.png", png(1, 120, 60)))
        page.until("document.querySelectorAll('#tray li').length === 1")
        page.browser.click("#tray [data-label=tiles-of]")
        page.until("document.querySelector('.crops canvas')")
        measure = server.served.processor.measure(120, 60)
        assert page.count(".crops li") == len(measure.tiling.crops) and page.count("#tiles rect") == sum(crop.role == "tile" for crop in measure.tiling.crops)
        assert f"{measure.decoder} tokens" in page.text("#tiles-body p")
        assert page.js("[...document.querySelectorAll('.crops canvas')].every(one => one.getContext('2d').getImageData(0, 0, 1, 1).data[3] === 255)")


def test_the_card_shows_parts_and_lineage_and_the_report_runs_nothing(page: Page, server: Running, script: Script) -> None:
    page.open(server)
    page.until("document.getElementById('facts').textContent")
    page.browser.click("#open-card")
    told = page.text("#card-body")
    assert all(word in told for word in ("language_model", "llama", "data/scenes", "stages/see", "xyhwt")), told
    assert page.js("document.querySelector('#card a').getAttribute('href')") == "/report"
    page.browser.open(f"{server.base}/report")
    assert page.js("document.title") == "report", "its script has not run"
    page.open(server)


def test_errors_are_told_a_busy_server_is_asked_again_and_a_key_is_asked_for(page: Page, script: Script) -> None:
    with scripted(Script("yes"), api_keys=("open sesame",)) as server:
        page.open(server)
        page.until("document.getElementById('settings').open")
        assert "key" in page.text("#status")
        page.js("document.getElementById('key').value = 'open sesame'; document.getElementById('settings').close()")
        page.until("document.getElementById('facts').textContent")
        page.js("document.getElementById('max-tokens').value = 10000")
        page.ask("Where?")
        page.until("document.querySelector('.said .fault')")
        assert "allowed: 400 together" in page.text(".said .fault") and "ask for fewer tokens" in page.text(".said .fault")
        page.js("document.getElementById('max-tokens').value = ''")
        # the server is busy once
        busy = "(real => { let asked = 0; window.fetch = (path, more) => path === '/v1/chat/completions' && asked++ === 0"
        busy += " ? Promise.resolve(new Response('{}', {status: 503, headers: {'retry-after': '2'}})) : real(path, more) })(window.fetch)"
        page.js(busy)
        page.browser.click(".said [data-say=again]")
        page.until("document.getElementById('status').dataset.say === 'busy'")
        page.answered()
        assert page.text(".said .words") == "yes" and page.count(".said") == 1
        page.js("sessionStorage.clear()")


STREAM = """
import('/page/api.js').then(async ({events}) => {
  const bytes = new TextEncoder().encode(%s);
  const found = [];
  for (const size of [1, 2, 3, 7, bytes.length]) {
    const chunks = [];
    for (let start = 0; start < bytes.length; start += size) chunks.push(bytes.slice(start, start + size));
    const told = [];
    for await (const data of events(new ReadableStream({start: to => { chunks.forEach(one => to.enqueue(one)); to.close(); }}))) told.push(data);
    found.push(told);
  }
  return found;
})
"""


def test_events_are_read_wherever_their_bytes_are_cut(page: Page, server: Running) -> None:
    page.open(server)
    sent = ': a comment\n\ndata: {"a": "\u8239"}\n\nevent: x\r\ndata: 1\r\ndata:2\r\n\r\nid: 3\rdata: last\r\rdata: [DONE]'
    for told in page.js(STREAM % json.dumps(sent)):
        assert told == ['{"a": "\u8239"}', "1\n2", "last", "[DONE]"]


SHAPES = """
import('/page/regions.js').then(async ({figure}) => {
  const canvas = Object.assign(document.createElement('canvas'), {width: 4, height: 3});
  const drawn = figure({url: canvas.toDataURL(), width: 4, height: 3}, 1, %s.map((one, index) => [index, one]));
  document.getElementById('log').append(drawn);
  const mask = drawn.querySelector('image.region');
  const image = new Image();
  image.src = mask.getAttribute('href');
  await image.decode();
  const pen = Object.assign(document.createElement('canvas'), {width: 4, height: 3}).getContext('2d');
  pen.drawImage(image, 0, 0);
  return [[...pen.getImageData(0, 0, 4, 3).data].filter((_, place) => place %% 4 === 3).map(one => Math.sign(one)), [...drawn.querySelectorAll('.region')].map(one => one.tagName)];
})
"""


def test_every_shape_is_drawn_and_masks_by_columns(page: Page, server: Running) -> None:
    page.open(server)
    regions: list[dict[str, Any]] = [{"mask": [4, 3, [4, 3, 5]], "label": "m"}, {"box": [1, 1, 3, 2]}, {"point": [1, 1]}]
    regions += [{"polygon": [[0, 0], [3, 0], [0, 2]]}, {"rotated_box": [2, 1, 2, 1, 30]}, {}, {"tap": 3}]
    regions += [{"rotated_box": [2, 1, 2, 1, 30], "mask": [4, 3, [4, 3, 5]]}]
    alpha, names = page.js(SHAPES % json.dumps(regions))
    # runs go down the columns: four zeros, then (1, 1), (1, 2) and (2, 0)
    assert alpha == [0, 0, 1, 0, 0, 1, 0, 0, 0, 1, 0, 0]
    assert names == ["image", "rect", "path", "polygon", "polygon", "rect", "image", "polygon"], "a tap is no place yet"
