// Shapes and labels drawn: over a picture on the screen as SVG, into a copy of it as PNG. Both from one plan.

import { svg } from "./dom.js";
import { inkOn, placeLabels } from "./labels.js";
import { coloursOf } from "./shapes.js";

const FAMILY = "system-ui, sans-serif";
const HALO = "rgba(10, 14, 20, 0.75)";
const MASK_ALPHA = 0.38;
const MOST_PIXELS = 1 << 26; // a canvas beyond that is refused by some browsers

const pen = document.createElement("canvas").getContext("2d");

/** What is to be drawn at `scale` (pixels drawn per pixel of the picture), letters and lines of so many pixels. */
function plan(shapes, size, scale, letterPx, linePx) {
  const scaled = shapes.map((shape) => ({
    ...shape,
    rings: shape.rings.map((ring) => ring.map(([x, y]) => [x * scale, y * scale])),
    bounds: shape.bounds.map((side) => side * scale),
  }));
  const font = `600 ${letterPx}px ${FAMILY}`;
  pen.font = font;
  const letters = { height: Math.round(letterPx * 1.5), measure: (text) => pen.measureText(text).width };
  const plates = placeLabels(
    scaled,
    size.map((side) => side * scale),
    letters,
  );
  return { shapes: scaled, plates, colours: coloursOf(shapes), font, letterPx, linePx };
}

const path = (rings) => rings.map((ring) => `M${ring.map(([x, y]) => `${round(x)} ${round(y)}`).join("L")}Z`).join("");
const round = (value) => Math.round(value * 10) / 10;

/** The overlay of a picture of `size` shown at `scale`: one <g data-index> for each shape, its label in it. */
export function overlay(shapes, size, scale) {
  const { shapes: scaled, plates, colours, letterPx, linePx } = plan(shapes, size, scale, 13, 2.5);
  const [width, height] = size.map((side) => side * scale);
  const root = svg("svg", { class: "overlay", viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  const largestFirst = [...scaled.keys()].sort((one, other) => area(scaled[other]) - area(scaled[one]));
  for (const index of largestFirst) {
    const [{ kind, label, rings }, colour] = [scaled[index], colours[index]];
    const line = path(rings);
    root.append(
      svg(
        "g",
        { class: `shape is-${kind}`, "data-index": index, "data-label": label },
        svg("path", { class: "halo", d: line, "stroke-width": linePx + 2.5 }),
        svg("path", { class: "line", d: line, stroke: colour, fill: colour, "stroke-width": linePx }),
      ),
    );
  }
  for (const [index, plate] of plates.entries()) {
    if (plate) root.append(labelOf(plate, index, colours[index], letterPx));
  }
  return root;
}

const area = ({ bounds: [x1, y1, x2, y2] }) => (x2 - x1) * (y2 - y1);

function labelOf(plate, index, colour, letterPx) {
  const { x, y, width, height, text } = plate;
  return svg(
    "g",
    { class: "label", "data-index": index },
    svg("rect", { x, y, width, height, rx: 3, fill: colour }),
    svg("text", { x: x + 5, y: y + height / 2 + letterPx * 0.35, fill: inkOn(colour), text }),
  );
}

/** A PNG of `image` (width x height) with the shapes drawn into it; without an image, on grey. A Blob. */
export async function annotated(image, size, shapes) {
  const shrink = Math.min(1, Math.sqrt(MOST_PIXELS / (size[0] * size[1])));
  const side = Math.max(...size) * shrink;
  const {
    shapes: scaled,
    plates,
    colours,
    font,
    letterPx,
    linePx,
  } = plan(shapes, size, shrink, Math.max(12, side / 48), Math.max(2, side / 320));
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = size.map((one) => Math.max(1, Math.round(one * shrink)));
  const context = canvas.getContext("2d");
  if (image) context.drawImage(image, 0, 0, canvas.width, canvas.height);
  else {
    context.fillStyle = "#3a404a";
    context.fillRect(0, 0, canvas.width, canvas.height);
  }
  context.lineJoin = "round";
  for (const [index, { kind, rings }] of scaled.entries()) {
    const outline = new Path2D(path(rings));
    if (kind === "polygon") {
      Object.assign(context, { fillStyle: colours[index], globalAlpha: MASK_ALPHA });
      context.fill(outline);
      context.globalAlpha = 1;
    }
    stroke(context, outline, HALO, linePx * 2);
    stroke(context, outline, colours[index], linePx);
  }
  context.font = font;
  for (const [index, plate] of plates.entries()) {
    if (!plate) continue;
    context.fillStyle = colours[index];
    context.fillRect(plate.x, plate.y, plate.width, plate.height);
    context.fillStyle = inkOn(colours[index]);
    context.fillText(plate.text, plate.x + 5, plate.y + plate.height / 2 + letterPx * 0.35);
  }
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

function stroke(context, outline, colour, width) {
  Object.assign(context, { strokeStyle: colour, lineWidth: width });
  context.stroke(outline);
}
