// A zip archive without compression: pictures are compressed already, and texts are small.
// PKWARE's APPNOTE.TXT, sections 4.3.7 (local header), 4.3.12 (central directory), 4.3.16 (its end).

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});
const MOST_BYTES = 0xffffffff;
const MOST_FILES = 0xffff;
const UTF8_NAMES = 0x0800;

export function crc32(data) {
  let value = 0xffffffff;
  for (const byte of data) value = CRC_TABLE[(value ^ byte) & 0xff] ^ (value >>> 8);
  return ~value >>> 0;
}

/** Files are added one by one; `blob` is the archive. Throws RangeError where it would need the 64-bit form. */
export class Zip {
  #parts = [];
  #directory = [];
  #offset = 0;
  #names = new Set();

  /** `data` is a string or bytes. A name that is taken gets a number: a.txt, a-2.txt. */
  add(name, data, when = new Date()) {
    const bytes = typeof data === "string" ? new TextEncoder().encode(data) : data;
    const path = new TextEncoder().encode(this.#free(name));
    if (this.#offset + bytes.length > MOST_BYTES || this.#directory.length >= MOST_FILES) {
      throw new RangeError("This is more than one zip archive holds: 4 GB, or 65,535 files.");
    }
    const [time, date] = dosTime(when);
    const common = [
      [2, 20],
      [2, UTF8_NAMES],
      [2, 0],
      [2, time],
      [2, date],
      [4, crc32(bytes)],
      [4, bytes.length],
      [4, bytes.length],
      [2, path.length],
      [2, 0],
    ];
    this.#parts.push(record([[4, 0x04034b50], ...common]), path, bytes);
    // Made by version 2.0, no comment, on disk 0, no attributes.
    const entry = [[4, 0x02014b50], [2, 20], ...common, [2, 0], [2, 0], [2, 0], [4, 0], [4, this.#offset]];
    this.#directory.push(record(entry), path);
    this.#offset += 30 + path.length + bytes.length;
  }

  get isEmpty() {
    return this.#directory.length === 0;
  }

  get blob() {
    const size = this.#directory.reduce((sum, part) => sum + part.length, 0);
    const files = this.#directory.length / 2;
    const end = record([
      [4, 0x06054b50],
      [2, 0],
      [2, 0],
      [2, files],
      [2, files],
      [4, size],
      [4, this.#offset],
      [2, 0],
    ]);
    return new Blob([...this.#parts, ...this.#directory, end], { type: "application/zip" });
  }

  #free(name) {
    const [, stem, ending] = /^(.*?)(\.[^./]*)?$/s.exec(name);
    let free = name;
    for (let number = 2; this.#names.has(free.toLowerCase()); number += 1) free = `${stem}-${number}${ending ?? ""}`;
    this.#names.add(free.toLowerCase());
    return free;
  }
}

/** Little-endian numbers as [bytes, value]. */
function record(numbers) {
  const view = new DataView(new ArrayBuffer(numbers.reduce((sum, [size]) => sum + size, 0)));
  let at = 0;
  for (const [size, value] of numbers) {
    if (size === 2) view.setUint16(at, value, true);
    else view.setUint32(at, value, true);
    at += size;
  }
  return new Uint8Array(view.buffer);
}

function dosTime(when) {
  const time = (when.getHours() << 11) | (when.getMinutes() << 5) | (when.getSeconds() >> 1);
  const date = ((Math.max(when.getFullYear(), 1980) - 1980) << 9) | ((when.getMonth() + 1) << 5) | when.getDate();
  return [time, date];
}
