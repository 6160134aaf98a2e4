// The page: pictures and questions in, answers of /v1/chat/completions out. What comes from models, files and the server is set as text, never as HTML.

import { Failure, answered, fetched, keyed, useKey } from "./api.js";
import { Answer } from "./answer.js";
import { showCard, showTiles } from "./dialogs.js";
import { make } from "./elements.js";
import { labelled, recall, remember, retell, say, turn, worded } from "./messages.js";
import { taken } from "./pictures.js";

const TRIES = 3;
const $ = (id) => document.getElementById(id);

let card = null; // what the server tells of its model
let tray = []; // pictures of the next question
let turns = []; // {question, pictures, answer}, whole ones alone
let leaving = null; // stops the answer that is being written

// what the server has

async function learn() {
  try {
    card = await (await fetched("/v1/card")).json();
  } catch (error) {
    if (error.status === 401) {
      status("needs-key");
      $("settings").showModal();
      $("key").focus();
    } else told(error.message);
    return;
  }
  status();
  $("name").textContent = document.title = card.name;
  $("facts").textContent = `${card.weights.slice(0, 12)}`;
  const writes = card.abilities.includes("write");
  for (const id of ["question", "send", "add"]) $(id).disabled = !writes;
  if (!writes) status("no-chat");
  $("add").hidden = !card.sees;
  worded(document.querySelector("[data-say=max-tokens-how]"), "max-tokens-how", card.max_tokens);
  $("examples").replaceChildren();
  for (const example of writes ? card.examples : []) await offer(example);
}

async function offer(example) {
  const files = await Promise.all(example.pictures.map(async (path, number) => {
    const blob = await (await fetched(path)).blob();
    return new File([blob], `${number + 1}`, { type: blob.type });
  }));
  const pictures = (await Promise.all(files.map((file) => taken(file, card)))).filter((one) => one?.url);
  const button = labelled(make("button", { type: "button" }), "example", example.question);
  button.append(...pictures.map((one) => make("img", { src: one.url, alt: "" })), make("span", { textContent: example.question }));
  button.addEventListener("click", () => submit(example.question, pictures));
  $("examples").append(button);
}

// what is said below

function status(key, ...given) {
  if (key) worded($("status"), key, ...given);
  else told("");
}

function told(text) {
  delete $("status").dataset.say;
  $("status").textContent = text;
}

// pictures of the next question

const before = () => new Set(turns.flatMap((one) => one.pictures.map((picture) => picture.url))).size;

async function take(files) {
  if (!card?.abilities.includes("write") || !card.sees) return;
  const notes = [];
  for (const file of files) {
    if (before() + tray.length >= card.images_per_prompt) {
      notes.push(["too-many", card.images_per_prompt]);
      break;
    }
    const found = await taken(file, card);
    if (!found) notes.push(["not-picture", file.name]);
    else if (found.note) notes.push(found.note);
    if (found?.url) tray.push(found);
  }
  told(notes.map((note) => say(...note)).join(" "));
  layOut();
  $("question").focus();
}

function thumbnail(picture, number, ...acts) {
  const name = worded(make("span"), "picture", number);
  const tiles = worded(labelled(make("button", { type: "button", className: "quiet" }), "tiles-of", number), "tiles", number);
  tiles.addEventListener("click", () => showTiles(picture));
  return make("li", {}, make("img", { src: picture.url, alt: picture.name }), make("div", { className: "under" }, name, make("span", {}, tiles, ...acts)));
}

function layOut() {
  const first = before();
  $("tray").replaceChildren(...tray.map((picture, place) => {
    const remove = labelled(make("button", { type: "button", className: "quiet", textContent: "\u2715" }), "remove", first + place + 1);
    remove.addEventListener("click", () => {
      tray.splice(place, 1);
      layOut();
      $("question").focus();
    });
    return thumbnail(picture, first + place + 1, remove);
  }));
}

// asking

function messages(question, pictures) {
  const user = (one) => ({ role: "user", content: [...one.pictures.map(({ url }) => ({ type: "image_url", image_url: { url } })), { type: "text", text: one.question }] });
  return [...turns.flatMap((one) => [user(one), { role: "assistant", content: one.answer }]), user({ question, pictures })];
}

function body(question, pictures) {
  const most = Number($("max-tokens").value);
  return { model: card.name, messages: messages(question, pictures), temperature: Number($("temperature").value) || 0, ...(most > 0 && { max_tokens: most }) };
}

function asking(question, pictures) {
  const first = before();
  const shown = make("ul", { className: "shown" }, ...pictures.map((picture, place) => thumbnail(picture, first + place + 1)));
  return make("article", { className: "turn asked" }, ...(pictures.length ? [shown] : []), make("p", { className: "words", textContent: question }));
}

const wait = (seconds, signal) => new Promise((done, failed) => {
  const timer = setTimeout(done, 1000 * seconds);
  signal.addEventListener("abort", () => { clearTimeout(timer); failed(signal.reason); }, { once: true });
});

/** The answer's deltas; where the server is busy it is asked again, when it says. */
async function* patiently(asked, signal) {
  for (let tries = 1; ; tries++) {
    try {
      yield* answered(asked, signal);
      return;
    } catch (error) {
      if (!(error instanceof Failure) || !error.wait || tries === TRIES) throw error;
      for (let left = error.wait; left > 0; left--) {
        status("busy", left);
        await wait(1, signal);
      }
      status("answering");
    }
  }
}

async function submit(question, pictures) {
  if (!card || leaving || !question.trim()) return;
  const all = new Map([...turns.flatMap((one) => one.pictures), ...pictures].map((picture) => [picture.url, picture]));
  const answer = new Answer([...all.values()]);
  const asked = asking(question, pictures);
  $("welcome").hidden = true;
  $("log").append(asked, answer.element);
  answer.element.scrollIntoView({ block: "end" });
  leaving = new AbortController();
  busy(true);
  status("answering");
  let [tokens, finish, below] = [0, null, true];
  try {
    for await (const delta of patiently(body(question, pictures), leaving.signal)) {
      below = $("log").scrollHeight - $("log").scrollTop - $("log").clientHeight < 80; // who reads further up is left there
      answer.add(delta);
      finish = delta.finish ?? finish;
      tokens = delta.tokens ?? tokens;
      if (below) $("log").scrollTop = $("log").scrollHeight;
    }
    status("done", tokens);
    if (finish === "length") status("length", tokens);
  } catch (error) {
    if (leaving.signal.aborted) status("stopped");
    else {
      status();
      if (error instanceof Failure && error.message) answer.told(error.message);
      else answer.fault(error instanceof Failure ? "broken-off" : "gone", error.message);
      answer.act("again", () => {
        if (leaving) return;
        asked.remove();
        answer.element.remove();
        turns = turns.filter((one) => one.element !== answer.element);
        submit(question, pictures);
      });
    }
    if (error.status === 401) status("needs-key");
  } finally {
    leaving = null;
    busy(false);
  }
  if (answer.text) {
    turns.push({ question, pictures, answer: answer.text, element: answer.element });
    answer.act("copy", (button) => answer.copy(button));
  } else if (finish) answer.empty();
  layOut();
  if (below) $("log").scrollTop = $("log").scrollHeight;
}

function busy(now) {
  $("send").hidden = now;
  $("stop").hidden = !now;
  $("log").setAttribute("aria-busy", String(now));
  if (!now) $("question").focus();
}

function send() {
  const question = $("question").value;
  if (!card || leaving || !question.trim()) return;
  const pictures = tray;
  tray = [];
  layOut();
  $("question").value = "";
  fit();
  submit(question, pictures);
}

function fit() {
  $("question").style.height = "auto";
  $("question").style.height = `${$("question").scrollHeight + 2}px`;
}

// light and dark

const dark = () => (document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
const nameTheme = () => { $("theme").textContent = say(dark() ? "light" : "dark"); };

function dress(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  nameTheme();
}

// events

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
$("question").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return; // while Chinese is being composed, Enter chooses words
  event.preventDefault();
  send();
});
$("question").addEventListener("input", fit);
$("stop").addEventListener("click", () => leaving?.abort());
$("add").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", async () => {
  await take([...$("file").files]);
  $("file").value = "";
});
$("clear").addEventListener("click", () => {
  leaving?.abort();
  turns = [];
  tray = [];
  layOut();
  for (const one of document.querySelectorAll("#log > article")) one.remove();
  $("welcome").hidden = false;
  status();
});
$("language").addEventListener("click", () => {
  turn();
  nameTheme();
});
$("theme").addEventListener("click", () => {
  dress(dark() ? "light" : "dark");
  remember("theme", document.documentElement.dataset.theme);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", nameTheme);
$("open-settings").addEventListener("click", () => $("settings").showModal());
$("open-card").addEventListener("click", () => card && showCard(card));
$("settings").addEventListener("close", () => {
  if ($("key").value.trim() !== keyed()) {
    useKey($("key").value);
    learn();
  }
});

const files = (transfer) => [...(transfer?.files ?? [])];
let inside = 0; // elements of the page that a drag is over
addEventListener("dragenter", (event) => {
  if (event.dataTransfer?.types.includes("Files")) $("drop").hidden = ++inside === 0;
});
addEventListener("dragleave", () => {
  inside = Math.max(0, inside - 1);
  $("drop").hidden = inside === 0;
});
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  inside = 0;
  $("drop").hidden = true;
  take(files(event.dataTransfer));
});
addEventListener("paste", (event) => {
  if (!files(event.clipboardData).length) return;
  event.preventDefault();
  take(files(event.clipboardData));
});

$("key").value = keyed();
retell();
dress(recall("theme"));
learn();
