// The server's public calls, by fetch. All that can go wrong comes out as one of two errors.

const KEY = "vision-server-key"; // in sessionStorage: for this tab, until it is closed

/** The server refused: `message` is its own sentence. `retryAfterS` is null where asking again is of no use. */
export class Refused extends Error {
  constructor(message, status, code, retryAfterS, requestId) {
    super(message);
    Object.assign(this, { status, code, retryAfterS, requestId });
  }
}

/** Nobody answers, or a proxy says so. */
export class Gone extends Error {}

let askForKey = async () => false;
let asking = null;

/** `ask(message)` lets a person enter a key and resolves to whether one was. One such question is open at a time. */
export function onKeyWanted(ask) {
  askForKey = ask;
}

export function keepKey(key) {
  sessionStorage.setItem(KEY, key);
}

/** An id that finds a request again in the server's queue and log. */
export function newId() {
  const words = crypto.getRandomValues(new Uint32Array(3));
  return `page-${[...words].map((word) => word.toString(16).padStart(8, "0")).join("")}`;
}

/** The answer to a call, as { body, headers }. Throws Refused, Gone, or AbortError when `signal` says so. */
export async function call(path, { method = "GET", body, signal, requestId } = {}) {
  for (;;) {
    const used = sessionStorage.getItem(KEY);
    const headers = { Accept: "application/json" };
    if (used) headers["X-API-Key"] = used;
    if (requestId) headers["X-Request-Id"] = requestId;
    const response = await send(path, { method, body, signal, headers, cache: "no-store" });
    const said = await read(response, signal);
    if (response.ok) return { body: said, headers: response.headers };
    const refusal = refusalOf(response, said);
    const isChanged = sessionStorage.getItem(KEY) !== used; // somebody entered a key meanwhile
    if (refusal.status !== 401 || !(isChanged || (await wantKey(refusal.message)))) throw refusal;
    signal?.throwIfAborted();
  }
}

async function send(path, request) {
  try {
    return await fetch(path, request);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Gone("The server does not answer.");
  }
}

async function read(response, signal) {
  try {
    const text = await response.text();
    return response.headers.get("Content-Type")?.startsWith("application/json") ? JSON.parse(text) : null;
  } catch {
    signal?.throwIfAborted();
    throw new Gone("The answer broke off.");
  }
}

function refusalOf(response, said) {
  if (said?.error === undefined && response.status >= 502) return new Gone("A proxy answers in place of the server.");
  const retryAfter = Number(response.headers.get("Retry-After"));
  return new Refused(
    said?.error ?? `The server answered with status ${response.status}.`,
    response.status,
    said?.code ?? "unknown",
    retryAfter > 0 ? retryAfter : null,
    response.headers.get("X-Request-Id"),
  );
}

function wantKey(message) {
  asking ??= askForKey(message).finally(() => {
    asking = null;
  });
  return asking;
}

/** Milliseconds by stage, from a Server-Timing header. */
export function timingsOf(header) {
  const found = (header ?? "").matchAll(/([a-z]+);dur=([0-9.]+)/g);
  return Object.fromEntries([...found].map(([, stage, ms]) => [stage, Number(ms)]));
}
