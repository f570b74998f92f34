// Where the labels go: on plates near their shapes, none over another. No element of the page is known here.

const PADDING = 5; // beside the letters
const GAP = 2; // between a plate and what it names
const MOST_TRIES = 400; // places looked at for one label; a picture full of labels has no more room

/**
 * A plate { x, y, width, height, text } for each shape, or null for one without a label or without room.
 * All is in pixels of the screen: `shapes` with their `bounds`, `size` [width, height], `letters` { height, measure }.
 */
export function placeLabels(shapes, size, letters) {
  const plates = new Array(shapes.length).fill(null);
  const taken = [];
  for (const index of smallestFirst(shapes)) {
    const { label, bounds } = shapes[index];
    if (!label.trim()) continue;
    const text = shorten(label.trim().replace(/\s+/g, " "), size[0] - 4 * PADDING, letters.measure);
    const [width, height] = [letters.measure(text) + 2 * PADDING, letters.height];
    const free = candidates(bounds, width, height, size).find((plate) => !taken.some((other) => meet(plate, other)));
    if (!free) continue;
    taken.push(free);
    plates[index] = { ...free, text };
  }
  return plates;
}

/** Small things have fewer places for their label to be understood. */
function smallestFirst(shapes) {
  const area = ({ bounds: [x1, y1, x2, y2] }) => (x2 - x1) * (y2 - y1);
  return [...shapes.keys()].sort((one, other) => area(shapes[one]) - area(shapes[other]));
}

/** The corners of the shape first, then further and further away from it; all within the picture. */
function candidates([x1, y1, x2, y2], width, height, size) {
  const [above, below] = [y1 - height - GAP, y2 + GAP];
  const corners = [
    [x1, above],
    [x2 - width, above],
    [x1, below],
    [x2 - width, below],
    [x1, y1],
    [x2 - width, y2 - height],
  ];
  const around = [
    [x2 + GAP, y1],
    [x1 - width - GAP, y1],
  ];
  const further = [];
  for (let step = 1; further.length < MOST_TRIES; step += 1) {
    for (const x of [x1, x2 - width, x1 + step * height, x1 - step * height]) {
      further.push([x, above - step * height], [x, below + step * height], [x, y1 + step * height]);
    }
  }
  const within = (value, most) => Math.max(0, Math.min(value, most));
  return [...corners, ...around, ...further].map(([x, y]) => ({
    x: within(x, size[0] - width),
    y: within(y, size[1] - height),
    width,
    height,
  }));
}

function meet(one, other) {
  return (
    one.x < other.x + other.width &&
    other.x < one.x + one.width &&
    one.y < other.y + other.height &&
    other.y < one.y + one.height
  );
}

function shorten(text, room, measure) {
  if (measure(text) <= room) return text;
  let [fits, tooLong] = [0, Math.min(text.length, 400)];
  while (tooLong - fits > 1) {
    const middle = (fits + tooLong) >> 1;
    if (measure(`${text.slice(0, middle)}…`) <= room) fits = middle;
    else tooLong = middle;
  }
  return `${text.slice(0, fits)}…`;
}

/** Black or white, whichever reads better on a colour "#rrggbb": 4.5:1 at least, by WCAG's contrast. */
export function inkOn(hex) {
  const [red, green, blue] = [1, 3, 5].map((start) => linear(parseInt(hex.slice(start, start + 2), 16) / 255));
  const luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  return luminance > 0.179 ? "#000000" : "#ffffff";
}

const linear = (share) => (share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4);
