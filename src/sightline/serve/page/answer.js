// One answer on the page while it is written: its text, the words that name regions, and pictures with these.

import { make } from "./elements.js";
import { worded, say } from "./messages.js";
import { colourOf, figure, lightUp } from "./regions.js";

const BEFORE = /^[\s,;.\u3001\u3002\uff0c\uff1b]+/;
const AFTER = /[\s,;.\u3001\u3002\uff0c\uff1b]+$/; // a token may bring more than the end of a region

/** Where the words of a region begin in the text that came with it: at its label, else where the text does. */
function beginning(text, label) {
  const place = label ? text.lastIndexOf(label) : -1;
  return place >= 0 ? place : text.match(BEFORE)?.[0].length ?? 0;
}

export class Answer {
  /** `pictures`: those of the conversation in the order in which the request names them first. */
  constructor(pictures) {
    this.pictures = pictures;
    this.text = "";
    this.regions = [];
    this.marks = []; // [begin, end, regions]: words that name them
    this.element = make("article", { className: "turn said" });
    this.words = make("p", { className: "words" });
    this.rest = document.createTextNode("");
    this.figures = make("div");
    this.faults = make("div");
    this.acts = make("div", { className: "acts" });
    this.element.append(this.words, this.figures, this.faults, this.acts);
    lightUp(this.element);
  }

  /** Take a delta of the stream. */
  add({ content = "", regions, region_problems: problems = [] }) {
    this.text += content;
    if (content) {
      if (!this.rest.isConnected) this.words.append(this.rest);
      this.rest.data = this.text.slice(this.marks.at(-1)?.[1] ?? 0);
    }
    if (regions) this._name(regions);
    for (const problem of problems) this.fault("malformed", `${problem.place}: ${problem.found}`);
  }

  _name(regions) {
    const known = this.regions.length;
    const same = JSON.stringify(regions.slice(0, known)) === JSON.stringify(this.regions);
    if (same && regions.length === known) return;
    if (!same) this.marks = []; // what was named is not what it looked like: the last list counts
    const done = this.marks.at(-1)?.[1] ?? 0;
    const fresh = regions.slice(same ? known : 0);
    const words = this.text.slice(done).replace(AFTER, "");
    const begin = done + beginning(words, fresh[0]?.label);
    this.regions = regions;
    if (fresh.length) this.marks.push([begin, done + words.length, fresh.map((_, number) => regions.length - fresh.length + number)]);
    this._write();
    this._draw();
  }

  _write() {
    const parts = [];
    let done = 0;
    for (const [begin, end, named] of this.marks) {
      const mark = make("mark", { textContent: this.text.slice(begin, end), tabIndex: 0 });
      mark.dataset.region = named.join(" ");
      mark.style.setProperty("--region", colourOf(this.regions[named[0]].label, named[0]));
      parts.push(this.text.slice(done, begin), mark);
      done = end;
    }
    this.rest.data = this.text.slice(done);
    this.words.replaceChildren(...parts, this.rest);
  }

  _draw() {
    const of = Map.groupBy(this.regions.map((region, index) => [index, region]), ([, region]) => region.picture ?? 0);
    this.figures.replaceChildren(...[...of].filter(([number]) => this.pictures[number]).map(([number, own]) => figure(this.pictures[number], number + 1, own)));
  }

  /** Say what went wrong, in words of the page. */
  fault(key, ...given) {
    this.faults.append(worded(make("p", { className: "fault" }), key, ...given));
  }

  /** Say what went wrong, in words of the server. */
  told(text) {
    this.faults.append(make("p", { className: "fault", textContent: text }));
  }

  /** Add a button below. */
  act(key, does) {
    const button = worded(make("button", { type: "button", className: "quiet" }), key);
    button.addEventListener("click", () => does(button));
    this.acts.append(button);
  }

  /** Copy the text; where the browser forbids it, select it. */
  async copy(button) {
    try {
      await navigator.clipboard.writeText(this.text);
      worded(button, "copied");
    } catch {
      getSelection().selectAllChildren(this.words);
      worded(button, "copy-selected");
    }
    setTimeout(() => worded(button, "copy"), 2000);
  }

  /** Nothing was said. */
  empty() {
    this.words.classList.add("soft");
    this.words.textContent = say("nothing");
  }
}
