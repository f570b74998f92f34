// Small pictures for the table: made when their row comes into sight, two at a time, and the last few hundred kept.

const SIDE_PX = 96; // shown at half of that, for screens with two pixels in place of one
const KEPT = 400;
const AT_ONCE = 2;

const made = new Map(); // picture -> ImageBitmap, or null where the browser cannot decode it; the oldest first
const wanted = new Map(); // picture -> the canvas that waits for it; the youngest last
let working = 0;

/** Draws the picture into `canvas`, now or soon. */
export function thumb(picture, canvas) {
  if (made.has(picture)) draw(made.get(picture), canvas);
  else {
    wanted.delete(picture);
    wanted.set(picture, canvas);
    work();
  }
}

async function work() {
  while (working < AT_ONCE && wanted.size) {
    const [picture, canvas] = [...wanted].at(-1); // what came into sight last is most likely still there
    wanted.delete(picture);
    if (!canvas.isConnected) continue;
    working += 1;
    const bitmap = await createImageBitmap(picture.file, { resizeWidth: SIDE_PX, resizeQuality: "medium" }).catch(
      () => null,
    );
    working -= 1;
    made.set(picture, bitmap);
    draw(bitmap, canvas);
    if (made.size > KEPT) {
      const [oldest, dropped] = made.entries().next().value;
      made.delete(oldest);
      dropped?.close();
    }
  }
}

/** The middle of it, filling a square. */
function draw(bitmap, canvas) {
  canvas.width = canvas.height = SIDE_PX;
  canvas.classList.toggle("is-unknown", bitmap === null);
  if (!bitmap) return;
  const side = Math.min(bitmap.width, bitmap.height);
  const [x, y] = [(bitmap.width - side) / 2, (bitmap.height - side) / 2];
  canvas.getContext("2d").drawImage(bitmap, x, y, side, side, 0, 0, SIDE_PX, SIDE_PX);
}
