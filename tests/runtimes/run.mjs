// node run.mjs MODEL.onnx < samples.json > outputs.json
// Samples and outputs are lists of {name: {type, dims, data}}, data in base64.
import { readFileSync, writeFileSync } from 'node:fs';
import * as ort from 'onnxruntime-web';

const arrays = {
  float32: Float32Array,
  int64: BigInt64Array,
  int32: Int32Array,
  uint8: Uint8Array,
  int8: Int8Array,
  bool: Uint8Array,
};

function decode({ type, dims, data }) {
  const bytes = Uint8Array.from(Buffer.from(data, 'base64'));
  return new ort.Tensor(type, new arrays[type](bytes.buffer), dims);
}

function encode({ type, dims, data }) {
  return { type, dims, data: Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString('base64') };
}

const convert = (record, how) => Object.fromEntries(Object.entries(record).map(([name, value]) => [name, how(value)]));

ort.env.wasm.numThreads = 1;
ort.env.logLevel = 'error';
const session = await ort.InferenceSession.create(readFileSync(process.argv[2]), { executionProviders: ['wasm'] });
const outputs = [];
for (const sample of JSON.parse(readFileSync(0, 'utf8'))) {
  outputs.push(convert(await session.run(convert(sample, decode)), encode));
}
writeFileSync(1, JSON.stringify(outputs));
