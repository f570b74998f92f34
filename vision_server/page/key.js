// The key, where the server wants one: asked for when a call is refused for want of it, kept for this tab.

import { keepKey, onKeyWanted } from "./api.js";
import { put } from "./dom.js";
import { server } from "./server.js";

const dialog = document.getElementById("key");
const field = document.getElementById("key-field");
const wanted = document.getElementById("key-wanted");
let isDeclined = false; // it was closed without a key; only the button opens it again
let settle = () => {};

export function askForKeys() {
  onKeyWanted(async (message) => {
    put(document.getElementById("key-why"), message);
    wanted.hidden = false;
    return isDeclined ? false : open();
  });
  document.getElementById("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (!field.value.trim()) return;
    keepKey(field.value.trim());
    field.value = "";
    isDeclined = false;
    wanted.hidden = true;
    dialog.close("given");
  });
  document.getElementById("key-cancel").addEventListener("click", () => dialog.close(""));
  dialog.addEventListener("close", () => {
    isDeclined = dialog.returnValue !== "given";
    settle(!isDeclined);
    if (!isDeclined) server.askNow();
  });
  document.getElementById("key-enter").addEventListener("click", () => void open());
}

/** Resolves to whether a key was entered. */
function open() {
  dialog.returnValue = "";
  dialog.showModal();
  field.focus();
  return new Promise((resolve) => {
    settle = resolve;
  });
}
