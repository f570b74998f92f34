// How the server is: asked often while something happens, seldom while nothing does, never while nobody looks.

import { call, Gone, Refused } from "./api.js";
import { Signal } from "./dom.js";

const BUSY_MS = 700;
const CALM_MS = 3000;

export const server = {
  status: null, // the body of GET /status
  isGone: false,
  askedAtMs: 0, // when `status` was true
  refusal: null, // why /status is not told, e.g. for want of a key
  changed: new Signal(),
  restarted: new Signal(), // a daemon answers that has not answered before
  isWatched: false, // somebody waits for answers here

  /** Ask now, and again and again. */
  start() {
    document.addEventListener("visibilitychange", () => document.hidden || this.askNow());
    this.askNow();
  },

  askNow() {
    clearTimeout(timer);
    if (!underWay)
      underWay = ask().finally(() => {
        underWay = null;
        if (!document.hidden || this.isWatched)
          timer = setTimeout(() => this.askNow(), this.isBusy ? BUSY_MS : CALM_MS);
      });
    return underWay;
  },

  get isBusy() {
    const status = this.status;
    if (this.isGone || this.isWatched || status === null) return true;
    return status.in_flight + status.queue_depth > 0 || ["loading", "unloading"].includes(status.state);
  },

  /** The place in the server's queue of a request of ours, from 1; null when it does not wait there. */
  placeOf(requestId) {
    return this.status?.queue.find((waiting) => waiting.request_id === requestId)?.position ?? null;
  },

  load: (model) => act(`load?model=${encodeURIComponent(model)}`),
  unload: (isForced) => act(isForced ? "unload?force=1" : "unload"),
};

let timer;
const known = new Set(); // the daemons that have answered, of which a proxy may have several
let underWay = null;

async function act(path) {
  setTimeout(() => server.askNow(), 150); // the answer comes when it is done; meanwhile there is something to see
  const { body } = await call(path, { method: "POST" });
  take(body);
}

async function ask() {
  try {
    take((await call("status")).body);
  } catch (error) {
    if (error instanceof Refused) server.refusal = error;
    else if (error instanceof Gone) server.isGone = true;
    else throw error;
  }
  server.changed.emit();
}

function take(status) {
  const isAnother = known.size > 0 && !known.has(status.instance_id);
  known.add(status.instance_id);
  Object.assign(server, { status, isGone: false, refusal: null, askedAtMs: Date.now() });
  server.changed.emit();
  if (isAnother) server.restarted.emit();
}
