// Where it begins: the parts are put together, and asking is started by button or key.

import { announce, put } from "./dom.js";
import { takeFiles } from "./files.js";
import { showGlance } from "./glance.js";
import { askForKeys } from "./key.js";
import { showPictures } from "./picture.js";
import { pictures } from "./pictures.js";
import { showProgress } from "./progress.js";
import { prompts } from "./prompts.js";
import { runner } from "./runner.js";
import { server } from "./server.js";
import { showTable } from "./table.js";
import { plural } from "./words.js";

const id = (name) => document.getElementById(name);
const run = id("run");
let isReading = false; // of the prompts

takeFiles();
askForKeys();
showGlance();
showProgress();
showTable();
showPictures();

/** What goes with every request, beside picture and prompt. */
function fields() {
  const given = {};
  if (server.status?.models.length > 1) given.model = id("model").value;
  for (const name of ["num_beams", "max_new_tokens"]) if (id(name).value) given[name] = id(name).value;
  return given;
}

function ask() {
  const lack = whatLacks();
  if (lack) {
    put(id("run-note"), lack);
    return announce(lack);
  }
  runner.ask(pictures.looked ? [pictures.looked] : pictures.list, prompts.asks(fields()));
  if (matchMedia("(max-width: 56rem)").matches) id("work").scrollIntoView({ behavior: isCalm() ? "auto" : "smooth" });
}

const isCalm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

function whatLacks() {
  if (!pictures.list.length) return "Bring in a picture first.";
  if (prompts.lack) return prompts.lack;
  const asked = pictures.looked ? [pictures.looked] : pictures.list;
  if (prompts.takeRegion && asked.every((picture) => !picture.region)) return "Draw a rectangle on the picture first.";
  const wrong = [id("num_beams"), id("max_new_tokens")].find((field) => !field.checkValidity());
  return wrong ? `${wrong.labels[0].textContent}: ${wrong.validationMessage}` : null;
}

function drawRun() {
  const size = pictures.looked ? 1 : pictures.list.length;
  put(run, size > 1 ? `Run on ${plural(size, "picture")}` : "Run");
  put(id("run-note"), (pictures.list.length && whatLacks()) || "");
  id("empty").hidden = pictures.list.length > 0;
  id("region-shared-row").hidden = pictures.list.length < 2;
}

async function readPrompts() {
  if (isReading) return;
  isReading = true;
  try {
    await prompts.read(id("model").value);
    id("no-prompts").hidden = true;
  } catch (error) {
    tellNoPrompts(error.message);
  } finally {
    isReading = false;
  }
}

function tellNoPrompts(why) {
  put(id("no-prompts"), `The prompts are not known yet. ${why}`);
  id("no-prompts").hidden = false;
}

run.addEventListener("click", ask);
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) ask();
  else if (event.key === "Enter" && event.target.matches("#prompts input[type=text]")) ask();
});
id("model").addEventListener("change", readPrompts);
for (const name of ["num_beams", "max_new_tokens"]) id(name).addEventListener("input", drawRun);
for (const signal of [pictures.changed, pictures.turned, pictures.drawn, prompts.changed]) signal.on(drawRun);
server.changed.on(() => {
  if (prompts.catalog.length) return;
  if (server.isGone || server.refusal) tellNoPrompts(server.refusal?.message ?? "The server does not answer.");
  else if (server.status) void readPrompts();
});
addEventListener("beforeunload", (event) => {
  if (runner.progress.open) event.preventDefault();
});
drawRun();
server.start();
