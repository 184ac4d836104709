// The functions of ../python/services/fastapi_app.py once more, on the official TypeScript SDK and node's own server.
// Start with PORT, LEDGER and INNGEST_DEV (the server's address) set.

import { createHash } from "node:crypto";
import { createServer } from "node:http";

import { Inngest, NonRetriableError, RetryAfterError, StepError, cron, fetch, referenceFunction, step } from "inngest";
import { serve } from "inngest/node";

import { FUNCTION, note } from "./ledger.mjs";

const APP = "typescript";
const LARGE = 4 * 1024 * 1024 - 1024;

const client = new Inngest({ id: APP });

function noted(ctx, step, result = null) {
  return () => {
    note(ctx, step);
    return result;
  };
}

function define(id, options, handler) {
  return client.createFunction({ id, triggers: [{ event: `${APP}/${id}` }], ...options }, async (ctx) => {
    note(ctx, FUNCTION, { event: ctx.event.name });
    return handler(ctx);
  });
}

const linear = define("linear", {}, async (ctx) => {
  const one = await ctx.step.run("one", noted(ctx, "one", 1));
  const two = await ctx.step.run("two", noted(ctx, "two", one + 1));
  const three = await ctx.step.run("three", noted(ctx, "three", two + 1));
  return { sum: one + two + three, echo: ctx.event.data.echo ?? null };
});

const repeated = define("repeated", {}, async (ctx) => {
  const items = [];
  for (let i = 0; i < 4; i++) items.push(await ctx.step.run("item", noted(ctx, "item", i * i)));
  return items;
});

const parallel = define("parallel", {}, async (ctx) => {
  const branch = async (name) => {
    const first = await ctx.step.run(`${name}1`, noted(ctx, `${name}1`, `${name}1`));
    return ctx.step.run(`${name}2`, noted(ctx, `${name}2`, `${first}${name}2`));
  };
  const both = () => Promise.all([branch("a"), branch("b")]);
  return ctx.event.data.mode === "race" ? ctx.group.parallel({ mode: "race" }, both) : both();
});

const naps = define("naps", {}, async (ctx) => {
  await ctx.step.run("before", noted(ctx, "before"));
  await ctx.step.sleep("nap", "1s");
  await ctx.step.run("between", noted(ctx, "between"));
  await ctx.step.sleepUntil("until", new Date(ctx.event.data.until));
  await ctx.step.run("after", noted(ctx, "after"));
  return "rested";
});

const wait = define("wait", {}, async (ctx) => {
  await ctx.step.run("before", noted(ctx, "before"));
  const payment = await ctx.step.waitForEvent("payment", {
    event: `${APP}/paid`,
    if: "async.data.order == event.data.order",
    timeout: `${ctx.event.data.seconds}s`,
  });
  await ctx.step.run("after", noted(ctx, "after"));
  return payment === null ? null : { name: payment.name, data: payment.data };
});

const child = define("child", { retries: 0 }, async (ctx) => {
  if (ctx.event.data.how === "fail") throw new RangeError("the child failed");
  if (ctx.event.data.how === "slow") await ctx.step.sleep("slow", "4s");
  return { doubled: ctx.event.data.n * 2 };
});

const parent = define("parent", {}, async (ctx) => {
  const { target, how, seconds } = ctx.event.data;
  try {
    const result = await ctx.step.invoke("call", {
      function: referenceFunction({ functionId: target }),
      data: { n: 21, how: how ?? "double" },
      ...(seconds == null ? {} : { timeout: `${seconds}s` }),
    });
    return { result };
  } catch (error) {
    return { name: error.name, message: error.message };
  }
});

const retried = define("retried", { retries: 4 }, async (ctx) => {
  const succeeded_at = await ctx.step.run("flaky", () => {
    note(ctx, "flaky");
    if (ctx.attempt < 2) throw new Error(`attempt ${ctx.attempt} failed`);
    return ctx.attempt;
  });
  await ctx.step.run("next", noted(ctx, "next"));
  return { succeeded_at };
});

const caught = define("caught", { retries: 1 }, async (ctx) => {
  try {
    await ctx.step.run("hopeless", () => {
      note(ctx, "hopeless");
      throw new RangeError("no such row");
    });
  } catch (error) {
    if (!(error instanceof StepError) || !ctx.event.data.catch) throw error;
    await ctx.step.run("instead", noted(ctx, "instead"));
    return { name: error.name, message: error.message };
  }
  return "unreachable";
});

const onFailing = async (ctx) => note(ctx, "on-failure", { failure: ctx.event.data });

const failing = define("failing", { retries: 1, onFailure: onFailing }, async (ctx) => {
  await ctx.step.run("before", noted(ctx, "before"));
  throw new RangeError("bad input");
});

const nonRetriable = define("non-retriable", { retries: 5 }, async (ctx) => {
  if (ctx.event.data.where === "step") {
    await ctx.step.run("give-up", () => {
      note(ctx, "give-up");
      throw new NonRetriableError("never again");
    });
  }
  throw new NonRetriableError("never again");
});

const retryAfter = define("retry-after", { retries: 2 }, async (ctx) => {
  const later = () => {
    note(ctx, "later");
    if (ctx.attempt === 0) throw new RetryAfterError("busy", "3s");
    return ctx.attempt;
  };
  return ctx.event.data.where === "step" ? ctx.step.run("later", later) : later();
});

const cancellable = define(
  "cancellable",
  { cancelOn: [{ event: `${APP}/cancel`, if: "async.data.order == event.data.order" }] },
  async (ctx) => {
    await ctx.step.run("before", noted(ctx, "before"));
    await ctx.step.sleep("pause", "3s");
    await ctx.step.run("after", noted(ctx, "after"));
    return "not cancelled";
  },
);

const large = define("large", {}, async (ctx) => {
  const blobs = [];
  for (let i = 0; i < ctx.event.data.count; i++) {
    const letter = String.fromCharCode("a".charCodeAt(0) + i);
    blobs.push(await ctx.step.run("blob", noted(ctx, "blob", letter.repeat(LARGE))));
  }
  if (ctx.event.data.whole) return blobs[0];
  return blobs.map((blob) => createHash("sha256").update(blob).digest("hex"));
});

const steps = define("steps", {}, async (ctx) => {
  let total = 0;
  for (let i = 0; i < ctx.event.data.count; i++) total += await ctx.step.run(`step-${i}`, noted(ctx, `step-${i}`, i));
  return total;
});

const relay = define("relay", {}, async (ctx) => {
  const sent = await ctx.step.sendEvent("pass on", { name: `${APP}/linear`, data: { echo: ctx.runId } });
  return sent.ids;
});

const AI_KEY = "sk-canary-of-the-sample-service";

function model(dialect, provider) {
  const { models } = step.ai;
  if (dialect === "anthropic") {
    const defaultParameters = { max_tokens: 100 };
    return models.anthropic({ model: "claude-sonnet-4-5", apiKey: AI_KEY, baseUrl: `${provider}/v1/`, defaultParameters });
  }
  if (dialect === "gemini") return models.gemini({ model: "gemini-2.5-flash", apiKey: AI_KEY, baseUrl: `${provider}/v1beta/` });
  const apiKey = AI_KEY;
  if (dialect === "grok") return models.grok({ model: "grok-3", apiKey, baseUrl: `${provider}/grok/v1` });
  if (dialect === "deepseek") return models.deepseek({ model: "deepseek-chat", apiKey, baseUrl: `${provider}/v1` });
  if (dialect === "openai-responses") return models.openaiResponses({ model: "gpt-4o-mini", apiKey, baseUrl: `${provider}/v1` });
  if (dialect === "azure-openai") {
    const place = { endpoint: provider, deployment: "gpt-4o-mini", apiVersion: "2024-10-21" };
    return models.azureOpenai({ model: "gpt-4o-mini", apiKey, ...place });
  }
  return models.openai({ model: "gpt-4o-mini", apiKey, baseUrl: `${provider}/v1/` });
}

function prompt(dialect, text) {
  if (dialect === "gemini") return { contents: [{ role: "user", parts: [{ text }] }] };
  if (dialect === "openai-responses") return { input: text };
  return { messages: [{ role: "user", content: text }] };
}

const ask = define("ask", {}, async (ctx) => {
  const { dialect, provider } = ctx.event.data;
  const reply = await ctx.step.ai.infer("ask", { model: model(dialect, provider), body: prompt(dialect, "Hello") });
  return ctx.step.run("use", noted(ctx, "use", reply));
});

const askMany = define("ask-many", {}, async (ctx) => {
  const openai = model("openai", ctx.event.data.provider);
  const one = (number) => ctx.step.ai.infer(`ask ${number}`, { model: openai, body: prompt("openai", `number ${number}`) });
  return Promise.all([one(1), one(2), one(3), ctx.step.run("beside", noted(ctx, "beside", "done"))]);
});

// A client of a provider, as those of libraries are: a method that needs its instance.
class Client {
  constructor(provider) {
    this.url = `${provider}/v1/chat/completions`;
  }
  async create(body) {
    const answer = await globalThis.fetch(this.url, { method: "POST", body: JSON.stringify(body) });
    return answer.json();
  }
}

const wrapped = define("wrapped", {}, async (ctx) => {
  const { provider } = ctx.event.data;
  if (provider) {
    const client = new Client(provider);
    const body = { model: "gpt-4o-mini", messages: [{ role: "user", content: "Hello" }] };
    const reply = await ctx.step.ai.wrap("wrap", client.create.bind(client), body);
    return ctx.step.run("use", noted(ctx, "use", reply.choices[0].message.content));
  }
  const call = async ({ question }) => ({ answer: `${question}!` });
  return ctx.step.ai.wrap("wrap", call, { question: "really" });
});

// The `fetch` of the SDK, which a library would be given as well; `how` says in which of its ways it is used.
const fetching = define("fetching", {}, async (ctx) => {
  const { base, how } = ctx.event.data;
  const tell = { method: "POST", body: how };
  if (how === "step") return (await (await ctx.step.fetch(`${base}/http/echo`, tell)).json()).text;
  if (how === "inside") return ctx.step.run("inside", async () => (await (await fetch(`${base}/http/echo`, tell)).json()).text);
  if (how === "many") {
    const answers = await Promise.all([3, 1, 2].map((number) => fetch(`${base}/http/status/${200 + number}`)));
    return answers.map((answer) => answer.status);
  }
  const headers = { authorization: `Bearer ${AI_KEY}`, "x-key": AI_KEY };
  const [echo, missing] = await Promise.all([
    fetch(`${base}/http/echo?q=1`, { method: "POST", headers: { "content-type": "text/plain" }, body: "grüße" }),
    fetch(`${base}/http/status/404?body=missing&token=${AI_KEY}`, { headers }),
  ]);
  const { method, text: body } = await echo.json();
  const text = await missing.text();
  return ctx.step.run("use", noted(ctx, "use", { method, body, status: missing.status, text }));
});

const schedules = [cron(process.env.SCHEDULE ?? "@daily"), { cron: "TZ=Europe/Berlin 0 9 29 2 *", jitter: "30s" }];
const clock = client.createFunction({ id: "clock", triggers: schedules }, async (ctx) => {
  note(ctx, FUNCTION, { event: ctx.event.name });
  return ctx.step.run("tick", noted(ctx, "tick", { name: ctx.event.name, ...ctx.event.data }));
});

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const busy = {
  concurrency: [{ limit: 2, key: "event.data.user" }],
  priority: { run: "event.data.priority" },
};
const limited = define("limited", busy, async (ctx) => {
  await ctx.step.run("work", async () => {
    note(ctx, "work");
    await pause(400);
    note(ctx, "end");
  });
  return ctx.event.data.number;
});
const throttled = define("throttled", { throttle: { limit: 1, period: "2s", burst: 1 } }, async () => null);
const hourly = { limit: 1, period: "1h", key: "event.data.user" };
const rated = define("rated", { rateLimit: hourly }, async () => null);
const once = define("once", { idempotency: "event.data.cart" }, async () => null);

const functions = [
  ...(process.env.LIMITS ? [limited, throttled, rated, once] : []),
  ...(process.env.SCHEDULE ? [clock] : []),
  linear, repeated, parallel, naps, wait, child, parent, retried, caught, failing, nonRetriable, retryAfter,
  cancellable, large, steps, relay, ask, askMany, wrapped, fetching,
];
const inngest = serve({ client, functions });

async function send(request, response) {
  // Send events from inside the service's process, as an application would.
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const { ids } = await client.send(JSON.parse(Buffer.concat(chunks).toString("utf8")));
  response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(ids));
}

createServer((request, response) => {
  const { pathname } = new URL(request.url, "http://service");
  if (pathname === "/api/inngest") return inngest(request, response);
  if (pathname === "/send" && request.method === "POST") {
    return send(request, response).catch((error) => response.writeHead(500).end(String(error)));
  }
  return response.writeHead(404).end();
}).listen(Number(process.env.PORT), "127.0.0.1");
