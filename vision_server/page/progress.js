// How far the asking is: a bar, the time left, what it waits for, what failed; and the download of all answers.

import { announce, oncePerFrame, put } from "./dom.js";
import { saveZip } from "./download.js";
import { pictures } from "./pictures.js";
import { runner } from "./runner.js";
import { about, count, plural } from "./words.js";

const STEPS = 10; // of a long run, that a screen reader is told of
const QUIET_MS = 5000; // at least, between two of them

const part = Object.fromEntries(
  [
    "progress",
    "bar",
    "tally",
    "left",
    "cancel",
    "retry",
    "hold",
    "hold-why",
    "hold-time",
    "go-on",
    "zip",
    "zip-kinds",
    "zip-save",
    "zip-note",
  ].map((id) => [id, document.getElementById(id)]),
);
const told = { step: "", hold: null, atMs: 0 }; // what was said last, and when
let saving = null; // the AbortController of a zip that is being made

export function showProgress() {
  const redraw = oncePerFrame(draw);
  runner.changed.on(redraw);
  pictures.changed.on(redraw);
  setInterval(() => runner.hold && redraw(), 500);
  part.cancel.addEventListener("click", () => runner.cancel());
  part.retry.addEventListener("click", () => runner.retry(unanswered()));
  part["go-on"].addEventListener("click", () => runner.goOn());
  part.zip.addEventListener("click", () => openZip(part["zip-kinds"].hidden));
  part["zip-save"].addEventListener("click", zip);
}

const unanswered = () => runner.run.filter((answer) => answer.state === "failed" || answer.state === "cancelled");

function draw() {
  const now = runner.progress;
  const over = now.total - now.open;
  const focused = part.progress.contains(document.activeElement) ? document.activeElement : null;
  part.progress.hidden = now.total === 0;
  part.bar.max = now.total || 1;
  part.bar.value = over;
  part.bar.hidden = now.open === 0;
  const troubles = [now.failed && `${count(now.failed)} failed`, now.cancelled && `${count(now.cancelled)} cancelled`];
  const tally = [`${count(now.done)} of ${plural(now.total, "answer")}`, ...troubles.filter(Boolean)].join(" · ");
  put(part.tally, tally);
  put(part.left, now.open && now.secondsLeft !== null && !runner.hold ? `${about(now.secondsLeft)} left` : "");
  part.cancel.hidden = now.open === 0;
  part.retry.hidden = now.failed + now.cancelled === 0;
  put(part.retry, `Retry ${count(now.failed + now.cancelled)}`);
  part.zip.hidden = now.done === 0;
  if (part.zip.hidden) openZip(false);
  drawHold(now.open);
  if (focused?.closest("[hidden]")) [part.cancel, part.retry, part.zip].find((one) => !one.hidden)?.focus();
  tell(now, tally);
}

function tell(now, tally) {
  const over = now.total - now.open;
  const step = `${now.total} ${now.open ? Math.floor((over * STEPS) / now.total) : "over"}`;
  if (!now.total || told.step === step) return;
  told.step = step;
  if (!over || (now.open && Date.now() < told.atMs + QUIET_MS)) return;
  told.atMs = Date.now();
  announce(now.open ? tally : `Finished: ${tally}.`);
}

function openZip(isOpen) {
  part["zip-kinds"].hidden = !isOpen;
  part.zip.setAttribute("aria-expanded", isOpen);
}

function drawHold(open) {
  const { hold } = runner;
  part.hold.hidden = !hold;
  if (hold && hold.why !== told.hold) announce(hold.why);
  told.hold = hold?.why ?? (open ? told.hold : null); // a queue that is full again and again is said once
  if (!hold) return;
  put(part["hold-why"], hold.why);
  const seconds = Math.max(0, Math.ceil((hold.untilMs - Date.now()) / 1000));
  put(part["hold-time"], hold.isGone ? "" : `Trying again in ${seconds} s.`);
}

async function zip() {
  if (saving) return saving.abort();
  const endings = ["txt", "json", "png"].filter((ending) => document.getElementById(`zip-${ending}`).checked);
  saving = new AbortController();
  put(part["zip-save"], "Cancel");
  const report = (done) => put(part["zip-note"], `${count(done)} of ${plural(pictures.list.length, "picture")} packed`);
  let outcome = "Saved as answers.zip.";
  try {
    await saveZip(pictures.list, endings, report, saving.signal);
  } catch (error) {
    if (!saving.signal.aborted && !(error instanceof RangeError)) throw error;
    outcome = saving.signal.aborted ? "Cancelled." : error.message;
  } finally {
    saving = null;
    put(part["zip-save"], "Save zip");
  }
  put(part["zip-note"], outcome);
  announce(outcome);
}
