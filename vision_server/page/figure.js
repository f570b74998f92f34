// A picture with what an answer places in it: fitted, zoomed, moved, and a rectangle drawn on it.

import { el, oncePerFrame, put, svg } from "./dom.js";
import { pictures } from "./pictures.js";
import { overlay } from "./sketch.js";

const STEP = 1.5;
const SHARE_OF_WINDOW = 0.6; // that a fitted picture may take of its height
const MOST = 16; // times the fitted size
const LEAST_DRAWN_PX = 4; // less is a click, not a rectangle

/** `takesRegion()` says whether a drag draws a rectangle (or else moves the picture). */
export class Figure {
  constructor(picture, shapes, takesRegion) {
    Object.assign(this, { picture, shapes, takesRegion, zoom: 1, lit: null });
    this.image = el("img", { alt: "", draggable: "false" });
    this.canvas = el("div", { class: "canvas" }, this.image);
    this.scroll = el(
      "div",
      { class: "scroll", tabindex: "0", role: "group", "aria-label": this.#describe() },
      this.canvas,
    );
    this.percent = el("output", { class: "percent", text: "100%" });
    const button = (label, text, click) =>
      el("button", { type: "button", class: "icon", "aria-label": label, title: label, click, text });
    this.tools = el(
      "div",
      { class: "zoom" },
      button("Zoom out (−)", "−", () => this.zoomTo(this.zoom / STEP)),
      this.percent,
      button("Zoom in (+)", "+", () => this.zoomTo(this.zoom * STEP)),
      button("Fit (0)", "Fit", () => this.zoomTo(1)),
    );
    this.element = el("div", { class: "figure" }, this.scroll, this.tools);
    this.onLit = () => {};
    this.#listen();
    this.redraw = oncePerFrame(() => this.#draw());
    this.resized = new ResizeObserver(this.redraw);
    this.resized.observe(this.scroll);
    void this.#open();
  }

  /** Draws other shapes; zoom and place stay. */
  show(shapes) {
    this.shapes = shapes;
    this.lit = null;
    this.scroll.setAttribute("aria-label", this.#describe());
    this.redraw();
  }

  /** To be called when it is taken off the page. */
  end() {
    this.resized.disconnect();
  }

  /** Times the fitted size; `at` is the point of the window that stays where it is. */
  zoomTo(zoom, at = null) {
    const wanted = Math.max(1, Math.min(zoom, MOST));
    const frame = this.scroll.getBoundingClientRect();
    const [x, y] = at ? [at.clientX - frame.left, at.clientY - frame.top] : [frame.width / 2, frame.height / 2];
    const grows = wanted / this.zoom;
    const [left, top] = [(this.scroll.scrollLeft + x) * grows - x, (this.scroll.scrollTop + y) * grows - y];
    this.zoom = wanted;
    this.#draw();
    this.scroll.scrollTo(left, top);
  }

  /** Lights one shape and dims the others; null lights none. */
  light(index) {
    this.lit = index;
    this.canvas.classList.toggle("has-lit", index !== null);
    for (const part of this.canvas.querySelectorAll("[data-index]")) {
      part.classList.toggle("is-lit", Number(part.dataset.index) === index);
    }
  }

  async #open() {
    this.canvas.classList.add("is-waiting");
    const isShown = await this.picture.measure();
    this.canvas.classList.remove("is-waiting");
    if (isShown) this.image.src = this.picture.url;
    else {
      this.image.remove();
      const words = "This browser cannot show pictures of this kind. The server may read it all the same.";
      this.element.append(el("p", { class: "hint", text: words }));
    }
    this.#draw();
  }

  #describe() {
    const names = [...new Set(this.shapes.map((shape) => shape.label).filter(Boolean))].slice(0, 20);
    const places = this.shapes.length ? `, ${this.shapes.length} drawn: ${names.join(", ")}` : "";
    return `${this.picture.name}${places}. Plus and minus zoom, the arrow keys move.`;
  }

  /** Width and height of the picture; where it cannot be shown, of what is drawn. */
  get size() {
    const { width, height } = this.picture;
    if (width) return [width, height];
    const far = (side) => Math.max(64, ...this.shapes.map((shape) => shape.bounds[side])) * 1.05;
    return [far(2), far(3)];
  }

  #draw() {
    if (this.picture.isShowable === null) return;
    this.scroll.hidden = this.tools.hidden = !this.picture.isShowable && !this.shapes.length;
    const [width, height] = this.size;
    const room = [this.scroll.clientWidth, Math.max(220, innerHeight * SHARE_OF_WINDOW)];
    if (!room[0]) return;
    const scale = Math.min(room[0] / width, room[1] / height) * this.zoom;
    this.scale = scale;
    this.canvas.style.width = `${width * scale}px`;
    this.canvas.style.height = `${height * scale}px`;
    this.canvas.classList.toggle("is-coarse", scale > 3);
    this.canvas.querySelector("svg")?.remove();
    const drawn = overlay(this.shapes, [width, height], scale);
    this.canvas.append(drawn);
    if (this.picture.region) drawn.prepend(this.#regionOf(this.picture.region, width * scale, height * scale));
    this.scroll.classList.toggle("takes-region", this.takesRegion());
    this.scroll.classList.toggle("is-zoomed", this.zoom > 1);
    put(this.percent, `${Math.round(scale * 100)}%`);
    this.light(this.lit);
  }

  #regionOf([x1, y1, x2, y2], width, height) {
    const place = { x: x1 * width, y: y1 * height, width: (x2 - x1) * width, height: (y2 - y1) * height };
    return svg(
      "g",
      { class: "region" },
      svg("rect", { class: "under", ...place }),
      svg("rect", { class: "dash", ...place }),
    );
  }

  #listen() {
    const { canvas, scroll } = this;
    const indexUnder = (event) => event.target.closest?.("[data-index]")?.dataset.index;
    canvas.addEventListener("pointerover", (event) => {
      const index = indexUnder(event);
      this.onLit(index === undefined ? null : Number(index));
    });
    canvas.addEventListener("pointerleave", () => this.onLit(null));
    canvas.addEventListener("pointerdown", (event) => this.#drag(event));
    scroll.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    scroll.addEventListener("keydown", (event) => this.#key(event));
  }

  #wheel(event) {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    this.zoomTo(this.zoom * Math.exp(-event.deltaY / 300), event);
  }

  #key(event) {
    const zooms = { "+": this.zoom * STEP, "=": this.zoom * STEP, "-": this.zoom / STEP, 0: 1 };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in zooms) this.zoomTo(zooms[event.key]);
    else if (event.key === "Escape" && this.picture.region) pictures.draw(this.picture, null);
    else return;
    event.preventDefault();
  }

  /** A drag draws a rectangle, or moves a picture that is zoomed. Fingers move it by themselves. */
  #drag(event) {
    if (event.button !== 0) return;
    const draws = this.takesRegion() && this.picture.isShowable;
    if (!draws && (this.zoom === 1 || event.pointerType === "touch")) return;
    event.preventDefault();
    this.scroll.focus({ preventScroll: true });
    const { canvas, scroll } = this;
    canvas.setPointerCapture(event.pointerId);
    const start = this.#shareAt(event);
    const before = { x: event.clientX, y: event.clientY, left: scroll.scrollLeft, top: scroll.scrollTop };
    const moved = (now) => {
      if (!draws) scroll.scrollTo(before.left + before.x - now.clientX, before.top + before.y - now.clientY);
      else if (Math.hypot(now.clientX - before.x, now.clientY - before.y) >= LEAST_DRAWN_PX) {
        const end = this.#shareAt(now);
        const sides = [0, 1].map((axis) => [start[axis], end[axis]].sort((one, other) => one - other));
        pictures.draw(this.picture, [sides[0][0], sides[1][0], sides[0][1], sides[1][1]]);
      }
    };
    const over = new AbortController();
    canvas.addEventListener("pointermove", moved, { signal: over.signal });
    for (const end of ["pointerup", "pointercancel"])
      canvas.addEventListener(end, () => over.abort(), { once: true, signal: over.signal });
  }

  /** Where a pointer is, in shares of the picture's sides. */
  #shareAt({ clientX, clientY }) {
    const { left, top, width, height } = this.canvas.getBoundingClientRect();
    const share = (value) => Math.max(0, Math.min(value, 1));
    return [share((clientX - left) / width), share((clientY - top) / height)];
  }
}
