// Many pictures as a table. Only the rows in sight exist, so that a thousand pictures cost no more than twenty.

import { el, oncePerFrame } from "./dom.js";
import { pictures } from "./pictures.js";
import { prompts } from "./prompts.js";
import { runner } from "./runner.js";
import { shapesOf } from "./shapes.js";
import { thumb } from "./thumbs.js";
import { bare, bytes, plural } from "./words.js";

const ROW_PX = 64; // as in work.css
const BEYOND = 6; // rows kept ready above and below what is in sight
const MOST_SHOWN = 300; // letters of an answer; the rest is in the picture's own view

const view = document.getElementById("table");
const filter = document.getElementById("filter");
const head = el("tr", { "aria-rowindex": "1" });
const [above, below] = [spacer(), spacer()];
const body = el("tbody", {}, above.row, below.row);
const table = el("table", { "aria-labelledby": "table-title" }, el("thead", {}, head), body);
const scroll = el(
  "div",
  { class: "table-scroll", tabindex: "0", role: "region", "aria-label": "Pictures and answers" },
  table,
);

let opened = null; // the picture that was looked at last
let rows = new Map(); // picture -> { row, seen }: what is in the table now, and what it showed
let wanted = []; // the pictures that pass the filter

function spacer() {
  const cell = el("td");
  return { row: el("tr", { class: "spacer", "aria-hidden": "true" }, cell), cell };
}

export function showTable() {
  view.append(scroll);
  const renew = oncePerFrame(() => {
    list();
    draw();
  });
  const redraw = oncePerFrame(draw);
  scroll.addEventListener("scroll", redraw, { passive: true });
  new ResizeObserver(redraw).observe(scroll);
  filter.addEventListener("change", renew);
  pictures.changed.on(renew);
  pictures.turned.on(() => {
    renew();
    if (pictures.looked) opened = pictures.looked;
    else requestAnimationFrame(comeBack);
  });
  runner.changed.on(renew);
}

/** To the row of the picture that was looked at, which is the place in the table. */
function comeBack() {
  const place = wanted.indexOf(opened);
  if (view.hidden || place < 0 || document.activeElement !== document.body) return;
  const [top, bottom] = [place * ROW_PX, (place + 1) * ROW_PX - scroll.clientHeight + head.offsetHeight];
  if (scroll.scrollTop > top) scroll.scrollTop = top;
  else if (scroll.scrollTop < bottom) scroll.scrollTop = bottom;
  draw();
  rows.get(opened).row.querySelector("button").focus({ preventScroll: true });
}

/** What the columns are: the prompts that were asked. */
function columns() {
  const tokens = new Set();
  for (const picture of pictures.list) for (const token of picture.answers.keys()) tokens.add(token);
  return [...tokens];
}

const FILTERS = {
  all: () => true,
  open: (answers) => answers.some((answer) => !answer.isOver),
  done: (answers) => answers.length > 0 && answers.every((answer) => answer.state === "done"),
  failed: (answers) => answers.some((answer) => answer.state === "failed" || answer.state === "cancelled"),
};

function list() {
  view.hidden = pictures.list.length === 0 || pictures.looked !== null;
  if (view.hidden) return;
  const tokens = columns();
  const names = ["", "Picture", ...(tokens.length ? tokens.map(bare) : ["Answer"])];
  if (head.dataset.names !== names.join()) {
    head.dataset.names = names.join();
    head.replaceChildren(
      ...names.map((name) => el("th", { scope: "col", text: name, "aria-label": name ? null : "Preview" })),
    );
    table.style.setProperty("--answers", names.length - 2);
    for (const { row } of rows.values()) row.remove();
    rows = new Map();
  }
  const passes = FILTERS[filter.value];
  wanted =
    filter.value === "all" ? pictures.list : pictures.list.filter((picture) => passes([...picture.answers.values()]));
  table.setAttribute("aria-rowcount", wanted.length + 1);
  document.getElementById("table-title").textContent =
    wanted.length === pictures.list.length
      ? plural(wanted.length, "picture")
      : `${wanted.length} of ${plural(pictures.list.length, "picture")}`;
}

function draw() {
  if (view.hidden) return;
  const first = Math.max(0, Math.floor(scroll.scrollTop / ROW_PX) - BEYOND);
  const end = Math.min(wanted.length, Math.ceil((scroll.scrollTop + scroll.clientHeight) / ROW_PX) + BEYOND);
  const inSight = new Set(wanted.slice(first, end));
  for (const [picture, { row }] of rows) {
    if (inSight.has(picture)) continue;
    row.remove();
    rows.delete(picture);
  }
  let before = above.row;
  let place = first;
  const tokens = head.dataset.names.split(",").length - 2;
  for (const picture of inSight) {
    const row = rowFor(picture, tokens);
    row.setAttribute("aria-rowindex", (place += 1) + 1);
    if (before.nextSibling !== row) before.after(row);
    before = row;
  }
  above.cell.style.height = `${first * ROW_PX}px`;
  below.cell.style.height = `${(wanted.length - end) * ROW_PX}px`;
  for (const edge of [above, below]) edge.cell.colSpan = tokens + 2;
}

/** The picture's row, filled anew only where it would look different. */
function rowFor(picture, width) {
  const kept = rows.get(picture);
  const answers = [...picture.answers.values()];
  const seen = answers.map((answer) => `${answer.token} ${answer.state} ${answer.requestId}`).join();
  if (kept?.seen === seen) return kept.row;
  const row = kept?.row ?? newRow(picture);
  const isHeld = row.contains(document.activeElement);
  while (row.children.length > 2) row.lastChild.remove();
  const cells = answers.map(cellOf);
  while (cells.length < width) cells.push(el("td"));
  row.append(...cells);
  if (isHeld) row.querySelector("button").focus({ preventScroll: true });
  rows.set(picture, { row, seen });
  return row;
}

function newRow(picture) {
  const canvas = el("canvas", { class: "thumb", width: 48, height: 48, "aria-hidden": "true" });
  queueMicrotask(() => thumb(picture, canvas)); // once it is on the page
  const [, folder, name] = /^(.*\/)?([^/]*)$/.exec(picture.name);
  const open = el("button", {
    type: "button",
    class: "link",
    text: name,
    title: picture.name,
    click: () => pictures.look(picture),
  });
  const where = el("span", { class: "muted", text: [bytes(picture.file.size), folder].filter(Boolean).join(" · ") });
  return el("tr", {}, el("td", {}, canvas), el("th", { scope: "row" }, open, where));
}

function cellOf(answer) {
  const cell = el("td", { "data-state": answer.state, "data-token": answer.token });
  if (answer.state === "done") cell.append(el("p", { class: "clamp", text: summary(answer) }));
  else if (answer.state === "running") cell.append(el("span", { class: "muted working", text: "Asked" }));
  else if (answer.state === "waiting") cell.append(el("span", { class: "muted", text: "Waiting" }));
  else {
    const words = answer.state === "failed" ? answer.error.message : "Cancelled";
    const label = `Ask ${bare(answer.token)} of ${answer.picture.name} again`;
    const again = el("button", {
      type: "button",
      class: "small",
      text: "Retry",
      "aria-label": label,
      click: () => runner.retry([answer]),
    });
    cell.append(el("p", { class: "clamp problem", text: words, title: words }), again);
  }
  return cell;
}

/** A text, or how many of what. */
function summary(answer) {
  if (typeof answer.result === "string") return answer.result.slice(0, MOST_SHOWN) || "(empty)";
  const tally = new Map();
  for (const { label, kind } of shapesOf(answer.result)) tally.set(label || kind, (tally.get(label || kind) ?? 0) + 1);
  const parts = [...tally].map(([name, times]) => (times > 1 ? `${times} × ${name}` : name));
  return parts.join(", ").slice(0, MOST_SHOWN) || "Nothing found";
}

prompts.changed.on(() => {
  document.getElementById("region-shared-row").hidden = pictures.list.length < 2;
});
