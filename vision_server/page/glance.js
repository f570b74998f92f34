// The server at a glance: model, state, loading, queue, time to unload, memory, timings; loading and unloading.

import { Refused } from "./api.js";
import { announce, el, put } from "./dom.js";
import { runner } from "./runner.js";
import { server } from "./server.js";
import { bytes, count, duration, plural, stages, stateOf } from "./words.js";

const id = (name) => document.getElementById(name);
const glance = id("glance");
let told = null; // the state, last
let acting = null; // "load" or "unload", while the server is at it

export function showGlance() {
  server.changed.on(draw);
  runner.changed.on((answer) => answer?.state === "done" && drawFigures());
  // The time to unload runs on between two looks at the server.
  setInterval(() => !document.hidden && server.status && drawFigures(), 1000);
  id("load").addEventListener("click", () => act("load", () => server.load(id("model").value)));
  id("unload").addEventListener("click", () => act("unload", () => server.unload(false)));
  id("unload-forced").addEventListener("click", () => act("unload", () => server.unload(true)));
  draw();
}

function draw() {
  const { status } = server;
  const [key, word, sentence] = stateOf(status, server.isGone);
  glance.dataset.state = key;
  put(id("state"), word);
  put(id("sentence"), server.refusal ? server.refusal.message : sentence);
  tell(key, word, sentence);
  if (!status) return;
  const where = status.state === "ready" ? `${status.device} · ${status.dtype}` : "";
  put(id("model-name"), status.model);
  put(id("device"), where);
  drawLoading(status);
  drawFigures();
  drawModels(status.models);
  const isAwake = status.state === "ready";
  id("load").hidden = isAwake || acting === "unload";
  id("load").disabled = server.isGone || status.draining || status.state === "loading" || status.state === "unloading";
  id("unload").hidden = !isAwake;
  id("unload").disabled = server.isGone || status.draining || acting !== null;
  const isAsleep = key === "asleep" && !status.loads;
  id("first-visit").hidden = !isAsleep;
}

/** What a screen reader is told of the state. That it works or is done with one request is not worth a word. */
function tell(key, word, sentence) {
  if (key === "unknown") return;
  const now = key === "busy" ? "ready" : key;
  if (told === now) return;
  if (told !== null) announce(key === "gone" ? sentence : `${word}. ${sentence}`);
  told = now;
  if (["ready", "asleep", "loading"].includes(now)) id("act-note").hidden = true; // what went wrong is over
}

function drawLoading(status) {
  const isLoading = status.state === "loading" && !server.isGone;
  id("loading").hidden = !isLoading;
  if (!isLoading) return;
  const { load_bytes_done: done, load_bytes_total: total } = status;
  const bar = id("loading-bar");
  if (total) Object.assign(bar, { max: total, value: Math.min(done, total) });
  else bar.removeAttribute("value"); // moves without saying how far it is
  put(id("loading-bytes"), total ? `${bytes(done)} of ${bytes(total)}` : done ? bytes(done) : "");
}

function drawFigures() {
  const { status } = server;
  if (!status) return;
  const waits = status.queue_depth ? `${count(status.queue_depth)} waiting` : "empty";
  const figures = [["Queue", `${waits} · ${status.in_flight} at work`, `${count(status.queue_capacity)} may wait`]];
  figures.push(["Unloads", untilUnload(status)]);
  const memory = [status.worker_rss_bytes, status.worker_device_bytes];
  const held = [memory[0] && bytes(memory[0]), memory[1] && `${bytes(memory[1])} on the device`].filter(Boolean);
  figures.push(["Memory", held.join(" + ") || "none held"]);
  figures.push([
    "Last load",
    status.last_load_s === null ? "–" : duration(status.last_load_s),
    plural(status.loads, "load"),
  ]);
  const { last } = runner;
  figures.push(["Last answer", last ? duration(last.seconds) : "–"]);
  const rows = figures.map(([name, value, more]) => [name, value, more ?? ""]);
  const list = id("figures");
  if (list.children.length !== rows.length) {
    list.replaceChildren(...rows.map(([name]) => el("div", {}, el("dt", { text: name }), el("dd"))));
  }
  rows.forEach(([, value, more], place) => {
    put(list.children[place].lastChild, value);
    list.children[place].title = more;
  });
  put(id("stages"), last ? stages(last.timings) : "");
}

function untilUnload(status) {
  if (status.state !== "ready") return "–";
  if (status.in_flight + status.queue_depth) return "not while at work";
  if (status.idle_unload_in_s === null) return "never by itself";
  const seconds = Math.round(status.idle_unload_in_s - (Date.now() - server.askedAtMs) / 1000);
  return seconds < 1 ? "in a moment" : seconds < 60 ? `in ${seconds} s` : `in ${duration(seconds)}`;
}

/** Several checkpoints can be chosen from; one is only named. */
function drawModels(models) {
  const choice = id("model");
  if ([...choice.options].map((option) => option.value).join("\n") === models.join("\n")) return;
  choice.replaceChildren(...models.map((model) => el("option", { value: model, text: model })));
  id("model-row").hidden = models.length < 2;
}

async function act(what, request) {
  acting = what;
  const isHeld = glance.contains(document.activeElement);
  id("act-note").hidden = true;
  draw();
  try {
    await request();
  } catch (error) {
    put(id("act-words"), error.message);
    id("unload-forced").hidden = !(error instanceof Refused && error.status === 409);
    id("act-note").hidden = false;
  } finally {
    acting = null;
    server.askNow();
    draw();
    if (isHeld && document.activeElement === document.body) (id("load").hidden ? id("unload") : id("load")).focus();
  }
}
