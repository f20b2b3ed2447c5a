// Measures ONNX Runtime on the models of export_onnx.py: encode, score all ids, take the top 20. Prints JSON.
//   node score_onnx.mjs [FOLDER] [--check]
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const LENGTH = 50;
const TOP = 20;
const check = process.argv.includes('--check');
const folder = process.argv.slice(2).find((a) => !a.startsWith('--')) ??
  join(dirname(fileURLToPath(import.meta.url)), '../../build/peers');
const require = createRequire(join(folder, 'package.json'));
const { Tensor } = require('onnxruntime-node');
const { binding, initOrt } = require('onnxruntime-node/dist/binding.js');

const int64s = (name) => {
  const bytes = readFileSync(join(folder, name));
  return new BigInt64Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
};
const histories = int64s('histories.bin');
const users = histories.length / LENGTH;

// The public run() waits for the event loop; the call that it makes does not, so it is what gets timed.
const open = (model, threads) => {
  initOrt();
  const session = new binding.InferenceSession();
  session.loadModel(join(folder, model), {
    intraOpNumThreads: threads, interOpNumThreads: 1, executionMode: 'sequential', graphOptimizationLevel: 'all',
  });
  return session;
};

const ask = (session, first, count, outputs) => {
  const ids = new Tensor('int64', histories.slice(first * LENGTH, (first + count) * LENGTH), [count, LENGTH]);
  const start = process.hrtime.bigint();
  const result = session.run({ ids }, Object.fromEntries(outputs.map((name) => [name, null])), {});
  return { result, us: Number(process.hrtime.bigint() - start) / 1000 };
};

const times = (model, threads, batch, warmUps, calls, outputs) => {
  const session = open(model, threads);
  const us = [];
  for (let n = 0; n < warmUps + calls; n++) {
    us.push(ask(session, (n * batch) % (users - batch + 1), batch, outputs).us);
  }
  session.dispose();
  return us.slice(warmUps).sort((a, b) => a - b);
};
const quantile = (sorted, q) => sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))];

const measure = (model, outputs) => {
  const oneUser = times(model, 1, 1, 300, 3000, outputs);
  const usersPerSecond = (threads) => (256 * 1e6) / quantile(times(model, threads, 256, 3, 15, outputs), 0.5);
  return {
    median_us: quantile(oneUser, 0.5), p99_us: quantile(oneUser, 0.99),
    users_per_s_1: usersPerSecond(1), users_per_s_2: usersPerSecond(2),
  };
};

const top = ['values', 'items'];
if (check) {
  const expected = int64s('expected.bin');
  const count = expected.length / TOP;
  for (const model of ['elcrec.onnx', 'elcrec_full.onnx']) {
    const found = ask(open(model, 1), 0, count, top).result.items.data;
    const differing = expected.filter((id, i) => id !== found[i]).length;
    console.log(`${model}: ${differing} of ${expected.length} ids differ from PyTorch's`);
    process.exitCode ||= differing === 0 ? 0 : 1;
  }
} else {
  console.log(JSON.stringify({
    onnxruntime: require('onnxruntime-node/package.json').version,
    elcrec: measure('elcrec.onnx', top),
    elcrec_full: measure('elcrec_full.onnx', top),
    elcrec_scores: measure('elcrec_scores.onnx', ['scores']),
  }));
}
