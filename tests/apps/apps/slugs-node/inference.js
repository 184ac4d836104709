// An app in JavaScript: typed by Zod, with several functions, files, a generator and a flag for cancelling.

import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

import { File, createFileSchema, textMeta } from "@inferencesh/app";
import { z } from "zod";

import { slug } from "./lib/slug.js";

const fileSchema = createFileSchema(z);

export const AppSetup = z.object({ separator: z.string().default("-").describe("between words") });

export const RunInput = z.object({
  title: z.string().min(1).max(200).describe("what is to be named"),
  times: z.number().int().min(1).max(3).default(1),
  style: z.enum(["plain", "loud"]).default("plain"),
});
export const RunOutput = z.object({ slug: z.string(), task: z.string(), variant: z.string() });

export const CountUpInput = z.object({ to: z.number().int() });
export const CountUpOutput = z.object({ number: z.number() });

export const UpperFileInput = z.object({ file: fileSchema, tags: z.array(z.string()).max(4).optional(), note: z.any() });
export const UpperFileOutput = z.object({ file: fileSchema });

export const WaitInput = z.object({ how: z.union([z.literal("flag"), z.literal("event")]) });
export const WaitOutput = z.object({ ended: z.string() });

export class App {
  static session = "snapshot";

  async setup(config) {
    this.separator = config.separator;
    this.names = [];
  }

  async run(input, metadata) {
    console.log(`naming ${input.title}`);
    if (input.title === "nothing") throw new TypeError("nothing has no name");
    const words = Array(input.times).fill(slug(input.title, this.separator));
    this.names.push(input.title);
    const named = words.join(this.separator);
    return {
      slug: input.style === "loud" ? named.toUpperCase() : named,
      task: metadata.task_id,
      variant: this.context.metadata.app_variant,
      output_meta: { inputs: [], outputs: [textMeta({ tokens: words.length })] },
    };
  }

  async *countUp({ to }) {
    try {
      for (let number = 1; number <= to; number++) {
        yield { number };
        await sleep(1);
      }
    } finally {
      console.log("cleaned up");
    }
  }

  async upperFile({ file, note }) {
    const path = join(mkdtempSync(join(tmpdir(), "slugs-")), "upper.txt");
    writeFileSync(path, readFileSync(await file.getPath(), "utf8").toUpperCase());
    return { file: File.fromPath(path), all: [File.fromPath(path)], note };
  }

  async wait({ how }) {
    console.log("waiting");
    if (how === "event") {
      await new Promise((resolve) => (this.resolve = resolve));
      return { ended: "by onCancel" };
    }
    while (!this.context.cancelRequested) await sleep(5);
    return { ended: "by the flag" };
  }

  async onCancel() {
    this.resolve?.();
  }

  async unload() {
    console.log("unloaded");
  }

  snapshot() {
    return { names: this.names };
  }

  restore(state) {
    this.names = [...state.names, "restored"];
  }

  helper() {
    return "no schema, no function";
  }
}
