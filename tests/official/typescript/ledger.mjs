// One line for each thing that really ran; see ../python/services/ledger.py.

import { appendFileSync } from "node:fs";

export const FUNCTION = "(function)";

export function note(ctx, step, facts = {}) {
  const line = { run: ctx.runId, step, attempt: ctx.attempt, time: Date.now() / 1000, facts };
  appendFileSync(process.env.LEDGER, JSON.stringify(line) + "\n");
}
