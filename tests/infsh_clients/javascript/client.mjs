// Everything that npm `@inferencesh/sdk` can do with tasks, files, sessions and apps, against the server at a URL.
//
//     node client.bundle.mjs stream|poll URL URL-WHOSE-STREAMS-ARE-CUT
//
// The package imports its own files without their extensions, so it runs through a bundler only. Prints what came of
// each method as one line of JSON.
import { createServer } from "node:http";
import { Inference, inference, StreamManager, streamable } from "@inferencesh/sdk";
import { processProxyRequest } from "@inferencesh/sdk/proxy";
import { EventSource } from "eventsource";

const APP = "acme/everything";
const [kind, url, cut] = process.argv.slice(2);
const config = { apiKey: "inf_anything", baseUrl: url, stream: kind === "stream", pollIntervalMs: 50 };
const client = kind === "stream" ? new Inference(config) : inference(config);
const done = {};

const params = (name, input = {}, more = {}) => ({ app: `${APP}:${name}`, input, ...more });
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const data = async (response) => (await response).data;

async function refusal(call) {
  try {
    await call();
    return { type: null };
  } catch (err) {
    const { name, message, statusCode, errors } = err;
    let code = null;
    try {
      code = JSON.parse(err.responseBody).error.code;
    } catch {}
    return { type: name, message, status: statusCode ?? null, code, keys: (errors ?? []).map((one) => one.key) };
  }
}

async function running(task) {
  while ((await client.getTask(task)).data.status < 7) await pause(50);
}

// tasks
const updates = [];
const partial = [];
const deltas = [];
done["run"] = await client.run(params("run", { upto: 4, pause: 0.05 }), {
  onUpdate: (task) => updates.push({ status: task.status, output: task.output }),
  onPartialUpdate: (task, fields) => partial.push({ status: task.status, output: task.output, fields }),
});
done["onUpdate"] = updates;
done["onPartialUpdate"] = partial;
const started = await client.run(params("run", { upto: 2 }), { wait: false });
done["run wait: false"] = started;
done["tasks.watch"] = await client.tasks.watch(started).done;
done["tasks.get"] = await data(client.tasks.get(started.id));
done["getTask"] = await data(client.getTask(started.id));
const created = await data(client.tasks.create(params("count")));
done["tasks.create"] = created;
done["tasks.run"] = await client.tasks.run(params("count"), { why: "x" }, {});
done["onDelta"] = {
  task: await client.run(params("speak", { text: "one two three" }), {
    onDelta: (delta, seq) => deltas.push({ delta, seq }),
  }),
  deltas,
};
done["failed"] = await refusal(() => client.run(params("fail", { why: "out of luck", delay: 0.1 })));
for (const [name, cancel] of [
  ["cancel", (task) => client.cancel(task)],
  ["tasks.cancel", (task) => client.tasks.cancel(task)],
]) {
  const task = await client.run(params("wait"), { wait: false });
  const outcome = refusal(() => client.tasks.watch(task).done);
  await running(task.id);
  await cancel(task.id);
  done[name] = await outcome;
}
done["tasks.list"] = await data(
  client.tasks.list({ limit: 3, filters: [{ field: "status", operator: "eq", value: 10 }] }),
);
done["tasks.list next"] = await data(client.tasks.list({ limit: 3, cursor: done["tasks.list"].next_cursor }));
done["tasks.list all"] = await data(client.tasks.list());
done["tasks.listFeatured"] = await data(client.tasks.listFeatured({ limit: 5 }));
done["tasks.getLogs"] = await data(client.tasks.getLogs(done["run"].id));
done["tasks.getTimings"] = await data(client.tasks.getTimings(done["run"].id));
done["tasks.getTelemetry"] = await data(client.tasks.getTelemetry(done["run"].id));
done["tasks.updateVisibility"] = await refusal(() => client.tasks.updateVisibility(started.id, "public"));
done["tasks.delete"] = (await client.tasks.delete(created.id), await refusal(() => client.getTask(created.id)));

// streams by themselves
async function listened(open) {
  const seen = [];
  const task = await client.run(params("run", { upto: 3, pause: 0.05 }), { wait: false });
  await new Promise((resolve, reject) => {
    const manager = new StreamManager({
      createEventSource: () => open(task.id),
      autoReconnect: false,
      onData: (one) => {
        seen.push({ status: one.status, output: one.output });
        if (one.status >= 10) {
          manager.stop();
          resolve();
        }
      },
      onPartialData: (one, fields) => seen.push({ status: one.status, output: one.output, fields }),
      onError: reject,
    });
    manager.connect();
  });
  return seen;
}
done["tasks.stream"] = await listened((task) => client.tasks.stream(task));
done["streamTask"] = await listened((task) => client.streamTask(task));
const lines = [];
const headers = { Authorization: "Bearer inf_anything" };
for await (const line of streamable(`${url}/tasks/${started.id}/stream`, { headers })) lines.push(line);
done["streamable"] = lines;

// connections that break
const unlucky = new Inference({ ...config, baseUrl: cut });
done["cut run"] = await refusal(() => unlucky.run(params("run", { upto: 20, pause: 0.1 })));
const long = await client.run(params("run", { upto: 20, pause: 0.1 }), { wait: false });
done["cut EventSource"] = await new Promise((resolve) => {
  const seen = [];
  const source = new EventSource(`${cut}/tasks/${long.id}/stream`);
  source.onmessage = (event) => {
    seen.push(JSON.parse(event.data));
    if (seen.at(-1).status >= 10) {
      source.close();
      resolve(seen);
    }
  };
});
const longer = await client.run(params("run", { upto: 20, pause: 0.1 }), { wait: false });
done["cut StreamManager"] = await new Promise((resolve) => {
  const seen = [];
  const look = (one) => {
    seen.push({ status: one.status, output: one.output });
    if (one.status < 10) return;
    manager.stop();
    resolve(seen);
  };
  const createEventSource = () => unlucky.streamTask(longer.id);
  const manager = new StreamManager({ createEventSource, reconnectDelayMs: 50, maxReconnects: 100, onData: look });
  manager.options.onPartialData = look;
  manager.connect();
});

// other ways to the server
const v2 = new Inference({ ...config, headers: { "X-API-Version": "2" } });
done["bare objects"] = await v2.run(params("run", { upto: 2 }));
done["bare errors"] = await refusal(() => v2.run({ app: "acme/nope", input: {} }));
const proxy = createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  await processProxyRequest(
    {
      framework: "node",
      method: request.method,
      header: (name) => request.headers[name],
      headers: () => request.headers,
      query: (name) => new URL(request.url, "http://proxy").searchParams.get(name),
      body: async () => Buffer.concat(chunks).toString(),
      setHeader: (name, value) => response.setHeader(name, value),
      error: (status, body) => response.writeHead(status).end(JSON.stringify(body)),
      respond: async (answer) => {
        response.writeHead(answer.status);
        for await (const chunk of answer.body ?? []) response.write(chunk);
        response.end();
      },
    },
    { apiKey: "inf_of_the_proxy", apiBaseUrl: url, allowedDomains: [/^127\.0\.0\.1/] },
  );
});
await new Promise((resolve) => proxy.listen(0, "127.0.0.1", resolve));
const proxied = new Inference({ ...config, apiKey: undefined, proxyUrl: `http://127.0.0.1:${proxy.address().port}/` });
done["by a proxy"] = await proxied.run(params("run", { upto: 2 }));
done["errors by a proxy"] = await refusal(() => proxied.run({ app: "acme/nope", input: {} }));
proxy.close();

// files
const blob = new Blob(["some words"], { type: "text/plain" });
done["uploadFile"] = await client.uploadFile(blob, { filename: "words.txt" });
done["files.upload"] = await client.files.upload(new File(["more words"], "more.txt", { type: "text/plain" }));
const uri = `data:text/plain;base64,${Buffer.from("data words").toString("base64")}`;
done["upload data URI"] = await client.uploadFile(uri);
done["processInput"] = await client.files.processInput({ deep: [blob, "text"] });
done["files in the input"] = await client.run(params("shout", { file: blob, others: [uri, done["files.upload"].uri] }));
done["download"] = await (await fetch(done["files in the input"].output.capitals)).text();
done["files.list"] = await data(client.files.list({ limit: 2 }));
done["files.get"] = await data(client.files.get(done["uploadFile"].id));
done["files.delete"] =
  (await client.files.delete(done["uploadFile"].id), await refusal(() => client.files.get(done["uploadFile"].id)));

// sessions
const first = await client.run(params("count", {}, { session: "new", session_timeout: 30 }));
const second = await client.run(params("count", {}, { session: first.session_id }));
const session = first.session_id;
done["session"] = { id: session, first, second };
done["sessions.get"] = await data(client.sessions.get(session));
done["sessions.list"] = await data(client.sessions.list());
done["sessions.keepalive"] = await data(client.sessions.keepalive(session));
done["sessions.end"] = (await client.sessions.end(session), await data(client.sessions.get(session)));
done["ended session"] = await refusal(() => client.run(params("count", {}, { session })));
done["unknown session"] = await refusal(() => client.sessions.get("nope"));

// apps
done["apps.getByName"] = await data(client.apps.getByName(APP));
done["apps.get"] = await data(client.apps.get(done["apps.getByName"].id));
done["apps.list"] = await data(client.apps.list({ search: { term: "everything" } }));
done["apps.listVersions"] = await data(client.apps.listVersions(done["apps.get"].id));
done["apps.getByVersionId"] = await data(
  client.apps.getByVersionId(done["apps.get"].id, done["apps.get"].version_id),
);

// refusals, and what is not offered
done["unknown app"] = await refusal(() => client.run({ app: "acme/nope", input: {} }));
done["missing secret"] = await refusal(() => client.run({ app: "acme/secretive", input: {} }));
done["bad input"] = await refusal(() => client.run(params("run", { upto: "many" })));
done["flows.list"] = await data(client.flows.list({}));
done["engines.list"] = await data(client.engines.list({}));
done["teams.list"] = await data(client.teams.list());
done["flows.get"] = await refusal(() => client.flows.get("x"));
done["secrets.list"] = await data(client.secrets.list({}));

process.stdout.write(JSON.stringify(done), () => process.exit(0));
