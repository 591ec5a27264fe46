const facts = JSON.parse(document.getElementById("facts").textContent);
const find = id => document.getElementById(id);
const stage = find("stage"), canvas = find("picture"), slider = find("slider");
const worker = new Worker("web_worker.js", { type: "module" });
const waiting = new Map();
let asked = 0, turn = 0, busy = false, next = null;
let image = null, masks = null, start = null;

worker.onmessage = ({ data }) => {
  const { resolve, reject } = waiting.get(data.id);
  waiting.delete(data.id);
  data.error ? reject(new Error(data.error)) : resolve(data);
};
worker.onerror = event => say(`The page's worker failed: ${event.message || "onnxruntime-web did not load"}`, true);

function ask(kind, given) {
  return new Promise((resolve, reject) => {
    waiting.set(++asked, { resolve, reject });
    worker.postMessage({ id: asked, kind, ...given });
  });
}

function say(text, wrong = false) {
  find("status").textContent = text;
  find("status").classList.toggle("wrong", wrong);
}

const milliseconds = ms => `${ms < 10 ? ms.toFixed(1) : Math.round(ms).toLocaleString("en")} ms`;

// Pictures.

async function show(source, box) {
  const mine = ++turn;
  next = masks = null;
  place(null);
  const bitmap = await createImageBitmap(source, { imageOrientation: "from-image" });
  const scale = Math.min(1, facts.longest / Math.max(bitmap.width, bitmap.height));
  const width = Math.max(1, Math.round(bitmap.width * scale)), height = Math.max(1, Math.round(bitmap.height * scale));
  const drawn = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  drawn.imageSmoothingQuality = "high";
  drawn.fillStyle = "#fff";
  drawn.fillRect(0, 0, width, height);
  drawn.drawImage(bitmap, 0, 0, width, height);
  if (mine !== turn) return;
  find("desk").style.setProperty("--aspect", width / height);
  image = { width, height, rgba: drawn.getImageData(0, 0, width, height).data };
  draw();
  const pixels = new Uint8Array(3 * width * height);
  for (let i = 0; i < width * height; i++) for (let c = 0; c < 3; c++) pixels[3 * i + c] = image.rgba[4 * i + c];
  for (const model of facts.models) {
    find(`${model.key}-encode`).textContent = find(`${model.key}-decode`).textContent = "–";
    say(`${model.name} encodes the picture`);
    const { ms } = await ask("encode", { model, pixels, width, height });
    if (mine !== turn) return;
    find(`${model.key}-encode`).textContent = milliseconds(ms);
  }
  image.ready = true;
  say("");
  await segment(box ? { box } : { point: [width / 2, height / 2] });
}

async function open(source, box) {
  try {
    await show(source, box);
  } catch (error) {
    say(`This picture cannot be segmented: ${error.message}`, true);
  }
}

async function builtIn(number) {
  for (const button of document.querySelectorAll("[data-picture]"))
    button.setAttribute("aria-pressed", String(Number(button.dataset.picture) === number));
  const { file, box } = facts.pictures[number];
  await open(await (await fetch(file)).blob(), box);
}

// Prompts. While one is answered, only the latest other one waits.

async function segment(prompt) {
  if (!image?.ready) return;
  place(prompt);
  if (busy) {
    next = prompt;
    return;
  }
  busy = true;
  const mine = turn, { width, height } = image, scale = facts.side / Math.max(width, height);
  const { box, point } = prompt;
  const coords = (box ?? [...point, 0, 0]).map(value => value * scale), labels = box ? [2, 3] : [1, -1];
  const found = {};
  try {
    for (const model of facts.models) {
      const { ms, mask } = await ask("decode", { model, coords, labels, width, height, box: Boolean(box) });
      found[model.key] = mask;
      if (mine === turn) find(`${model.key}-decode`).textContent = milliseconds(ms);
    }
    if (mine === turn) {
      masks = found;
      draw();
      document.dispatchEvent(new CustomEvent("segmented", { detail: { prompt, width, height, masks } }));
    }
  } catch (error) {
    say(error.message, true);
  } finally {
    busy = false;
  }
  if (next) {
    const later = next;
    next = null;
    await segment(later);
  }
}

// The stage: where the picture lies in it, pointers, the wipe.

function frame() {
  const outer = stage.getBoundingClientRect(), inner = canvas.getBoundingClientRect();
  const left = inner.left - outer.left - stage.clientLeft, top = inner.top - outer.top - stage.clientTop;
  return { scale: inner.width / canvas.width, left, top, width: inner.width, height: inner.height };
}

function where(event) {
  const inner = canvas.getBoundingClientRect(), { scale } = frame();
  const inside = (value, size) => Math.min(Math.max(value / scale, 0), size - 1);
  return [inside(event.clientX - inner.left, canvas.width), inside(event.clientY - inner.top, canvas.height)];
}

function spanned(a, b) {
  return [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[0], b[0]), Math.max(a[1], b[1])];
}

let placed = null;
function place(prompt) {
  placed = prompt;
  const { left, top, scale, width, height } = frame(), box = find("box"), point = find("point"), cut = find("cut");
  const pixels = (element, values) => Object.assign(element.style, Object.fromEntries(
    Object.entries(values).map(([name, value]) => [name, `${value}px`])));
  box.hidden = !prompt?.box;
  point.hidden = !prompt?.point;
  if (prompt?.box) {
    const [x0, y0, x1, y1] = prompt.box;
    pixels(box, { left: left + x0 * scale, top: top + y0 * scale, width: (x1 - x0) * scale, height: (y1 - y0) * scale });
  }
  if (prompt?.point) pixels(point, { left: left + prompt.point[0] * scale, top: top + prompt.point[1] * scale });
  pixels(cut, { left: left + (width * slider.value) / 100, top, height });
}

const FAR = 5; // pixels on the screen from which a click is a box
canvas.addEventListener("pointerdown", event => {
  if (!image || event.button) return;
  canvas.setPointerCapture(event.pointerId);
  start = { at: where(event), x: event.clientX, y: event.clientY };
});
canvas.addEventListener("pointermove", event => {
  if (start && Math.hypot(event.clientX - start.x, event.clientY - start.y) > FAR)
    place({ box: spanned(start.at, where(event)) });
});
canvas.addEventListener("pointerup", event => {
  if (!start) return;
  const far = Math.hypot(event.clientX - start.x, event.clientY - start.y) > FAR, at = where(event);
  segment(far ? { box: spanned(start.at, at) } : { point: at });
  start = null;
});
canvas.addEventListener("pointercancel", () => { start = null; });
canvas.addEventListener("keydown", event => {
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!step || !image?.ready) return;
  event.preventDefault();
  const [x, y] = placed?.point ?? [canvas.width / 2, canvas.height / 2], far = Math.max(canvas.width, canvas.height) / 32;
  segment({ point: [Math.min(Math.max(x + step[0] * far, 0), canvas.width - 1), Math.min(Math.max(y + step[1] * far, 0), canvas.height - 1)] });
});
slider.addEventListener("input", () => { draw(); place(placed); });
new ResizeObserver(() => place(placed)).observe(stage);

// Drawing.

const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).split(",").map(Number);

function paint(target, back, [left, top, width, height], pixel) {
  target.width = width;
  target.height = height;
  const out = new ImageData(width, height);
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at += 4) {
      const i = (top + y) * image.width + left + x, [tint, part, strength] = pixel(i);
      for (let c = 0; c < 3; c++)
        out.data[at + c] = part * tint[c] + (1 - part) * (strength * image.rgba[4 * i + c] + (1 - strength) * back[c]);
      out.data[at + 3] = 255;
    }
  }
  target.getContext("2d").putImageData(out, 0, 0);
}

// The square around both masks in which the cards show them; without masks as much of the picture as fits.
function around(left, right) {
  const { width, height } = image;
  let x0 = width, y0 = height, x1 = 0, y1 = 0;
  for (let i = 0; left && i < left.length; i++) {
    if (!left[i] && !right[i]) continue;
    const x = i % width, y = (i - x) / width;
    x0 = Math.min(x0, x); x1 = Math.max(x1, x + 1); y0 = Math.min(y0, y); y1 = Math.max(y1, y + 1);
  }
  const whole = x1 === 0, side = whole ? Infinity : Math.ceil(1.3 * Math.max(x1 - x0, y1 - y0)) + 4;
  const size = Math.min(side, width, height), [x, y] = whole ? [width / 2, height / 2] : [(x0 + x1) / 2, (y0 + y1) / 2];
  const place = (middle, limit) => Math.min(Math.max(Math.round(middle - size / 2), 0), limit - size);
  return [place(x, width), place(y, height), size, size];
}

function draw() {
  if (!image) return;
  const { width, height } = image, [left, right] = facts.models.map(model => masks?.[model.key]);
  const mask = colour("--mask"), red = colour("--red"), back = colour("--paper"), cut = (width * slider.value) / 100;
  const plain = [red, 0, 1], faded = [red, 0, 0.14], flipped = [red, 0.95, 1];
  const on = [mask, 0.5, 1], edge = [mask, 0.95, 1], pale = [mask, 0.25, 0.3];
  paint(canvas, back, [0, 0, width, height], i => {
    if (!left) return plain;
    if (left[i] !== right[i]) return flipped;
    const own = i % width < cut ? left : right;
    if (!own[i]) return plain;
    return own[i - 1] && own[i + 1] && own[i - width] && own[i + width] ? on : edge;
  });
  place(placed);
  const square = around(left, right);
  for (const [number, own] of [left, right].entries())
    paint(find(facts.models[number].key), back, square, i => (own?.[i] ? plain : faded));
  paint(find("flipped"), back, square, i => (!left ? faded : left[i] !== right[i] ? flipped : left[i] ? pale : faded));
  if (!left) {
    find("agreement").textContent = find("count").textContent = "–";
    return;
  }
  let both = 0, either = 0;
  for (let i = 0; i < left.length; i++) {
    both += left[i] & right[i];
    either += left[i] | right[i];
  }
  find("agreement").textContent = `${(Math.floor(either ? (1000 * both) / either : 1000) / 10).toFixed(1)} %`;
  find("count").textContent = `${(either - both).toLocaleString("en")} of ${left.length.toLocaleString("en")}`;
}

// Ways in.

for (const button of document.querySelectorAll("[data-picture]"))
  button.addEventListener("click", () => builtIn(Number(button.dataset.picture)));
const own = file => {
  if (!file) return;
  for (const button of document.querySelectorAll("[data-picture]")) button.setAttribute("aria-pressed", "false");
  open(file);
};
find("file").addEventListener("change", event => own(event.target.files[0]));
document.addEventListener("dragover", event => event.preventDefault());
document.addEventListener("drop", event => { event.preventDefault(); own(event.dataTransfer.files[0]); });

try {
  for (const model of facts.models) {
    say(`Loading ${model.name}, ${model.size}`);
    await ask("open", { file: model.encoder });
    await ask("open", { file: model.decoder });
  }
  await builtIn(0);
} catch (error) {
  say(error.message, true);
}
