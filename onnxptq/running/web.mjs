// node web.mjs ROUNDS MODEL.onnx... < samples.json > results.json
// Every model runs all samples, then ROUNDS timed runs of the first one, in turns. For each model: outputs, a list of
// {name: {type, dims, data}} with data in base64, and cpu, the milliseconds of each timed run.
// onnxruntime-web is found as Node finds packages: from the folder of the call upwards.
import { readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';

const ort = createRequire(join(process.cwd(), 'web.mjs'))('onnxruntime-web');

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
const [rounds, ...models] = process.argv.slice(2);
const samples = JSON.parse(readFileSync(0, 'utf8'));
const found = [];
for (const model of models) {
  const session = await ort.InferenceSession.create(readFileSync(model), { executionProviders: ['wasm'] });
  const outputs = [];
  for (const sample of samples) outputs.push(convert(await session.run(convert(sample, decode)), encode));
  found.push({ session, outputs, cpu: [] });
}
const first = samples.length ? convert(samples[0], decode) : {};
for (let round = 0; round < Number(rounds); round++) {
  for (const one of found) {
    const start = process.cpuUsage();
    await one.session.run(first);
    const spent = process.cpuUsage(start);
    one.cpu.push((spent.user + spent.system) / 1000);
  }
}
writeFileSync(1, JSON.stringify(found.map(({ outputs, cpu }) => ({ outputs, cpu }))));
