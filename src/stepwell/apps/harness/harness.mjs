// Runs one app written in JavaScript, in the app's own environment: `node harness.mjs FD`.
//
// FD is a socket that this process inherited. Frames come and go on it as `stepwell/wire/app.py` says; what happens is
// what `harness.py` does, as far as one thread can: a function that blocks does not see that it is cancelled. This
// program imports nothing but Node itself and the app, so MessagePack and JSON schemas are made here.
//
// An app is the exported class `App` of its `inference.js` or `src/inference.js`. A method is a function of the app if
// there is a Zod schema exported for its input or output: `RunInput`, `RunOutput`; `AppSetup` is that of the setup value.

import { existsSync } from "node:fs";
import { once } from "node:events";
import { Socket } from "node:net";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const PROTOCOL = 1;
const MAX_FRAME_BYTES = 256 * 1024 * 1024;
const ENTRIES = ["inference.js", join("src", "inference.js"), "inference.mjs"];
const NO_FUNCTIONS = new Set(["constructor", "setup", "unload", "onCancel", "snapshot", "restore"]);
const SESSIONS = new Set(["rebuild", "snapshot"]);
const FILE = Symbol.for("inferencesh.fileSchema");
const STREAM = Symbol.for("inferencesh.streamSchema");
const BINARY = Symbol.for("inferencesh.binarySchema");

// MessagePack: what JSON can hold, and bytes

function encode(value) {
  const pieces = [];
  const head = (size, kinds) => {
    // kinds: [largest size, first byte, bytes of the size]
    const [, first, width] = kinds.find(([largest]) => size <= largest);
    const piece = Buffer.alloc(1 + width);
    piece[0] = width ? first : first | size;
    if (width) piece.writeUIntBE(size, 1, width);
    pieces.push(piece);
  };
  const put = (value) => {
    if (value === null || value === undefined) pieces.push(Buffer.of(0xc0));
    else if (typeof value === "boolean") pieces.push(Buffer.of(value ? 0xc3 : 0xc2));
    else if (typeof value === "number") {
      const piece = Buffer.alloc(9);
      if (Number.isSafeInteger(value) && !Object.is(value, -0)) {
        piece[0] = 0xd3;
        piece.writeBigInt64BE(BigInt(value), 1);
      } else {
        piece[0] = 0xcb;
        piece.writeDoubleBE(value, 1);
      }
      pieces.push(piece);
    } else if (typeof value === "string") {
      const text = Buffer.from(value, "utf8");
      head(text.length, [[31, 0xa0, 0], [0xff, 0xd9, 1], [0xffff, 0xda, 2], [Infinity, 0xdb, 4]]);
      pieces.push(text);
    } else if (value instanceof Uint8Array) {
      head(value.length, [[0xff, 0xc4, 1], [0xffff, 0xc5, 2], [Infinity, 0xc6, 4]]);
      pieces.push(value);
    } else if (Array.isArray(value)) {
      head(value.length, [[15, 0x90, 0], [0xffff, 0xdc, 2], [Infinity, 0xdd, 4]]);
      value.forEach(put);
    } else {
      const entries = Object.entries(value);
      head(entries.length, [[15, 0x80, 0], [0xffff, 0xde, 2], [Infinity, 0xdf, 4]]);
      for (const [key, one] of entries) put(key), put(one);
    }
  };
  put(value);
  return Buffer.concat(pieces);
}

function decode(data) {
  let at = 0;
  const unsigned = (width) => {
    const value = width === 8 ? Number(data.readBigUInt64BE(at)) : data.readUIntBE(at, width);
    at += width;
    return value;
  };
  const signed = (width) => {
    const value = width === 8 ? Number(data.readBigInt64BE(at)) : data.readIntBE(at, width);
    at += width;
    return value;
  };
  const bytes = (size) => data.subarray(at, (at += size));
  const list = (size) => Array.from({ length: size }, take);
  const map = (size) => Object.fromEntries(Array.from({ length: size }, () => [String(take()), take()]));
  const take = () => {
    const kind = data[at++];
    if (kind < 0x80) return kind;
    if (kind < 0x90) return map(kind & 15);
    if (kind < 0xa0) return list(kind & 15);
    if (kind < 0xc0) return bytes(kind & 31).toString("utf8");
    if (kind >= 0xe0) return kind - 256;
    switch (kind) {
      case 0xc0: return null;
      case 0xc2: return false;
      case 0xc3: return true;
      case 0xc4: case 0xc5: case 0xc6: return Buffer.from(bytes(unsigned(1 << (kind - 0xc4))));
      case 0xca: return (at += 4), data.readFloatBE(at - 4);
      case 0xcb: return (at += 8), data.readDoubleBE(at - 8);
      case 0xcc: case 0xcd: case 0xce: case 0xcf: return unsigned(1 << (kind - 0xcc));
      case 0xd0: case 0xd1: case 0xd2: case 0xd3: return signed(1 << (kind - 0xd0));
      case 0xd9: case 0xda: case 0xdb: return bytes(unsigned(1 << (kind - 0xd9))).toString("utf8");
      case 0xdc: case 0xdd: return list(unsigned(2 << (kind - 0xdc)));
      case 0xde: case 0xdf: return map(unsigned(2 << (kind - 0xde)));
      default: throw new Error(`a frame holds a byte 0x${kind.toString(16)}, which is not understood here`);
    }
  };
  return take();
}

class Channel {
  constructor(descriptor) {
    this.socket = new Socket({ fd: descriptor, readable: true, writable: true });
  }

  async *frames() {
    let rest = Buffer.alloc(0);
    let missing = 4;
    const come = [];
    for await (const piece of this.socket) {
      come.push(piece);
      missing -= piece.length;
      if (missing > 0) continue; // long frames are put together once
      rest = Buffer.concat([rest, ...come.splice(0)]);
      while (rest.length >= 4 && rest.length >= 4 + rest.readUInt32BE(0)) {
        const end = 4 + rest.readUInt32BE(0);
        yield decode(rest.subarray(4, end));
        rest = rest.subarray(end);
      }
      missing = (rest.length >= 4 ? 4 + rest.readUInt32BE(0) : 4) - rest.length;
    }
  }

  async send(type, fields = {}) {
    const data = encode({ type, ...fields });
    if (data.length > MAX_FRAME_BYTES)
      throw new RangeError(
        `${type} is ${data.length} bytes, more than ${MAX_FRAME_BYTES}; give large values back as a file`,
      );
    const header = Buffer.alloc(4);
    header.writeUInt32BE(data.length);
    if (!this.socket.write(Buffer.concat([header, data]))) await once(this.socket, "drain");
  }
}

// Schemas: Zod 3 and 4, told apart by what they are made of

const KINDS_OF_3 = /^Zod/;

function kindOf(schema) {
  const { typeName, type } = schema._def;
  return String(typeName ?? type).replace(KINDS_OF_3, "").toLowerCase();
}

function jsonSchema(schema) {
  const definition = schema?._def;
  if (!definition) return {};
  const description = schema.description ?? definition.description;
  const named = (found) => (description ? { ...found, description } : found);
  if (definition[FILE]) return named({ type: "string", format: "file" });
  if (definition[STREAM]) return named({ type: "array", format: "stream", items: jsonSchema(definition[STREAM]) });
  if (definition[BINARY])
    return named({ type: "string", format: "binary", contentMediaType: String(definition[BINARY]) });
  return named(bare(schema, definition));
}

function bare(schema, definition) {
  switch (kindOf(schema)) {
    case "string": return { type: "string", ...textLimits(schema, definition) };
    case "number": return { type: isInteger(schema, definition) ? "integer" : "number", ...numberLimits(schema, definition) };
    case "bigint": case "int": return { type: "integer" };
    case "boolean": return { type: "boolean" };
    case "null": return { type: "null" };
    case "date": return { type: "string", format: "date-time" };
    case "literal": return literal(definition.values ?? [definition.value]);
    case "enum": case "nativeenum": return literal(choicesOf(definition));
    case "array": return { type: "array", items: jsonSchema(definition.element ?? definition.type), ...listLimits(schema, definition) };
    case "set": return { type: "array", items: jsonSchema(definition.valueType), uniqueItems: true };
    case "tuple": return { type: "array", prefixItems: definition.items.map(jsonSchema) };
    case "record": case "map": return { type: "object", additionalProperties: jsonSchema(definition.valueType) };
    case "object": return objectSchema(definition);
    case "union": case "discriminatedunion": return { anyOf: [...(definition.options.values?.() ?? definition.options)].map(jsonSchema) };
    case "intersection": return { allOf: [jsonSchema(definition.left), jsonSchema(definition.right)] };
    case "nullable": return { anyOf: [jsonSchema(definition.innerType), { type: "null" }] };
    case "default": case "prefault": return { ...jsonSchema(definition.innerType), default: plainDefault(definition.defaultValue) };
    case "optional": case "readonly": case "catch": case "nonoptional": return jsonSchema(definition.innerType);
    case "effects": return jsonSchema(definition.schema);
    case "pipe": case "pipeline": return jsonSchema(definition.in);
    case "branded": return jsonSchema(definition.type);
    default: return {}; // any, unknown, lazy ones, which may be without end
  }
}

function objectSchema(definition) {
  const shape = typeof definition.shape === "function" ? definition.shape() : definition.shape;
  const properties = Object.fromEntries(Object.entries(shape).map(([name, one]) => [name, jsonSchema(one)]));
  const required = Object.entries(shape)
    .filter(([, one]) => !one._def?.[STREAM] && !one.isOptional())
    .map(([name]) => name);
  return { type: "object", properties, ...(required.length ? { required } : {}) };
}

function literal(values) {
  const kinds = new Set(values.map((value) => typeof value));
  const type = kinds.size === 1 && { string: "string", number: "number", boolean: "boolean" }[[...kinds][0]];
  return { ...(type ? { type } : {}), ...(values.length === 1 ? { const: values[0] } : { enum: values }) };
}

function choicesOf(definition) {
  const given = definition.entries ?? definition.values;
  if (Array.isArray(given)) return given;
  // an enum of TypeScript also leads from its numbers back to its names
  return Object.entries(given).filter(([name]) => typeof given[given[name]] !== "number").map(([, value]) => value);
}

function plainDefault(value) {
  return JSON.parse(JSON.stringify((typeof value === "function" ? value() : value) ?? null));
}

function limits(given) {
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== null && value !== undefined));
}

function checksOf(definition) {
  return (definition.checks ?? []).map((check) => check._zod?.def ?? check);
}

function textLimits(schema, definition) {
  const found = { minLength: schema.minLength, maxLength: schema.maxLength };
  for (const check of [definition, ...checksOf(definition)]) {
    const format = check.format ?? check.kind;
    const pattern = check.pattern ?? check.regex;
    if (format === "regex" && pattern) found.pattern = pattern.source;
    else if (format === "url") found.format = "uri";
    else if (format === "datetime") found.format = "date-time";
    else if (["email", "uuid", "date", "time"].includes(format)) found.format = format;
  }
  return limits(found);
}

function isInteger(schema, definition) {
  return schema.isInt === true || checksOf(definition).some((check) => check.kind === "int" || /int/.test(check.format ?? ""));
}

function numberLimits(schema, definition) {
  const found = {};
  for (const check of checksOf(definition)) {
    const [kind, open] = [check.kind ?? check.check, check.inclusive === false];
    if (kind === "min" || kind === "greater_than") found[open ? "exclusiveMinimum" : "minimum"] = check.value;
    if (kind === "max" || kind === "less_than") found[open ? "exclusiveMaximum" : "maximum"] = check.value;
    if (kind === "multipleOf" || kind === "multiple_of") found.multipleOf = check.value;
  }
  return limits(found);
}

function listLimits(schema, definition) {
  const found = { minItems: definition.minLength?.value, maxItems: definition.maxLength?.value };
  for (const check of checksOf(definition)) {
    if (check.check === "min_length") found.minItems = check.minimum;
    if (check.check === "max_length") found.maxItems = check.maximum;
  }
  return limits(found);
}

// What an app is, and what it gives back

function functionsOf(app, exported) {
  const names = new Set();
  for (let owner = app.prototype; owner && owner !== Object.prototype; owner = Object.getPrototypeOf(owner))
    for (const name of Object.getOwnPropertyNames(owner))
      if (typeof Object.getOwnPropertyDescriptor(owner, name).value === "function") names.add(name);
  const found = {};
  for (const name of names) {
    if (NO_FUNCTIONS.has(name) || name.startsWith("_")) continue;
    const stem = name[0].toUpperCase() + name.slice(1);
    const [input, output] = [exported[`${stem}Input`], exported[`${stem}Output`]];
    if (!input && !output && name !== "run") continue;
    const parameters = /^[^(]*\(([^)]*)\)/.exec(Function.prototype.toString.call(app.prototype[name]))?.[1] ?? "";
    const kind = /,\s*(socket|sock)\b/.test(parameters) ? "stream" : "run";
    const about = { description: "", input_schema: jsonSchema(input), output_schema: jsonSchema(output), capabilities: [], kind };
    found[name] = { input, about };
  }
  return found;
}

function isFile(value) {
  return typeof value?.toJSON === "function" && typeof value.getPath === "function";
}

function* filesIn(value, dumped, place = []) {
  if (isFile(value)) yield place;
  else if (value && dumped && typeof value === "object" && typeof dumped === "object")
    for (const key of Object.keys(dumped)) yield* filesIn(value[key], dumped[key], [...place, Array.isArray(dumped) ? Number(key) : key]);
}

function result(value) {
  const dumped = value === undefined ? null : JSON.parse(JSON.stringify(value) ?? "null");
  let meta = null;
  if (dumped && typeof dumped === "object" && !Array.isArray(dumped) && "output_meta" in dumped) {
    meta = dumped.output_meta;
    delete dumped.output_meta;
  }
  return { value: dumped, files: [...filesIn(value, dumped)], meta };
}

class Unfit extends Error {}

async function checked(schema, value) {
  const given = value ?? {};
  if (!schema) return given;
  const read = await schema.safeParseAsync(given);
  if (read.success) return read.data;
  const issues = read.error.issues.map(({ path, message }) => `${path.join(".") || "input"}: ${message}`);
  const error = new Unfit(issues.join("\n"));
  error.name = "ZodError";
  throw error;
}

function failure(error, code) {
  const known = error instanceof Error;
  const message = (known ? error.message || error.name : String(error)) || "an empty error";
  const trace = known && code !== "validation" ? `${error.stack}\n` : "";
  const told = code === "import" ? `the app cannot be imported: ${message}` : message;
  return { message: told, code, name: known ? error.name : typeof error, trace };
}

class Metadata {
  constructor(values) {
    const names = ["worker_id", "app_id", "app_version_id", "task_id", "team_id", "user_id"];
    Object.assign(this, Object.fromEntries(names.map((name) => [name, ""])), { app_variant: "default", gpu_ids: [] }, values);
  }
}

class Host {
  constructor(channel) {
    this.channel = channel;
    this.functions = {};
    this.app = null;
    this.about = {};
    this.context = { cancelRequested: false, metadata: new Metadata({}) };
    this.pending = new Map(); // calls that came and have not ended -> is it to be cancelled?
    this.current = [];
    this.telling = null; // `onCancel`, which ends before the call that it is about
  }

  async run() {
    let done = Promise.resolve();
    for await (const frame of this.channel.frames()) {
      if (frame.type === "cancel") {
        this.cancel(frame.call);
        continue;
      }
      for (const call of frame.calls ?? (frame.call === undefined ? [] : [frame.call])) this.pending.set(call, false);
      done = done.then(() => this.handle(frame));
    }
    endEverything(); // the server is gone
  }

  async handle(frame) {
    switch (frame.type) {
      case "load":
        return this.load(frame).catch(async (error) => {
          await this.channel.send("failed", failure(error, "import"));
          this.end(1);
        });
      case "setup":
        return this.prepared("setup", () => this.setup(frame.value, frame.metadata ?? {}));
      case "restore":
        return this.prepared("setup", () => this.app.restore(decode(frame.state)));
      case "snapshot":
        try {
          return await this.channel.send("state", { state: encode(await this.app.snapshot()) });
        } catch (error) {
          return this.channel.send("failed", failure(error, "app"));
        }
      case "run":
        return this.call(frame);
      case "runmany":
        this.current = frame.calls;
        for (const call of frame.calls)
          await this.failed(call, new Unfit(`'${frame.function}' takes one input at a time`));
        return;
      case "unload":
        await this.quietly("unload");
        return this.end(0);
      default:
        return this.channel.send("failed", failure(new Error(`a frame '${frame.type}' came, which this harness does not know`), "setup"));
    }
  }

  async prepared(code, action) {
    try {
      await action();
      await this.channel.send("ready");
    } catch (error) {
      await this.channel.send("failed", failure(error, code));
    }
  }

  async load({ directory, protocol = PROTOCOL }) {
    if (protocol !== PROTOCOL) throw new Error(`this is protocol ${PROTOCOL}, not ${protocol}`);
    const entry = ENTRIES.find((name) => existsSync(join(directory, name)));
    if (!entry) throw new Error(`${directory} has no inference.js`);
    process.chdir(directory);
    this.exported = await import(pathToFileURL(join(directory, entry)).href);
    this.kind = this.exported.App;
    if (typeof this.kind !== "function") throw new Error(`${entry} exports no class named App`);
    this.functions = functionsOf(this.kind, this.exported);
    await this.channel.send("loaded", {
      functions: Object.fromEntries(Object.entries(this.functions).map(([name, { about }]) => [name, about])),
      setup_schema: jsonSchema(this.exported.AppSetup),
      session: SESSIONS.has(this.kind.session) ? this.kind.session : "",
      cancels: typeof this.kind.prototype.onCancel === "function",
    });
  }

  async setup(value, metadata) {
    if (this.app) await this.quietly("unload");
    this.app = null;
    this.about = metadata;
    this.context = { cancelRequested: false, metadata: new Metadata(metadata) };
    const app = new this.kind();
    for (const [name, given] of [["logger", console], ["context", this.context]]) if (app[name] === undefined) app[name] = given;
    if (typeof app.setup === "function")
      await app.setup(await checked(this.exported.AppSetup, value), this.context.metadata);
    this.app = app;
  }

  cancel(call) {
    if (this.pending.get(call) !== false) return; // it has ended, or this was said before
    this.pending.set(call, true);
    if (!this.current.includes(call)) return;
    this.context.cancelRequested = true;
    this.telling = this.quietly("onCancel");
  }

  async quietly(name) {
    try {
      await this.app?.[name]?.();
    } catch (error) {
      console.error(error);
    }
  }

  async call(frame) {
    const { call } = frame;
    this.current = [call];
    this.context.cancelRequested = this.pending.get(call);
    this.context.metadata = new Metadata({ ...this.about, ...frame.metadata });
    let last = { value: null, files: [], meta: null };
    try {
      if (!this.pending.get(call)) {
        const input = await checked(this.functionOf(frame.function).input, frame.input);
        const returned = await this.app[frame.function](input, this.context.metadata);
        if (typeof returned?.next === "function") {
          for await (const output of returned) {
            last = result(output);
            await this.channel.send("output", { call, value: last.value, files: last.files });
            if (this.pending.get(call)) break; // it is at a place where it can be ended
          }
        } else last = result(returned);
      }
      await this.telling;
      await this.channel.send("done", { call, ...last, cancelled: this.ended(call) });
    } catch (error) {
      await this.telling;
      await this.failed(call, error);
    }
    [this.current, this.telling] = [[], null];
  }

  functionOf(name) {
    const found = this.functions[name];
    if (!found) throw new Unfit(`the app has no function '${name}'; it has ${Object.keys(this.functions).join(", ") || "none"}`);
    if (found.about.kind === "stream") throw new Unfit(`'${name}' takes a socket, and live streams are not offered`);
    if (!this.app) throw new Unfit("the app was not set up");
    return found;
  }

  async failed(call, error) {
    this.ended(call);
    await this.channel.send("failed", { call, ...failure(error, error instanceof Unfit ? "validation" : "app") });
  }

  ended(call) {
    const cancelled = this.pending.get(call) ?? false;
    this.pending.delete(call);
    return cancelled;
  }

  end(status) {
    this.channel.socket.end(() => process.exit(status));
    return new Promise(() => {});
  }
}

function endEverything() {
  try {
    process.kill(-process.pid, "SIGKILL"); // with those that it started, if it leads a group of its own
  } catch {
    process.exit(1);
  }
}

process.on("unhandledRejection", (error) => console.error(error)); // as elsewhere: what runs beside a call does not end it
const channel = new Channel(Number(process.argv[2]));
channel.socket.on("error", endEverything);
await new Host(channel).run();
