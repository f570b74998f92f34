// Figures and states as people read them.

export const count = (number) => number.toLocaleString("en");

export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

/** 312 kB, 3.4 GB: powers of a thousand, as the hub and disks count. */
export function bytes(number) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (number >= 999.5 && unit < units.length - 1) {
    number /= 1000;
    unit += 1;
  }
  return `${number < 9.95 && unit ? number.toFixed(1) : Math.round(number)} ${units[unit]}`;
}

function sixties(number, large, small) {
  const rest = number % 60;
  return `${count(Math.floor(number / 60))} ${large}${rest ? ` ${rest} ${small}` : ""}`;
}

/** 0.41 s, 12 s, 4 min 32 s, 5 min, 2 h 5 min. */
export function duration(seconds) {
  if (seconds < 1) return `${seconds.toFixed(2)} s`;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  return whole < 3600 ? sixties(whole, "min", "s") : sixties(Math.floor(whole / 60), "h", "min");
}

/** What is left of a long time, rounded so that it does not flicker. */
export function about(seconds) {
  if (seconds < 5) return "a few seconds";
  if (seconds < 90) return `about ${Math.ceil(seconds / 5) * 5} s`;
  if (seconds < 5400) return `about ${Math.round(seconds / 60)} min`;
  return `about ${(seconds / 3600).toFixed(1)} h`;
}

/** "queue 0 · load 0 · decode 4 · encode 30 · generate 142 ms"; "" without any. */
export function stages(timings) {
  const parts = Object.entries(timings).map(([stage, ms]) => `${stage} ${count(Math.round(ms))}`);
  return parts.length ? `${parts.join(" · ")} ms` : "";
}

/** "<MORE_DETAILED_CAPTION>" -> "MORE_DETAILED_CAPTION" */
export const bare = (token) => token.replace(/^<|>$/g, "");

export const PHASES = {
  starting: "starting the worker",
  import: "starting the worker",
  download: "downloading",
  weights: "reading the weights",
  "back-off": "waiting before the next try",
};

/** The state of the server: a key for its colour, a word, a sentence. `status` is null while none is known. */
export function stateOf(status, isGone) {
  if (isGone) return ["gone", "Not answering", "The server does not answer. It is asked again every few seconds."];
  if (status === null) return ["unknown", "Asking", "Asking the server how it is."];
  if (status.draining) return ["unloading", "Shutting down", "The server finishes what it has and takes nothing new."];
  if (status.leaving) return ["unloading", "Leaving soon", "The server is about to shut down. It still answers."];
  switch (status.state) {
    case "ready":
      return status.in_flight
        ? ["busy", "Working", `Working on ${plural(status.in_flight, "request")}.`]
        : ["ready", "Ready", "The model is loaded."];
    case "loading":
      return ["loading", "Loading", `Loading the model: ${PHASES[status.load_phase] ?? status.load_phase}.`];
    case "unloading":
      return ["unloading", "Unloading", "The model is being unloaded."];
    case "failed":
      return ["failed", "Load failed", `The last load failed. ${status.failure ?? ""}`];
    default:
      return ["asleep", "Asleep", "The model is not loaded; the first answer loads it."];
  }
}
