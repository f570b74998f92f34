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

// They stay apart from each other (by 28 in CIELAB at least) and, with a dark line around them, from light and dark
// pictures. Each after the twelfth is the one that lies farthest from those before it.
const COLOURS = [
  "#ff4d4d", "#3da5ff", "#ffd23f", "#2ecc71", "#b05cff", "#ff8a1f",
  "#00d2d3", "#ff8fc7", "#a8e61d", "#4356e0", "#b07d4f", "#f1f5f9",
  "#206040", "#0000ff", "#ff00c0", "#604080", "#608000", "#00ff00",
  "#a00060", "#006080", "#c0e0a0", "#a04000", "#a0a0c0", "#ff0080",
];

/** The first 24 differ; more than that nobody tells apart, and they begin anew. */
const colour = (place) => COLOURS[place % COLOURS.length];

/** A colour for each shape: one for each label, or, where nothing is named, for each shape. */
export function coloursOf(shapes) {
  const places = new Map();
  return shapes.map((one, index) => {
    const name = one.label || `#${index}`;
    if (!places.has(name)) places.set(name, places.size);
    return colour(places.get(name));
  });
}
