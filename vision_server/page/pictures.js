// The pictures that were brought in, which one is looked at, and the rectangle drawn on each.

import { Signal } from "./dom.js";

let lastId = 0;

export class Picture {
  #url = null;

  constructor(file, name) {
    this.id = ++lastId;
    this.file = file;
    this.name = name; // with the folders below the one that was chosen
    this.width = null; // of the upright picture, pixels; null until it was shown once
    this.height = null;
    this.isShowable = null; // false: this browser cannot decode it, though the server may
    this.region = null; // [x1, y1, x2, y2] in shares of its sides, 0 to 1
    this.answers = new Map(); // prompt token -> Answer, see runner.js
  }

  /** For an <img>; made when it is first wanted. */
  get url() {
    this.#url ??= URL.createObjectURL(this.file);
    return this.#url;
  }

  release() {
    if (this.#url) URL.revokeObjectURL(this.#url);
    this.#url = null;
  }

  /** Finds out how large it is. Resolves to whether this browser can show it. */
  async measure() {
    if (this.isShowable !== null) return this.isShowable;
    const image = new Image();
    image.src = this.url;
    try {
      await image.decode();
      Object.assign(this, { width: image.naturalWidth, height: image.naturalHeight, isShowable: true });
    } catch {
      this.isShowable = false;
    }
    return this.isShowable;
  }

  /** The drawn rectangle as [x1, y1, x2, y2] in pixels of the upright picture; null without one. */
  get regionPixels() {
    if (!this.region || !this.width) return null;
    const sides = [this.width, this.height, this.width, this.height];
    return this.region.map((share, place) => Math.round(share * sides[place] * 10) / 10);
  }
}

export const pictures = {
  list: [],
  looked: null, // the picture that is looked at; null: all of them, as a table
  isRegionShared: false, // one rectangle for all pictures
  changed: new Signal(), // of the list
  turned: new Signal(), // to another picture, or to the table
  drawn: new Signal(), // a rectangle was drawn, moved or taken away

  add(added) {
    const shared = this.isRegionShared ? this.list.find((picture) => picture.region)?.region : null;
    for (const picture of added) picture.region = shared ?? null;
    this.list.push(...added);
    this.changed.emit();
    this.look(this.list.length === 1 ? this.list[0] : null);
  },

  clear() {
    for (const picture of this.list) picture.release();
    this.list = [];
    this.changed.emit();
    this.look(null);
  },

  remove(picture) {
    picture.release();
    this.list = this.list.filter((other) => other !== picture);
    this.changed.emit();
    if (this.looked === picture || this.list.length === 1) this.look(this.list.length === 1 ? this.list[0] : null);
  },

  look(picture) {
    if (this.looked && this.looked !== picture) this.looked.release();
    this.looked = picture;
    this.turned.emit();
  },

  /** The one before or after the one that is looked at, if there is one. */
  beside(step) {
    return this.list[this.list.indexOf(this.looked) + step] ?? null;
  },

  draw(picture, region) {
    for (const one of this.isRegionShared ? this.list : [picture]) one.region = region;
    this.drawn.emit();
  },

  shareRegion(isShared) {
    this.isRegionShared = isShared;
    const region = this.looked?.region ?? this.list.find((picture) => picture.region)?.region;
    if (isShared && region) for (const picture of this.list) picture.region = region;
    this.drawn.emit();
  },
};
