// Regions as the server tells them (one shape each, px of its picture), drawn over that picture.

import { make, svg } from "./elements.js";
import { say } from "./messages.js";

const COLOURS = ["#0b6bcb", "#c1382e", "#1a7f4b", "#8f4bd1", "#b35900", "#0e7c86", "#b2427f", "#6b6000"];
const MANY = 14;
const colours = new Map();

/** A colour for a label, the same wherever it is named; of a region without one by its number. */
export function colourOf(label, index) {
  if (!label) return COLOURS[index % COLOURS.length];
  if (!colours.has(label)) colours.set(label, COLOURS[colours.size % COLOURS.length]);
  return colours.get(label);
}

function corners([cx, cy, w, h, theta]) {
  const [cos, sin] = [Math.cos((theta * Math.PI) / 180), Math.sin((theta * Math.PI) / 180)]; // clockwise on screen: y goes down
  return [[-w, -h], [w, -h], [w, h], [-w, h]].map(([x, y]) => [cx + (x * cos - y * sin) / 2, cy + (x * sin + y * cos) / 2]);
}

/** A mask of column-major runs, the first of them zeros, as a picture in one colour. */
function painted([width, height, runs], colour) {
  const canvas = make("canvas", { width, height });
  const pen = canvas.getContext("2d");
  const data = pen.createImageData(width, height);
  const [red, green, blue] = [1, 3, 5].map((start) => parseInt(colour.slice(start, start + 2), 16));
  let place = 0;
  runs.forEach((run, number) => {
    for (let end = place + run; place < end; place++) {
      if (number % 2) data.data.set([red, green, blue, 255], 4 * ((place % height) * width + Math.floor(place / height)));
    }
  });
  pen.putImageData(data, 0, 0);
  return canvas.toDataURL();
}

/** Where the first one of a mask's pixels is: [x, y]. */
function firstOf([, height, runs]) {
  const place = runs[0] ?? 0;
  return [Math.floor(place / height), place % height];
}

/** A mask as an element over its picture. */
function laid(mask, width, height, colour) {
  return svg("image", { href: painted(mask, colour), x: 0, y: 0, width, height, preserveAspectRatio: "none" });
}

/** The element of a region, and where its label stands: [x, y] in px of the picture. Null for what is not of a place. */
function drawn(region, width, height, colour) {
  if (region.rotated_box || region.polygon) {
    const points = region.polygon ?? corners(region.rotated_box);
    const top = points.reduce((best, point) => (point[1] < best[1] ? point : best));
    return [svg("polygon", { points: points.map((point) => point.join()).join(" ") }), top];
  }
  if (region.point) return [svg("path", { d: `M${region.point.join(" ")}h0.001`, class: "point" }), region.point];
  if (region.mask) return [laid(region.mask, width, height, colour), firstOf(region.mask)];
  if (region.tap !== undefined) return null;
  const [x0, y0, x1, y1] = region.box ?? [0, 0, width, height];
  return [svg("rect", { x: x0, y: y0, width: x1 - x0, height: y1 - y0 }), [x0, y0]];
}

/** A picture with room for shapes in its px over it: [element, svg]. */
export function stage(picture, alt) {
  const { url, width, height } = picture;
  const grow = Math.max(width, height) < 360 ? Math.max(1, Math.round(420 / Math.max(width, height))) : 1; // tiny pictures are shown larger, px by px
  const image = make("img", { src: url, alt, width: width * grow, height: height * grow, className: grow > 1 ? "small" : "" });
  image.style.width = `min(${width * grow}px, ${(62 * width) / height}vh)`; // as wide as it is, and no higher than what is seen at once
  const over = svg("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  return [make("div", { className: "stage" }, image, over), over];
}

/** Put a chip at [x, y], shares of the sides, moved by parts of its own size. */
export function pin(chip, [x, y], [across, down]) {
  chip.style.left = `${100 * x}%`;
  chip.style.top = `${100 * y}%`;
  chip.style.transform = `translate(${across}, ${down})`;
}

/** A figure of a picture with its regions: [number in the answer, region] pairs. `number`: the picture's, from 1. */
export function figure(picture, number, regions) {
  const [whole, over] = stage(picture, say("picture-regions", number, regions.length));
  whole.classList.toggle("many", regions.length > MANY);
  const { width, height } = picture;
  for (const [index, region] of regions) {
    const label = region.label ?? "";
    const colour = colourOf(label, index);
    const found = drawn(region, width, height, colour);
    if (!found) continue;
    const [shape, place] = found;
    const shapes = region.mask && shape.tagName !== "image" ? [laid(region.mask, width, height, colour), shape] : [shape];
    for (const one of shapes) one.classList.add("region");
    const chip = make("span", { className: "chip" }, `${index + 1}`, ...(label ? [" ", make("span", { className: "label", textContent: label })] : []));
    for (const one of [...shapes, chip]) {
      one.style.setProperty("--region", colour);
      one.dataset.region = index;
    }
    const [x, y] = [place[0] / picture.width, place[1] / picture.height].map((share) => Math.min(Math.max(share, 0), 1));
    pin(chip, [x, y], [x > 0.7 ? "-100%" : "0", y > 0.08 ? "-100%" : "0"]);
    over.append(...shapes);
    whole.append(chip);
  }
  return make("figure", {}, whole);
}

/** Make what belongs to one region light up together, within `root`: shapes, labels and words. */
export function lightUp(root) {
  const light = (event) => {
    const element = event.target instanceof Element ? event.target.closest("[data-region]") : null;
    const chosen = ["pointerover", "focusin"].includes(event.type) && element ? element.dataset.region.split(" ") : [];
    for (const one of root.querySelectorAll("[data-region]")) one.classList.toggle("lit", one.dataset.region.split(" ").some((index) => chosen.includes(index)));
  };
  for (const kind of ["pointerover", "pointerout", "focusin", "focusout"]) root.addEventListener(kind, light);
}
