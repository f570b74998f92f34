// The server at a glance: model, state, loading, queue, time to unload, memory, timings; loading and unloading.

import { Refused } from "./api.js";
import { announce, el, put } from "./dom.js";
import { runner } from "./runner.js";
import { server } from "./server.js";
import { bytes, count, duration, plural, stages, stateOf } from "./words.js";

const id = (name) => document.getElementById(name);
const glance = id("glance");
const UNKNOWN = ["–", "–", "–"]; // what only a server that answers can say
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
  put(id("state"), server.refusal ? "No access" : word);
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
  const words = now === "ready" ? "The model is loaded." : key === "gone" ? sentence : `${word}. ${sentence}`;
  if (told !== null) announce(words);
  told = now;
  if (now !== "failed") id("act-note").hidden = true; // what went wrong is over
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
  const { last } = runner;
  const now = server.isGone ? UNKNOWN : [queueOf(status), untilUnload(status), memoryOf(status)];
  const rows = [
    ["Queue", now[0], `${count(status.queue_capacity)} may wait`],
    ["Unloads", now[1], ""],
    ["Memory", now[2], ""],
    ["Last load", status.last_load_s === null ? "–" : duration(status.last_load_s), plural(status.loads, "load")],
    ["Last answer", last ? duration(last.seconds) : "–", ""],
  ];
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

function queueOf(status) {
  const waits = status.queue_depth ? `${count(status.queue_depth)} waiting` : "empty";
  return `${waits} · ${status.in_flight} at work`;
}

function memoryOf({ worker_rss_bytes: own, worker_device_bytes: device }) {
  const held = [own && bytes(own), device && `${bytes(device)} on the device`].filter(Boolean);
  return held.join(" + ") || "none held";
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
    await server.askNow();
    const isBusy = error instanceof Refused && error.status === 409;
    put(id("act-words"), isBusy ? "The model is in use." : error.message);
    id("unload-forced").hidden = !isBusy;
    id("act-note").hidden = server.isGone || server.status?.state === "failed"; // which is said as it is
  } finally {
    acting = null;
    server.askNow();
    draw();
    if (isHeld && document.activeElement === document.body) (id("load").hidden ? id("unload") : id("load")).focus();
  }
}
