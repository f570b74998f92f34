// Elements made in one call, work put off to the next frame, and what is said to those who listen to the page.

const SVG = "http://www.w3.org/2000/svg";

/** An element. A function listens to the event of its name; `true` sets a bare attribute, `false` and null set none. */
export function el(tag, properties = {}, ...children) {
  return build(document.createElement(tag), properties, children);
}

/** The same for SVG. */
export function svg(tag, properties = {}, ...children) {
  return build(document.createElementNS(SVG, tag), properties, children);
}

function build(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (name === "text") element.textContent = value;
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child != null && child !== false));
  return element;
}

/** Who wants to know of a change, and telling them. */
export class Signal {
  #listeners = new Set();

  on(listener) {
    this.#listeners.add(listener);
  }

  emit(...values) {
    for (const listener of this.#listeners) listener(...values);
  }
}

/** `work`, however often it is asked for, at most once a frame. */
export function oncePerFrame(work) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      work();
    });
  };
}

/** Sets a text only where it differs: a live region would say it again. */
export function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const MOST_LINES = 20; // of what was said

/** Said by a screen reader after what it says now. Each is a line of its own: what is overwritten may go unsaid. */
export function announce(text) {
  const said = document.getElementById("said");
  said.append(el("p", { text }));
  if (said.children.length > MOST_LINES) said.firstElementChild.remove();
}

/** To the clipboard, over plain HTTP too, where browsers keep the modern interface from a page. Whether it is there. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Not there, or not allowed: the old way may be.
  }
  const focused = document.activeElement;
  const field = el("textarea", { class: "unseen", readonly: true });
  field.value = text;
  document.body.append(field);
  field.select();
  const isCopied = document.execCommand("copy");
  field.remove();
  focused?.focus({ preventScroll: true });
  return isCopied;
}
