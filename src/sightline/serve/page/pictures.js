// Pictures of files and of the clipboard: what they are by their bytes, and within what the server takes.

import { make } from "./elements.js";

const SIGNS = [["image/png", "89504e47"], ["image/jpeg", "ffd8ff"], ["image/gif", "47494638"], ["image/bmp", "424d"]];

/** The media type of bytes that the server reads, or null. A file's name says nothing. */
function kindOf(bytes) {
  const head = [...bytes.subarray(0, 12)].map((one) => one.toString(16).padStart(2, "0")).join("");
  if (head.startsWith("52494646") && head.slice(16, 24) === "57454250") return "image/webp";
  return SIGNS.find(([, sign]) => head.startsWith(sign))?.[0] ?? null;
}

const url = (blob) => new Promise((done, failed) => {
  const reader = new FileReader();
  reader.onload = () => done(reader.result);
  reader.onerror = () => failed(reader.error);
  reader.readAsDataURL(blob);
});

async function drawn(image, width, height, kind) {
  const canvas = make("canvas", { width, height });
  const pen = canvas.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.drawImage(image, 0, 0, width, height);
  return new Promise((done) => canvas.toBlob(done, kind, 0.92));
}

const megabytes = (bytes) => `${(bytes / 2 ** 20).toFixed(1)} MB`;
const size = (width, height) => `${width}x${height} px`;

/** A picture {url, width, height, name} of a file, and a note (message key and what it is given) where it had to be changed. Null where it is no picture. */
export async function taken(file, limits) {
  const kind = kindOf(new Uint8Array(await file.slice(0, 12).arrayBuffer()));
  const image = new Image();
  image.src = await url(kind ? file.slice(0, file.size, kind) : file);
  try {
    await image.decode();
  } catch {
    return null;
  }
  const [wide, high] = [image.naturalWidth, image.naturalHeight];
  let share = Math.min(1, Math.sqrt(limits.max_image_pixels / (wide * high)));
  let [width, height] = [wide, high];
  let blob = kind ? file.slice(0, file.size, kind) : await drawn(image, width, height, "image/png");
  let note = kind ? null : ["converted", file.name, file.type || "?"];
  const [limit, found] = share < 1 ? [`${limits.max_image_pixels} px`, size(wide, high)] : [megabytes(limits.max_media_bytes), megabytes(file.size)];
  for (let tries = 0; tries < 8 && (share < 1 || blob.size > limits.max_media_bytes); tries++) {
    [width, height] = [wide, high].map((side) => Math.max(1, Math.floor(side * share)));
    blob = await drawn(image, width, height, "image/jpeg");
    note = ["scaled", file.name, found, limit, size(width, height)];
    if (blob.size <= limits.max_media_bytes) break;
    share *= 0.8;
  }
  if (blob.size > limits.max_media_bytes) return { note: ["still-too-large", file.name, limit] };
  return { url: await url(blob), width, height, name: file.name, note };
}
