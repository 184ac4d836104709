// The functions on the official TypeScript SDK, served by node's own server.
// PORT, INNGEST_DEV and STEPWELL_BENCH_MARKS are set; CHECKPOINTING is "on" or "off"; NODE_PATH leads to `inngest`.
const fs = require("fs");
const http = require("http");
const { Inngest } = require("inngest");
const { serve } = require("inngest/node");

const { PORT, STEPWELL_BENCH_MARKS, CHECKPOINTING } = process.env;
const file = fs.openSync(STEPWELL_BENCH_MARKS, "a");
const mark = (key, name) => fs.writeSync(file, `${process.hrtime.bigint()} ${key} ${name}\n`); // the monotonic clock

const quiet = { info() {}, warn() {}, debug() {}, error: console.error };
const client = new Inngest({ id: "bench", isDev: true, logger: quiet, checkpointing: CHECKPOINTING === "on" });
const define = (id, body) => client.createFunction({ id, triggers: [{ event: `bench/${id}` }] }, body);
const step = (key, number) => {
  mark(key, `s${number}`);
  return { number };
};

const functions = [
  define("seq", async ({ event, step: { run } }) => {
    const { key, steps } = event.data;
    for (let number = 0; number < steps; number++) await run(`s${number}`, () => step(key, number));
    mark(key, "done");
  }),
  define("fan", async ({ event, step: { run } }) => {
    const { key, width } = event.data;
    await Promise.all(Array.from({ length: width }, (_, number) => run(`s${number}`, () => step(key, number))));
    mark(key, "done");
  }),
  define("ask", async ({ event, step: { ai } }) => {
    const { key, steps, provider, prompt } = event.data;
    const model = ai.models.openai({ model: "gpt-4o-mini", apiKey: "sk-none", baseUrl: `${provider}/v1/` });
    for (let number = 0; number < steps; number++) {
      await ai.infer(`s${number}`, { model, body: { messages: [{ role: "user", content: prompt }] } });
      mark(key, `s${number}`);
    }
    mark(key, "done");
  }),
  define("nap", async ({ event, step: { run, sleepUntil } }) => {
    const { key, until } = event.data;
    await run("s0", () => step(key, 0));
    await sleepUntil("nap", new Date(until * 1000));
    mark(key, "done");
  }),
];

const handler = serve({ client, functions, serveOrigin: `http://127.0.0.1:${PORT}` });
http
  .createServer((request, answer) => {
    if (request.method === "POST") mark("-", request.headers["content-length"] ?? "0");
    return handler(request, answer);
  })
  .listen(Number(PORT), "127.0.0.1", 4096);
