// The places in an answer, whatever their kind, and a colour for each label. No element of the page is known here.

// Where places stand in an answer, where their labels, and what they are.
const PARTS = [
  ["bboxes", ["bboxes_labels", "labels"], "box"],
  ["quad_boxes", ["labels"], "quad"],
  ["polygons", ["polygons_labels", "labels"], "polygon"],
];

/**
 * What an answer places in its picture, as { kind, label, rings, bounds }; of a text nothing.
 * A ring is a closed line [[x, y], ...] in pixels of the upright picture, `bounds` is [left, top, right, bottom].
 */
export function shapesOf(result) {
  if (result === null || typeof result !== "object") return [];
  return PARTS.flatMap(([places, names, kind]) => {
    const labels = result[names.find((name) => name in result)] ?? [];
    return (result[places] ?? []).map((place, index) => shape(kind, labels[index] ?? "", place));
  }).filter((one) => one.rings.length);
}

/** A rectangle of a person's own. */
export function boxShape(label, place) {
  return shape("box", label, place);
}

function shape(kind, label, place) {
  const rings = (kind === "polygon" ? place : [kind === "box" ? corners(place) : place]).map(points);
  const all = rings.flat();
  const xs = all.map(([x]) => x);
  const ys = all.map(([, y]) => y);
  const bounds = [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
  return { kind, label, rings: rings.filter((ring) => ring.length > 1), bounds };
}

const corners = ([x1, y1, x2, y2]) => [x1, y1, x2, y1, x2, y2, x1, y2];

function points(flat) {
  return Array.from({ length: flat.length >> 1 }, (_, place) => [flat[2 * place], flat[2 * place + 1]]);
}

// Twelve that stay apart from each other and, with a dark line around them, from light and dark pictures; after them,
// hues by the golden angle, which never comes back to the same one.
const COLOURS = [
  "#ff4d4d",
  "#3da5ff",
  "#ffd23f",
  "#2ecc71",
  "#b05cff",
  "#ff8a1f",
  "#00d2d3",
  "#ff8fc7",
  "#a8e61d",
  "#4356e0",
  "#b07d4f",
  "#f1f5f9",
];
const GOLDEN_ANGLE = 137.508;

export function colour(place) {
  if (place < COLOURS.length) return COLOURS[place];
  const [hue, lightness] = [(place * GOLDEN_ANGLE) % 360, [62, 74, 52][place % 3]];
  const [amount, half] = [(0.75 * Math.min(lightness, 100 - lightness)) / 100, lightness / 100];
  const channel = (offset) => {
    const turn = (offset + hue / 30) % 12;
    return Math.round(255 * (half - amount * Math.max(-1, Math.min(turn - 3, 9 - turn, 1))));
  };
  return `#${[0, 8, 4].map((offset) => channel(offset).toString(16).padStart(2, "0")).join("")}`;
}

/** A colour for each shape: one for each label, or, where nothing is named, for each shape. */
export function coloursOf(shapes) {
  const places = new Map();
  return shapes.map((one, index) => {
    const name = one.label || `#${index}`;
    if (!places.has(name)) places.set(name, places.size);
    return colour(places.get(name));
  });
}
