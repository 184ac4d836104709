// Functions whose steps are reported while the call is open, with the settings that the SDK has for that.
// Start with PORT, LEDGER and INNGEST_DEV (the server's address) set.

import { createServer } from "node:http";
import { setTimeout as pause } from "node:timers/promises";

import { Inngest } from "inngest";
import { serve } from "inngest/node";

import { FUNCTION, note } from "./ledger.mjs";

const APP = "typescript";
const client = new Inngest({ id: APP });

function define(id, options, handler) {
  return client.createFunction({ id, triggers: [{ event: `${APP}/${id}` }], ...options }, async (ctx) => {
    note(ctx, FUNCTION);
    return handler(ctx);
  });
}

async function steps(ctx) {
  const { count, ms } = ctx.event.data;
  let total = 0;
  for (let i = 0; i < count; i++) {
    total += await ctx.step.run(`step-${i}`, async () => {
      note(ctx, `step-${i}`);
      await pause(ms);
      return i;
    });
  }
  return total;
}

const done = (ctx, step) => ctx.step.run(step, () => (note(ctx, step), step));

const functions = [
  define("slow", {}, steps),
  define("brief", { checkpointing: { maxRuntime: 300 } }, steps),
  define("buffered", { checkpointing: { bufferedSteps: 3 } }, steps),
  define("classic", { checkpointing: false }, steps),
  define("mixed", {}, async (ctx) => {
    const first = await done(ctx, "a");
    const both = await Promise.all([done(ctx, "b"), done(ctx, "c")]);
    const last = await done(ctx, "d");
    await ctx.step.sleep("nap", "1s");
    return [first, ...both, last, await done(ctx, "e"), await done(ctx, "f")];
  }),
  define("flaky", { retries: 2 }, async (ctx) => {
    await done(ctx, "before");
    await ctx.step.run("flaky", () => {
      note(ctx, "flaky");
      if (ctx.attempt < 2) throw new Error(`attempt ${ctx.attempt} failed`);
    });
    await done(ctx, "between");
    return ctx.step.run("flaky again", () => {
      note(ctx, "flaky again");
      if (ctx.attempt < 2) throw new Error(`attempt ${ctx.attempt} failed`);
      return ctx.attempt;
    });
  }),
  define("stumbling", { retries: 1 }, async (ctx) => {
    await done(ctx, "before");
    if (ctx.attempt === 0) throw new Error("the function itself failed");
    return done(ctx, "after");
  }),
];

const inngest = serve({ client, functions });
createServer((request, response) => inngest(request, response)).listen(Number(process.env.PORT), "127.0.0.1");
