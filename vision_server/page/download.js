// Answers as files: annotated PNG, JSON, .txt beside the picture's name, and one zip for many.

import { el } from "./dom.js";
import { annotated } from "./sketch.js";
import { boxShape, shapesOf } from "./shapes.js";
import { bare } from "./words.js";
import { Zip } from "./zip.js";

const BREATH_MS = 30; // of work at a stretch, then the page may answer

/** The answer as text: what is text bare, places as one line of JSON, as the server has it for text/plain. */
export function textOf(answer) {
  return typeof answer.result === "string" ? answer.result : JSON.stringify(answer.result);
}

/** What is drawn for an answer: its places; or the rectangle that was asked about, with what was said of it. */
export function drawnFor(answer) {
  if (answer?.state !== "done") return [];
  if (answer.region && typeof answer.result === "string") return [boxShape(answer.result, answer.region)];
  const shapes = shapesOf(answer.result);
  const isNameless = answer.text && shapes.every((shape) => !shape.label); // then it is all what was asked for
  return isNameless ? shapes.map((shape) => ({ ...shape, label: answer.text })) : shapes;
}

/** All answers to a picture, with what was asked. */
export function reportOf(picture) {
  const answers = [...picture.answers.values()].filter((answer) => answer.state === "done");
  return {
    picture: picture.name,
    ...(picture.width && { width: picture.width, height: picture.height }),
    answers: answers.map(({ token, text, region, result }) => ({
      prompt: token,
      ...(text && { text_input: text }),
      ...(region && { region }),
      result,
    })),
  };
}

const pretty = (value) => `${JSON.stringify(value, null, 2)}\n`;
const stemOf = (name) => name.replace(/\.[^./]*$/, "");
const baseOf = (name) => name.split("/").at(-1);

/** "beach.txt"; where the picture has several answers "beach.OD.txt". */
function nameOf(answer, ending) {
  const isOne = answer.picture.answers.size === 1;
  return `${stemOf(answer.picture.name)}${isOne ? "" : `.${bare(answer.token)}`}.${ending}`;
}

export async function saveAnswer(answer, ending) {
  const data =
    ending === "png" ? await pngOf(answer) : ending === "json" ? pretty(answer.result) : `${textOf(answer)}\n`;
  save(new Blob([data]), baseOf(nameOf(answer, ending)));
}

async function pngOf(answer) {
  const { picture } = answer;
  const shapes = drawnFor(answer);
  // None where this browser cannot decode it, or the file is there no longer: then the shapes are drawn on grey.
  const image = (await picture.measure()) ? await createImageBitmap(picture.file).catch(() => null) : null;
  const far = (side) => Math.max(64, ...shapes.map(({ bounds }) => bounds[side])) * 1.05;
  const [width, height] = [image?.width ?? picture.width ?? far(2), image?.height ?? picture.height ?? far(3)];
  try {
    return await annotated(image, [width, height], shapes);
  } finally {
    image?.close();
  }
}

/**
 * One zip of what there is for `pictures`; `endings` is a subset of txt, json, png. `report(done)` tells how far it is.
 * Throws RangeError where it gets too large, or there is nothing to put into it.
 */
export async function saveZip(pictures, endings, report, signal) {
  const zip = new Zip();
  let sinceMs = performance.now();
  for (const [place, picture] of pictures.entries()) {
    const answers = [...picture.answers.values()].filter((answer) => answer.state === "done");
    if (!answers.length) continue;
    for (const answer of answers) {
      if (endings.includes("txt")) zip.add(nameOf(answer, "txt"), `${textOf(answer)}\n`);
      if (endings.includes("png") && drawnFor(answer).length) {
        const png = await pngOf(answer);
        zip.add(nameOf(answer, "png"), new Uint8Array(await png.arrayBuffer()));
      }
    }
    if (endings.includes("json")) zip.add(`${stemOf(picture.name)}.json`, pretty(reportOf(picture)));
    if (performance.now() - sinceMs > BREATH_MS) {
      report(place + 1);
      await new Promise((resolve) => setTimeout(resolve));
      signal.throwIfAborted();
      sinceMs = performance.now();
    }
  }
  if (zip.isEmpty) throw new RangeError("There is nothing of this kind to save.");
  save(zip.blob, "answers.zip");
}

function save(blob, name) {
  const url = URL.createObjectURL(blob);
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000); // the browser may still be reading it
}
