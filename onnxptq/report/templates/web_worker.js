// Both models, away from the page's thread: {id, kind, ...} in, {id, ...} or {id, error} out.
import * as ort from "./ort/ort.wasm.min.mjs";

ort.env.wasm.wasmPaths = new URL("ort/", self.location.href).href;
ort.env.wasm.numThreads = 1;
ort.env.logLevel = "error";

const sessions = new Map();
const embeddings = new Map();
const warm = new Set();

async function opened(file) {
  if (!sessions.has(file)) {
    const answer = await fetch(file);
    if (!answer.ok) throw new Error(`${file}: ${answer.status} ${answer.statusText}`);
    const bytes = new Uint8Array(await answer.arrayBuffer());
    sessions.set(file, await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] }));
  }
  return sessions.get(file);
}

// The first run of a session also allocates, and its code is not yet optimised: a short one is not the one shown.
async function timed(file, feeds) {
  const session = await opened(file);
  for (;;) {
    const start = performance.now();
    const outputs = await session.run(feeds);
    const ms = performance.now() - start;
    if (warm.has(file) || ms > 1000) return { outputs, ms };
    warm.add(file);
  }
}

async function encode({ model, pixels, height, width }) {
  const image = new ort.Tensor("uint8", pixels, [height, width, 3]);
  const { outputs, ms } = await timed(model.encoder, { image });
  embeddings.get(model.key)?.dispose();
  embeddings.set(model.key, outputs.image_embeddings);
  return { ms };
}

// Of a box the first mask, which is meant for it; of a click the best of the other three by the model's own scores.
async function decode({ model, coords, labels, height, width, box }) {
  const image_embeddings = embeddings.get(model.key);
  const low = 4 * image_embeddings.dims[3];
  const floats = (values, dims) => new ort.Tensor("float32", Float32Array.from(values), dims);
  const { outputs, ms } = await timed(model.decoder, {
    image_embeddings,
    point_coords: floats(coords, [1, labels.length, 2]),
    point_labels: floats(labels, [1, labels.length]),
    mask_input: new ort.Tensor("float32", new Float32Array(low * low), [1, 1, low, low]),
    has_mask_input: floats([0], [1]),
    orig_im_size: floats([height, width], [2]),
  });
  const scores = outputs.iou_predictions.data;
  let best = 0;
  if (!box) for (let k = 1; k < scores.length; k++) if (best === 0 || scores[k] > scores[best]) best = k;
  const logits = outputs.masks.data.subarray(best * height * width, (best + 1) * height * width);
  return { ms, mask: Uint8Array.from(logits, value => value > 0), score: scores[best] };
}

const kinds = { encode, decode, open: async ({ file }) => void (await opened(file)) };
let last = Promise.resolve();
self.onmessage = ({ data }) => {
  last = last.then(async () => {
    try {
      self.postMessage({ id: data.id, ...(await kinds[data.kind](data)) });
    } catch (error) {
      self.postMessage({ id: data.id, error: String(error?.message ?? error) });
    }
  });
};
