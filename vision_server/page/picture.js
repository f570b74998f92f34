// One picture and all that was answered about it: a figure and cards; where several answers have places, side by side.

import { announce, copy, el, oncePerFrame } from "./dom.js";
import { drawnFor, saveAnswer, textOf } from "./download.js";
import { Figure } from "./figure.js";
import { pictures } from "./pictures.js";
import { prompts } from "./prompts.js";
import { runner } from "./runner.js";
import { server } from "./server.js";
import { coloursOf } from "./shapes.js";
import { bare, bytes, duration, plural, stages, stateOf } from "./words.js";

const view = document.getElementById("picture");
const takesRegion = () => prompts.takeRegion;
let shown = null; // the picture that is there now
let figures = [];
let cards = new Map(); // answer -> { element, figure }

export function showPictures() {
  pictures.turned.on(build);
  pictures.drawn.on(redraw);
  prompts.changed.on(redraw);
  server.changed.on(refreshOpen);
  runner.changed.on((answer) => {
    if (answer === null) rebuild();
    else if (answer.picture === shown) refresh(answer);
  });
}

const redraw = () => {
  for (const figure of figures) figure.redraw();
  tellRegion();
};

const rebuild = oncePerFrame(() => {
  if (!shown) return;
  const answers = [...shown.answers.values()];
  const isSame = answers.length === cards.size && answers.every((answer) => cards.has(answer));
  if (isSame) answers.forEach(refresh);
  else build();
});

function build() {
  const held = view.contains(document.activeElement) ? nameOf(document.activeElement) : null;
  const isOpened = document.getElementById("table").contains(document.activeElement);
  for (const figure of figures) figure.end();
  [shown, figures, cards] = [pictures.looked, [], new Map()];
  view.hidden = !shown;
  if (!shown) return view.replaceChildren();
  const answers = [...shown.answers.values()];
  const located = answers.filter(hasPlaces);
  const isSideBySide = located.length > 1;
  const main = isSideBySide ? null : figureOf([]);
  const list = answers.map((answer) => {
    const drawsOn = located.length ? hasPlaces(answer) : answer.input === "region";
    const figure = isSideBySide && hasPlaces(answer) ? figureOf([]) : drawsOn ? main : null;
    const element = el("article", { class: "card", "data-token": answer.token, tabindex: "-1" });
    cards.set(answer, { element, figure });
    return isSideBySide && figure ? el("div", { class: "pane" }, figure.element, element) : element;
  });
  const inside = isSideBySide
    ? [el("div", { class: "cards" }, list.filter(isCard)), list.filter((one) => !isCard(one))].flat()
    : [main.element, el("div", { class: "cards" }, list.length ? list : hint())];
  const stage = el("div", { class: isSideBySide ? "stage is-many" : "stage" }, inside);
  view.replaceChildren(heading(), stage);
  answers.forEach(refresh);
  if (held !== null || isOpened) (named(view, held) ?? view.querySelector("h2")).focus({ preventScroll: true });
  void tellSize();
}

// A control that had the focus is replaced by one of the same name, which is to have it: else a keyboard would start
// over at the top of the page.
const nameOf = (control) => control.ariaLabel ?? control.textContent;
const named = (where, name) =>
  [...where.querySelectorAll("button:enabled, summary, [tabindex='0']")].find((control) => nameOf(control) === name);

const isCard = (element) => element.classList.contains("card");

/** Whether its answer has places, as far as the catalog or the answer itself tells. */
function hasPlaces(answer) {
  return (
    (typeof answer.result === "object" && answer.result !== null) ||
    (prompts.find(answer.token)?.answer ?? "text") !== "text"
  );
}

function figureOf(shapes) {
  const figure = new Figure(shown, shapes, takesRegion);
  figures.push(figure);
  return figure;
}

function heading() {
  const button = (label, text, isOff, click) =>
    el("button", { type: "button", class: "icon", "aria-label": label, title: label, disabled: isOff, text, click });
  const isOne = pictures.list.length === 1;
  const step = (by) => pictures.beside(by) && pictures.look(pictures.beside(by));
  return el(
    "header",
    { class: "heading" },
    !isOne &&
      el("button", { type: "button", class: "quiet", text: "← All pictures", click: () => pictures.look(null) }),
    el("h2", { text: shown.name, title: shown.name, tabindex: "-1" }),
    el("p", { class: "muted", id: "picture-size", text: bytes(shown.file.size) }),
    !isOne && button("Previous picture", "‹", !pictures.beside(-1), () => step(-1)),
    !isOne && button("Next picture", "›", !pictures.beside(1), () => step(1)),
    button("Remove this picture", "×", false, () => pictures.remove(shown)),
  );
}

async function tellSize() {
  const picture = shown;
  if (!(await picture.measure()) || picture !== shown) return;
  const size = `${picture.width} × ${picture.height} · ${bytes(picture.file.size)}`;
  document.getElementById("picture-size").textContent = size;
  tellRegion();
}

function hint() {
  return el("p", { class: "hint", text: "Choose one prompt or several, then run. The answers come here." });
}

/** Those that wait say where in the queue they are. */
function refreshOpen() {
  for (const answer of cards.keys()) if (!answer.isOver) refresh(answer);
}

function refresh(answer) {
  const card = cards.get(answer);
  if (!card) return;
  const shapes = drawnFor(answer);
  const held = card.element.contains(document.activeElement) ? nameOf(document.activeElement) : null;
  card.figure?.show(shapes);
  card.element.dataset.state = answer.state;
  card.element.replaceChildren(
    el(
      "header",
      {},
      el("h3", { text: bare(answer.token) }),
      answer.text && el("span", { class: "asked", text: `“${answer.text}”` }),
      answer.seconds !== null &&
        el("span", { class: "muted took", text: duration(answer.seconds), title: stages(answer.timings) }),
    ),
    ...(answer.state === "done" ? answered(answer, shapes, card.figure) : [unanswered(answer)]),
  );
  if (held !== null) (named(card.element, held) ?? card.element).focus({ preventScroll: true });
}

function unanswered(answer) {
  if (answer.state === "waiting")
    return el("p", { class: "muted", text: runner.hold ? "Waits for the server." : "Waits for its turn." });
  if (answer.state === "running") {
    const place = server.placeOf(answer.requestId);
    const [key, , sentence] = stateOf(server.status, server.isGone);
    const isComing = key === "loading" || key === "asleep";
    const words = place
      ? `Number ${place} in the server's queue${isComing ? ", which waits for the model" : ""}.`
      : isComing
        ? sentence
        : "Asked.";
    return el("p", { class: "muted working", text: words });
  }
  const words = answer.state === "failed" ? answer.error.message : "Cancelled.";
  const again = el("button", {
    type: "button",
    text: answer.state === "failed" ? "Retry" : "Ask again",
    click: () => runner.retry([answer]),
  });
  return el("div", { class: "not-answered" }, el("p", { text: words }), again);
}

function answered(answer, shapes, figure) {
  const isText = typeof answer.result === "string";
  const body = isText
    ? [saidBy(answer)]
    : shapes.length
      ? listOf(shapes, figure)
      : [el("p", { class: "muted", text: "Nothing was found." })];
  const act = (text, label, click) =>
    el("button", { type: "button", class: "quiet", text, "aria-label": `${label} ${bare(answer.token)}`, click });
  const copied = async ({ target }) => {
    const words = (await copy(textOf(answer))) ? "Copied" : "Not copied";
    announce(`${words}.`);
    target.textContent = words;
    setTimeout(() => (target.textContent = "Copy"), 1500);
  };
  return [
    ...body,
    el(
      "footer",
      {},
      act("Copy", "Copy the answer to", copied),
      act(".txt", "Save as text:", () => saveAnswer(answer, "txt")),
      act(".json", "Save as JSON:", () => saveAnswer(answer, "json")),
      shapes.length > 0 && act(".png", "Save the picture with what is drawn for", () => saveAnswer(answer, "png")),
      el(
        "details",
        {},
        el("summary", { text: "Raw JSON" }),
        el("pre", { tabindex: "0", text: JSON.stringify({ result: answer.result }, null, 1) }),
      ),
    ),
  ];
}

/** A long one is scrolled, by keyboard too. */
function saidBy(answer) {
  const [text, label] = [answer.result || "The answer is empty.", `Answer to ${bare(answer.token)}`];
  return el("p", { class: "said", role: "group", tabindex: "0", "aria-label": label, text });
}

/** The places, each lit in the picture while it is pointed at, and the other way round. */
function listOf(shapes, figure) {
  const colours = coloursOf(shapes);
  const rows = shapes.map((shape, index) => {
    const swatch = el("span", { class: "swatch" });
    swatch.style.background = colours[index];
    const [x1, y1, x2, y2] = shape.bounds.map(Math.round);
    const light = () => figure?.onLit(index);
    const dark = () => figure?.onLit(null);
    return el(
      "li",
      { "data-index": index },
      el(
        "button",
        { type: "button", class: "place", pointerenter: light, pointerleave: dark, focus: light, blur: dark },
        swatch,
        el("span", { class: "name", text: shape.label || `${shape.kind} ${index + 1}` }),
        el("span", { class: "muted", text: `${x1}, ${y1} – ${x2}, ${y2}` }),
      ),
    );
  });
  const list = el("ul", { class: "places" }, rows);
  if (figure) {
    figure.onLit = (index) => {
      figure.light(index);
      rows.forEach((row, place) => row.classList.toggle("is-lit", place === index));
      if (index !== null) keepInSight(rows[index], list);
    };
  }
  return [el("p", { class: "muted", text: plural(shapes.length, "place") }), list];
}

/** Moves the list alone: the page stays where it is. */
function keepInSight(row, list) {
  const [above, below] = [row.offsetTop - list.offsetTop, row.offsetTop - list.offsetTop + row.offsetHeight];
  if (above < list.scrollTop) list.scrollTop = above;
  else if (below > list.scrollTop + list.clientHeight) list.scrollTop = below - list.clientHeight;
}

const sides = [...document.querySelectorAll("#region input[type=number]")];

/** The rectangle as numbers, for those who do not draw. */
function tellRegion() {
  const region = shown?.regionPixels;
  document.getElementById("region").hidden = !takesRegion();
  sides.forEach((side, place) => {
    side.disabled = !shown?.width;
    if (document.activeElement !== side) side.value = region ? Math.round(region[place]) : "";
  });
  document.getElementById("region-clear").disabled = !region;
}

for (const side of sides) {
  side.addEventListener("change", () => {
    const numbers = sides.map((one) => one.valueAsNumber);
    if (numbers.some(Number.isNaN) || numbers[0] >= numbers[2] || numbers[1] >= numbers[3]) return;
    const most = [shown.width, shown.height, shown.width, shown.height];
    pictures.draw(
      shown,
      numbers.map((number, place) => Math.max(0, Math.min(number / most[place], 1))),
    );
  });
}
document.getElementById("region-clear").addEventListener("click", () => pictures.draw(shown, null));
document
  .getElementById("region-shared")
  .addEventListener("change", (event) => pictures.shareRegion(event.target.checked));
