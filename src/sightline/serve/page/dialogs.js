// What is told of the model, and how it cuts a picture up.

import { fetched, keyed } from "./api.js";
import { make, svg } from "./elements.js";
import { role, say } from "./messages.js";
import { pin, stage } from "./regions.js";

const COLOURS = { overview: "#1f77d2", tile: "#d64541", detail: "#20915c", canvas: "#d64541" };
const count = (number) => number.toLocaleString("en");
const short = (id) => make("code", { textContent: id ? id.slice(0, 12) : "", title: id ?? "" });

/** A table; columns in `numeric` are right-aligned. Without a head its first column heads the rows. */
function table(head, rows, numeric = []) {
  const cell = (name, one, place) => make(name, { className: numeric.includes(place) ? "n" : "" }, one);
  const top = head.length ? [make("thead", {}, make("tr", {}, ...head.map((one, place) => cell("th", one, place))))] : [];
  const lines = rows.map((row) => make("tr", {}, ...row.map((one, place) => cell(!head.length && place === 0 ? "th" : "td", one, place))));
  return make("div", { className: "scroll" }, make("table", {}, ...top, make("tbody", {}, ...lines)));
}

const heading = (key) => make("h3", { textContent: say(key) });
const soft = (text) => make("p", { className: "soft", textContent: text });

function lineage({ model, run, steps }) {
  if (!model && !run && !steps.length) return [heading("lineage"), soft(say("no-lineage"))];
  const found = [heading("lineage")];
  const own = model ?? run;
  if (own) {
    const parents = own.parents.flatMap((parent, place) => [place ? ", " : "", `${parent.name} `, short(parent.id)]);
    found.push(table([], [[say("made"), own.created], [say("seed"), String(own.seed)], [say("id"), short(own.id)], [say("parents"), make("span", {}, ...parents)]]));
  }
  if (steps.length) {
    const seconds = (step) => (step.seconds == null ? "" : step.seconds.toFixed(1));
    found.push(heading("steps"), table([say("step"), say("from"), say("seconds"), say("id")], steps.map((step) => [step.name, step.inputs.join(", "), seconds(step), short(step.id)]), [2]));
  }
  return found;
}

/** The report: a link, or where a key is needed a file, because a link cannot bring one. */
function report(there) {
  if (!there) return soft(say("no-report"));
  const link = make("a", { href: "/report", target: "_blank", rel: "noopener", textContent: say("report") });
  link.addEventListener("click", async (event) => {
    if (!keyed()) return;
    event.preventDefault();
    const href = URL.createObjectURL(await (await fetched("/report")).blob());
    make("a", { href, download: "report.html" }).click();
    setTimeout(() => URL.revokeObjectURL(href), 10_000);
  });
  return make("p", {}, link);
}

/** Show the model card. */
export function showCard(card) {
  const kind = (part) => [part.kind, part.architecture, part.checkpoint].filter(Boolean).join(" \u00b7 ");
  const facts = [
    [say("weights"), short(card.weights)],
    [say("parameters"), count(card.parameters)],
    [say("abilities"), card.abilities.join(", ")],
    [say("codec"), card.codec ? card.codec.kind : say("none")],
    [say("context"), count(card.max_model_len)],
    [say("precision"), card.precision],
  ];
  const parts = [...card.parts.map((part) => [part.path, kind(part), part.parameters ? count(part.parameters) : ""]), [say("total"), "", count(card.parameters)]];
  document.getElementById("card-title").textContent = card.names.join(", ");
  document.getElementById("card-body").replaceChildren(
    table([], facts),
    report(card.report),
    table([say("part"), say("kind"), say("parameters")], parts, [2]),
    ...lineage(card.lineage),
    ...(card.examples_left_out ? [soft(say("left-out", card.examples_left_out))] : []),
    ...card.notes.map(soft),
  );
  document.getElementById("card").showModal();
}

function outlined(picture, crops) {
  const [whole, over] = stage(picture, picture.name);
  crops.forEach((crop, number) => {
    if (crops.length > 1 && crop.role === "overview") return; // the whole picture is no box
    const [x0, y0, x1, y1] = crop.box;
    const box = svg("rect", { x: x0, y: y0, width: x1 - x0, height: y1 - y0, class: "region" });
    const chip = make("span", { className: "chip", textContent: String(number + 1) });
    pin(chip, [(x0 + x1) / 2 / picture.width, (y0 + y1) / 2 / picture.height], ["-50%", "-50%"]);
    for (const one of [box, chip]) one.style.setProperty("--region", COLOURS[crop.role]);
    over.append(box);
    whole.append(chip);
  });
  return whole;
}

async function cut(picture, crops) {
  const image = make("img", { src: picture.url });
  await image.decode();
  return crops.map((crop, number) => {
    const [x0, y0, x1, y1] = crop.box;
    const [, , width, height] = crop.window;
    const canvas = make("canvas", { width, height, className: width < 110 ? "small" : "" });
    canvas.style.setProperty("--region", COLOURS[crop.role]);
    const [left, top, right, bottom] = crop.valid; // the rest of the window is fill
    canvas.getContext("2d").drawImage(image, x0, y0, x1 - x0, y1 - y0, left, top, right - left, bottom - top);
    const line = `${number + 1} ${role(crop.role)} ${width}x${height}, ${say("tokens", crop.tokens)}`;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", line);
    return make("li", {}, canvas, line);
  });
}

/** Show how the model cuts a picture up. */
export async function showTiles(picture) {
  const body = document.getElementById("tiles-body");
  body.replaceChildren();
  document.getElementById("tiles").showModal();
  try {
    const found = await (await fetched("/v1/tiles", { image_url: { url: picture.url } })).json();
    const facts = soft(say("tiles-facts", found.size.join("x"), found.grid.join("x"), found.crops.length, found.tokens + found.memory_tokens));
    body.replaceChildren(facts, outlined(picture, found.crops), make("ol", { className: "crops" }, ...(await cut(picture, found.crops))));
  } catch (error) {
    body.replaceChildren(make("p", { className: "fault", textContent: error.message }));
  }
}
