// The page at /docs: reads openapi.json once and draws it, one group for each tag, one folded part for each call.

import { copy, el } from "./dom.js";
import { commands, sample } from "./examples.js";
import { fieldsOf, kindOf, resolved } from "./schemas.js";

const METHODS = ["get", "post", "put", "patch", "delete"];
const BASE = new URL(".", location.href); // with the path below which a proxy may serve it

/** [{tag, calls: [{method, path, operation}]}], in the document's order. */
function grouped(description) {
  const groups = new Map();
  for (const [path, methods] of Object.entries(description.paths)) {
    for (const method of METHODS.filter((one) => one in methods)) {
      const operation = methods[method];
      const tag = operation.tags[0];
      if (!groups.has(tag)) groups.set(tag, []);
      groups.get(tag).push({ method: method.toUpperCase(), path, operation });
    }
  }
  return [...groups].map(([tag, calls]) => ({ tag, calls }));
}

const anchor = (tag) => `group-${tag.toLowerCase().replace(/[^a-z0-9]+/g, "-")}`;

function drawGroup(description, { tag, calls }) {
  const heading = el("h2", { id: anchor(tag) }, tag);
  return el("section", { "aria-labelledby": anchor(tag) }, heading, calls.map((call) => drawCall(description, call)));
}

function drawCall(description, call) {
  const { method, path, operation } = call;
  const title = el(
    "summary",
    {},
    el("span", { class: `method is-${method.toLowerCase()}` }, method),
    el("code", { class: "path" }, path),
    el("span", { class: "about" }, words(operation.summary)),
  );
  return el("details", { id: operation.operationId, class: "call", "data-call": `${method} ${path}` }, title, [
    drawLines(description, call),
    drawParameters(description, operation),
    drawBodies(description, operation),
    drawAnswers(description, operation),
    drawErrors(description, operation),
  ].flat());
}

const part = (title, ...children) => el("section", { class: "part" }, el("h3", {}, title), ...children);
const code = (text) => el("code", {}, text);

/** A sentence in which what stands between backticks is code. */
const words = (text) => text.split("`").map((piece, at) => (at % 2 ? code(piece) : piece));

function drawLines(description, call) {
  const open = call.operation.security?.length === 0;
  const key = open ? "Asks no key." : "Asks the key, where the operator set one.";
  const lines = commands(description, call, BASE).map((line) => {
    const button = el("button", { type: "button", click: () => copied(button, line) }, "Copy");
    return el("div", { class: "lines" }, el("pre", { class: "curl", tabindex: 0 }, line), button);
  });
  return part("With curl", lines, el("p", { class: "muted" }, key));
}

async function copied(button, line) {
  try {
    await copy(line);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Not copied";
  }
}

function drawParameters(description, operation) {
  const rows = operation.parameters.map((one) => {
    const parameter = resolved(description, one);
    const must = parameter.required ? "required" : "";
    return [
      code(parameter.name),
      parameter.in,
      kindOf(description, parameter.schema),
      must,
      words(parameter.description ?? ""),
    ];
  });
  return part("Parameters", columns(["name", "in", "kind", "", "meaning"], rows));
}

function drawBodies(description, operation) {
  const bodies = Object.entries(operation.requestBody?.content ?? {});
  const may = operation.requestBody?.required ? "" : ", which may be left out";
  return bodies.map(([type, { schema }]) =>
    part(`Body: ${type}${may}`, ...drawContent(description, type, schema, "What to send")),
  );
}

function drawAnswers(description, operation) {
  const { content, headers = {} } = operation.responses["200"];
  const answers = Object.entries(content).map(([type, { schema }]) =>
    part(`Answer: ${type}`, ...drawContent(description, type, schema, "What comes back")),
  );
  const rows = Object.entries(headers).map(([name, one]) => [
    code(name),
    words(resolved(description, one).description ?? ""),
  ]);
  return [...answers, part("Headers of the answer", columns(["name", "meaning"], rows))];
}

function drawContent(description, type, schema, title) {
  const found = resolved(description, schema);
  const drawn = [];
  if (found.description) drawn.push(el("p", {}, words(found.description)));
  const rows = fieldsOf(description, schema).map((field) => [
    code(field.name),
    field.kind,
    field.required ? "required" : "",
    words(field.meaning),
  ]);
  if (rows.length) drawn.push(columns(["field", "kind", "", "meaning"], rows));
  if (type === "application/json") {
    const example = JSON.stringify(sample(description, schema), null, 2);
    const label = `${title}, an example`;
    drawn.push(el("pre", { class: "example", role: "group", "aria-label": label, tabindex: 0 }, example));
  } else if (!drawn.length) {
    drawn.push(el("p", {}, kindOf(description, schema)));
  }
  return drawn;
}

function drawErrors(description, operation) {
  const rows = Object.entries(operation.responses)
    .filter(([status]) => status !== "200")
    .map(([status, refusal]) => [code(status), words(refusal.description), codes(description, refusal).map(code)]);
  return part("Errors", columns(["status", "meaning", "codes"], rows));
}

/** The values of `code`, wherever a dialect's errors have it. */
function codes(description, refusal) {
  const found = [];
  const search = (schema) => {
    const { allOf = [], properties = {} } = resolved(description, schema);
    found.push(...(properties.code?.enum ?? []));
    allOf.forEach(search);
    if (properties.error) search(properties.error);
  };
  Object.values(refusal.content).slice(0, 1).forEach(({ schema }) => search(schema));
  return found;
}

/** A table that is scrolled sideways by itself where the window is narrow. */
function columns(titles, rows) {
  const head = el("tr", {}, titles.map((title) => el(title ? "th" : "td", title ? { scope: "col" } : {}, title)));
  const body = rows.map((row) => el("tr", {}, row.map((cell) => el("td", {}, cell))));
  const table = el("table", {}, el("thead", {}, head), el("tbody", {}, body));
  return el("div", { class: "wide", tabindex: 0, role: "group", "aria-label": titles[0] }, table);
}

function openNamed() {
  const call = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (call instanceof HTMLDetailsElement) call.open = true;
  call?.scrollIntoView();
}

function draw(description) {
  const groups = grouped(description);
  document.getElementById("version").textContent = description.info.version;
  document.getElementById("groups").append(...groups.map(({ tag }) => el("a", { href: `#${anchor(tag)}` }, tag)));
  const about = description.info.description.split("\n\n").map((text) => el("p", {}, words(text)));
  const lines = el(
    "p",
    {},
    "The lines for curl are for a POSIX shell, beside a ",
    code("picture.png"),
    ". To a server with a key they are said with ",
    code("-H 'X-API-Key: ...'"),
    ".",
  );
  document.getElementById("calls").append(...about, lines, ...groups.map((group) => drawGroup(description, group)));
}

async function main() {
  const state = document.getElementById("state");
  try {
    const response = await fetch("openapi.json");
    if (!response.ok) throw new Error(`the server answered ${response.status}`);
    draw(await response.json());
    state.remove();
    openNamed();
  } catch (error) {
    state.textContent = `The description cannot be read: ${error.message}. Load the page again when the server is there.`;
  }
  document.getElementById("calls").removeAttribute("aria-busy");
}

window.addEventListener("hashchange", openNamed);
main();
