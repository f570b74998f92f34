// Pictures come in: chosen, a folder chosen, dropped (folders too), pasted.

import { announce, el } from "./dom.js";
import { Picture, pictures } from "./pictures.js";
import { bytes, plural } from "./words.js";

// What the server decodes. A browser may not know all of them, and then gives them no type.
const EXTENSION = /\.(jpe?g|jfif|png|webp|gif|bmp|tiff?|avif|hei[cf])$/i;
// In a folder, what its owner does not see: "._one.jpg", a Mac's notes beside a picture, is none.
const HIDDEN = /\/\./;

export function takeFiles() {
  const choose = document.getElementById("choose");
  choose.addEventListener("change", () => arrive(choose));
  const folder = document.getElementById("choose-folder");
  folder.addEventListener("change", () => arrive(folder));
  document.getElementById("clear").addEventListener("click", () => {
    pictures.clear();
    choose.focus();
  });
  document.addEventListener("paste", (event) => {
    if (event.clipboardData.files.length) take([...event.clipboardData.files].map((file) => [file, file.name]));
  });
  takeDrops(document.getElementById("drop"));
  pictures.changed.on(showCount);
}

function arrive(input) {
  take([...input.files].map((file) => [file, file.webkitRelativePath || file.name]));
  input.value = ""; // so that the same files can be chosen again
}

function takeDrops(zone) {
  let depth = 0; // how many of the elements below the pointer it has entered
  const enter = (step) => (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    depth = Math.max(depth + step, 0);
    zone.classList.toggle("is-over", depth > 0);
  };
  document.addEventListener("dragenter", enter(1));
  document.addEventListener("dragleave", enter(-1));
  document.addEventListener("dragover", enter(0));
  document.addEventListener("drop", async (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    depth = 0;
    zone.classList.remove("is-over");
    // The entries are gone once this function has waited for anything.
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    const files = [...event.dataTransfer.files].map((file) => [file, file.name]);
    take(entries.some((entry) => entry.isDirectory) ? (await Promise.all(entries.map(walk))).flat() : files);
  });
}

/** The files below a dropped folder, as [file, path] pairs. What cannot be read is left out. */
async function walk(entry) {
  try {
    if (entry.isFile) {
      const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
      return [[file, entry.fullPath.replace(/^\//, "")]];
    }
    const reader = entry.createReader();
    const inside = [];
    for (;;) {
      const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (!some.length) return (await Promise.all(inside.map(walk))).flat();
      inside.push(...some); // a hundred at a time
    }
  } catch {
    return [];
  }
}

function take(pairs) {
  const isWanted = ([file, name]) => (file.type.startsWith("image/") || EXTENSION.test(name)) && !HIDDEN.test(name);
  const wanted = pairs.filter(isWanted);
  const order = new Intl.Collator(undefined, { numeric: true });
  wanted.sort(([, one], [, other]) => order.compare(one, other));
  if (wanted.length) pictures.add(wanted.map(([file, name]) => new Picture(file, name)));
  const others = pairs.length - wanted.length;
  const left = others ? `${plural(others, "file")} left out: no ${others === 1 ? "picture" : "pictures"}.` : "";
  const note = document.getElementById("left-out");
  note.hidden = !left;
  note.textContent = left;
  announce([wanted.length ? `${plural(wanted.length, "picture")} added.` : "", left].join(" ").trim());
}

function showCount() {
  const { list } = pictures;
  const size = list.reduce((sum, picture) => sum + picture.file.size, 0);
  document
    .getElementById("count")
    .replaceChildren(
      ...(list.length ? [el("strong", { text: plural(list.length, "picture") }), ` · ${bytes(size)}`] : []),
    );
  document.getElementById("clear").hidden = !list.length;
  document.getElementById("pictures").classList.toggle("has-pictures", list.length > 0);
  document.getElementById("pictures-title").classList.toggle("unseen", list.length > 0); // the count says as much
}
