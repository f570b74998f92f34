// What the model offers, grouped and explained, and what of it is chosen, with its text.

import { call } from "./api.js";
import { el, put, Signal } from "./dom.js";
import { server } from "./server.js";
import { bare } from "./words.js";

// By kind, since a checkpoint may bring prompts that nobody has heard of. The first that fits has it.
const GROUPS = [
  ["Read text", (prompt) => /OCR/i.test(prompt.token)],
  ["Ask about a rectangle", (prompt) => prompt.input === "region"],
  ["Find and outline", (prompt) => prompt.answer !== "text"],
  ["Tags and prompts", (prompt) => /^PromptGen/.test(prompt.explanation)],
  ["Questions", (prompt) => prompt.input === "text"],
  ["Describe", (prompt) => /CAPTION|DESCRI/i.test(prompt.token)],
  ["Of this model alone", () => true],
];
const ORDER = [5, 2, 0, 1, 3, 4, 6]; // of the groups, as they are shown

export const prompts = {
  catalog: [], // rows of /prompts?all=1, each with isAdvised
  chosen: new Map(), // token -> its text
  changed: new Signal(), // of the choice or of a text

  /** Reads what `model` offers. Throws as `call`. */
  async read(model) {
    const query = model ? `model=${encodeURIComponent(model)}` : "";
    const [advised, every] = await Promise.all([call(`prompts?${query}`), call(`prompts?all=1&${query}`)]);
    const catalog = every.body.map((prompt) => ({ ...prompt, isAdvised: advised.body.includes(prompt.token) }));
    if (JSON.stringify(catalog) === JSON.stringify(this.catalog)) return; // whoever is in the list stays there
    this.catalog = catalog;
    for (const token of this.chosen.keys()) if (!this.find(token)) this.chosen.delete(token);
    const first = this.catalog.find((prompt) => prompt.token === "<CAPTION>") ?? this.catalog[0];
    if (!this.chosen.size && first) this.chosen.set(first.token, "");
    show();
    this.changed.emit();
  },

  find(token) {
    return this.catalog.find((prompt) => prompt.token === token);
  },

  /** What is asked of each picture, in the order of the catalog; `fields` go with every request. */
  asks(fields) {
    const chosen = this.catalog.filter((prompt) => this.chosen.has(prompt.token));
    return chosen.map(({ token, input }) => ({ token, input, text: this.chosen.get(token).trim(), fields }));
  },

  get takeRegion() {
    return [...this.chosen.keys()].some((token) => this.find(token)?.input === "region");
  },

  /** What keeps the choice from being asked, in words; null when nothing does. */
  get lack() {
    if (!this.chosen.size) return "Choose a prompt.";
    const empty = [...this.chosen].find(([token, text]) => this.find(token)?.input === "text" && !text.trim());
    return empty ? `${bare(empty[0])} needs a text.` : null;
  },
};

const list = document.getElementById("prompts");
const search = document.getElementById("search");
const all = document.getElementById("all-prompts");

/** Builds the list; choosing and searching change only what is there, so that nobody loses the place. */
function show() {
  const grouped = GROUPS.map(([title]) => ({ title, rows: [] }));
  for (const prompt of prompts.catalog) {
    grouped[GROUPS.findIndex(([, fits]) => fits(prompt))].rows.push(prompt);
  }
  const inOrder = ORDER.map((place) => grouped[place]).filter((group) => group.rows.length);
  list.replaceChildren(
    ...inOrder.map(({ title, rows }) =>
      el("fieldset", { class: "group" }, el("legend", { text: title }), rows.map(rowOf)),
    ),
  );
  document.getElementById("all-prompts-row").hidden = prompts.catalog.every((prompt) => prompt.isAdvised);
  filter();
}

function rowOf(prompt) {
  const id = `prompt-${bare(prompt.token)}`;
  const field = prompt.input === "text" || prompt.input === "optional_text" ? fieldOf(prompt, id) : null;
  const box = el("input", {
    type: "checkbox",
    id,
    "aria-describedby": `${id}-means`,
    change: () => {
      if (box.checked) prompts.chosen.set(prompt.token, field?.value ?? "");
      else prompts.chosen.delete(prompt.token);
      if (field) field.hidden = !box.checked;
      if (box.checked) field?.focus();
      note();
    },
  });
  box.checked = prompts.chosen.has(prompt.token);
  if (field) field.hidden = !box.checked;
  const title = el("label", { for: id, text: bare(prompt.token) });
  const means = el("p", { id: `${id}-means`, text: prompt.explanation.replace(/^[A-Z][\w-]+: /, "") });
  return el("div", { class: "prompt", "data-token": prompt.token }, box, el("div", {}, title, means, field));
}

function fieldOf(prompt, id) {
  const isQuestion = /question/.test(prompt.explanation);
  const field = el("input", {
    type: "text",
    id: `${id}-text`,
    "aria-label": `Text for ${bare(prompt.token)}`,
    placeholder: prompt.input === "optional_text" ? "Text, if it takes one" : isQuestion ? "Your question" : "Text",
    maxlength: 16384,
    autocomplete: "off",
    input: () => {
      prompts.chosen.set(prompt.token, field.value);
      note();
    },
  });
  field.value = prompts.chosen.get(prompt.token) ?? "";
  return field;
}

function note() {
  filter();
  prompts.changed.emit();
}

/** Shows the rows that are advised or chosen, or all, and of these what is searched for. */
function filter() {
  const words = search.value.toLowerCase().split(/\s+/);
  let shown = 0;
  for (const row of list.querySelectorAll(".prompt")) {
    const { token, explanation, isAdvised } = prompts.find(row.dataset.token);
    const text = `${token} ${explanation}`.toLowerCase();
    const isWanted =
      (isAdvised || all.checked || prompts.chosen.has(token)) && words.every((word) => text.includes(word));
    row.hidden = !isWanted;
    shown += isWanted;
  }
  for (const group of list.children) group.hidden = !group.querySelector(".prompt:not([hidden])");
  put(document.getElementById("none-found"), shown ? "" : "No prompt is called so.");
  const { size } = prompts.chosen;
  put(document.getElementById("chosen"), size > 1 ? `${size} chosen, answered side by side` : "");
}

search.addEventListener("input", filter);
all.addEventListener("change", filter);
document.getElementById("none").addEventListener("click", () => {
  prompts.chosen.clear();
  for (const box of list.querySelectorAll("input[type=checkbox]")) box.checked = false;
  for (const field of list.querySelectorAll("input[type=text]")) field.hidden = true;
  note();
});
server.restarted.on(() => prompts.read(document.getElementById("model").value).catch(() => {}));
