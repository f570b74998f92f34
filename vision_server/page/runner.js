// Asking: a few requests at a time, waiting when the server says so, and nothing lost when it goes away.

import { call, Gone, newId, Refused, timingsOf } from "./api.js";
import { Signal } from "./dom.js";
import { pictures } from "./pictures.js";
import { server } from "./server.js";

// Browsers keep six connections to a server; two are left for its status and for loading. A full decoder takes more,
// but so many pictures on their way are enough to keep it from waiting.
const PARALLEL = 4;
const TRIES_WHERE_IT_CANNOT_SERVE = 3; // 503 for a load that fails: it may be mended, or not
const TRIES_OF_SENDING = 3; // broken connections to a server that answers otherwise
const PACE_OF_LAST = 40; // answers, that the time left is told by
const GONE_WAIT_S = 2;
const GONE_WORDS = "The server does not answer. What is open goes on when it is back.";

/** One prompt about one picture. `state`: waiting, running, done, failed, cancelled. */
export class Answer {
  constructor(picture, ask) {
    Object.assign(this, { picture, ...ask, state: "waiting", result: null, error: null, seconds: null, timings: {} });
    this.region = null; // [x1, y1, x2, y2] in pixels, where one was asked about
    this.requestId = null;
    this.refusals = 0;
    this.brokenSends = 0;
  }

  get isOver() {
    return this.state === "done" || this.state === "failed" || this.state === "cancelled";
  }
}

export const runner = {
  changed: new Signal(), // of any answer: called with it, or with null for many
  run: [], // the answers that were asked for last, and those that were still open
  hold: null, // { untilMs, why, isGone }: nothing starts before that, or before the server is back
  last: null, // the answer that came last

  /** Ask all `asks` (see prompts.js) about all pictures. What is still open of before stays in the queue. */
  ask(asked, asks) {
    const isFresh = this.run.every((answer) => answer.isOver);
    if (isFresh) begin();
    const added = asked.flatMap((picture) => {
      for (const answer of picture.answers.values()) if (!answer.isOver) end(answer, "cancelled");
      picture.answers = new Map(asks.map((ask) => [ask.token, new Answer(picture, ask)]));
      return [...picture.answers.values()];
    });
    this.run = [...(isFresh ? [] : this.run.filter(isCurrent)), ...added];
    waiting.push(...added);
    this.changed.emit(null);
    server.isWatched = true;
    server.askNow();
    fill();
  },

  retry(answers) {
    if (!this.run.some((answer) => !answer.isOver)) begin();
    for (const answer of answers) {
      Object.assign(answer, { state: "waiting", error: null, refusals: 0, brokenSends: 0 });
      if (!this.run.includes(answer)) this.run.push(answer);
      waiting.push(answer);
    }
    this.changed.emit(null);
    server.isWatched = true;
    fill();
  },

  /** Give up what is open: what waits never leaves, what runs is broken off, which the server notices. */
  cancel(answers = this.run) {
    for (const answer of answers) if (!answer.isOver) end(answer, "cancelled");
    waiting = waiting.filter((answer) => !answer.isOver);
    finishIfDone();
    this.changed.emit(null);
  },

  /** What is held does not wait any longer. */
  goOn() {
    if (!this.hold) return;
    clearTimeout(holdTimer);
    this.hold = null;
    this.changed.emit(null);
    fill();
  },

  get progress() {
    const tally = { total: this.run.length, done: 0, failed: 0, cancelled: 0, running: 0, waiting: 0 };
    for (const answer of this.run) tally[answer.state] += 1;
    return { ...tally, open: tally.running + tally.waiting, secondsLeft: secondsLeft(tally.running + tally.waiting) };
  },
};

let waiting = [];
const running = new Map(); // answer -> its AbortController
let parallel = PARALLEL;
let holdTimer;
let wasGone = false;
let beganMs = 0;
let ends = []; // when the last answers came, ms

// A server that comes back, or another in its place, need not wait as long as the one that left said.
server.changed.on(() => {
  if (server.isGone && runner.hold) hold(GONE_WAIT_S, GONE_WORDS, true);
  if (!server.isGone && (wasGone || runner.hold?.isGone)) runner.goOn();
  wasGone = server.isGone;
});
server.restarted.on(() => runner.goOn());

pictures.changed.on(() => {
  const here = new Set(pictures.list);
  const left = runner.run.filter((answer) => !here.has(answer.picture));
  if (!left.length) return;
  runner.run = runner.run.filter((answer) => here.has(answer.picture));
  runner.cancel(left);
});

function begin() {
  beganMs = Date.now();
  ends = [];
  parallel = PARALLEL;
}

/** Whether it is what its picture shows for its prompt: a newer one replaces it. */
function isCurrent(answer) {
  return answer.picture.answers.get(answer.token) === answer;
}

function end(answer, state) {
  answer.state = state;
  running.get(answer)?.abort();
}

function fill() {
  while (!runner.hold && running.size < parallel && waiting.length) {
    const answer = waiting.shift();
    if (!answer.isOver) void start(answer);
  }
}

async function start(answer) {
  const abort = new AbortController();
  running.set(answer, abort);
  answer.state = "running";
  answer.requestId = newId();
  runner.changed.emit(answer);
  const startedMs = performance.now();
  try {
    const { body, headers } = await send(answer, abort.signal);
    answer.timings = timingsOf(headers.get("Server-Timing"));
    Object.assign(answer, { state: "done", result: body.result, seconds: (performance.now() - startedMs) / 1000 });
    runner.last = answer;
    ends = [...ends.slice(1 - PACE_OF_LAST), Date.now()];
  } catch (error) {
    if (!abort.signal.aborted) await fail(answer, error);
  } finally {
    if (running.get(answer) === abort) running.delete(answer);
  }
  finishIfDone();
  runner.changed.emit(answer);
  fill();
}

async function send(answer, signal) {
  const region = answer.input === "region" ? await regionOf(answer) : null;
  const form = new FormData();
  // Read now: what cannot be read any more then fails here and does not look like a lost connection.
  form.append("image", new Blob([await readFile(answer.picture.file)]), "picture");
  form.append("prompt", answer.token);
  if (answer.text) form.append("text_input", answer.text);
  if (region) form.append("region", region);
  for (const [name, value] of Object.entries(answer.fields)) form.append(name, value);
  return call("process_image", { method: "POST", body: form, signal, requestId: answer.requestId });
}

/** In pixels; of a picture that this browser cannot show, and so cannot measure, in thousandths of its sides. */
async function regionOf(answer) {
  const { picture } = answer;
  if (!picture.region) throw new Unanswerable("Draw a rectangle on this picture first.");
  await picture.measure();
  if (picture !== pictures.looked) picture.release();
  answer.region = picture.regionPixels;
  const bin = (share) => `<loc_${Math.min(999, Math.floor(share * 1000))}>`;
  return answer.region?.join(",") ?? picture.region.map(bin).join("");
}

/** Why a picture cannot even be sent. */
class Unanswerable extends Error {}

async function readFile(file) {
  try {
    return await file.arrayBuffer();
  } catch {
    throw new Unanswerable("The file cannot be read any more: it was moved, changed or deleted. Choose it again.");
  }
}

/** An answer that did not come: again later, where that can help, else it is marked as failed. */
async function fail(answer, error) {
  if (error instanceof Gone) {
    await server.askNow(); // is it the server, or only this connection?
    if (answer.isOver) return; // cancelled meanwhile
    answer.brokenSends += server.isGone ? 0 : 1;
    if (answer.brokenSends < TRIES_OF_SENDING) {
      later(answer, GONE_WAIT_S, GONE_WORDS, server.isGone);
    } else {
      answer.error = new Error("The connection broke while the picture was sent. It may be too large for the server.");
      answer.state = "failed";
    }
  } else if (error instanceof Refused && error.retryAfterS && mayAskAgain(answer, error)) {
    parallel = error.status === 429 ? Math.max(1, parallel - 1) : parallel;
    later(answer, error.retryAfterS, error.message, false);
  } else {
    answer.state = "failed";
    answer.error = error;
  }
}

/** A full queue empties, and a server that leaves is replaced; what cannot be loaded is tried a few times. */
function mayAskAgain(answer, error) {
  if (error.status === 503 && error.code !== "unavailable") answer.refusals += 1;
  return answer.refusals < TRIES_WHERE_IT_CANNOT_SERVE;
}

function later(answer, seconds, why, isGone) {
  answer.state = "waiting";
  waiting.unshift(answer);
  hold(seconds, why, isGone);
}

function hold(seconds, why, isGone) {
  const untilMs = Math.max(runner.hold?.untilMs ?? 0, Date.now() + seconds * 1000);
  runner.hold = { untilMs, why, isGone };
  clearTimeout(holdTimer);
  if (!isGone) holdTimer = setTimeout(() => runner.goOn(), untilMs - Date.now());
}

function finishIfDone() {
  if (running.size || waiting.length) return;
  clearTimeout(holdTimer);
  runner.hold = null;
  server.isWatched = false;
  void server.askNow();
}

/** By the pace of the last answers; null while it is not known. */
function secondsLeft(open) {
  if (!open || !ends.length) return null;
  const [firstMs, count] = ends.length > 5 ? [ends[0], ends.length - 1] : [beganMs, ends.length];
  return (open * (ends.at(-1) - firstMs)) / count / 1000;
}
