// The functions on Restate's TypeScript SDK, served by its own endpoint over HTTP/2.
// PORT and STEPWELL_BENCH_MARKS are set; NODE_PATH leads to `@restatedev/restate-sdk`.
const fs = require("fs");
const restate = require("@restatedev/restate-sdk");

// Its SDK wants this of Node 22; everything else it does on Node 20.
Promise.withResolvers ??= () => {
  let resolve, reject;
  const promise = new Promise((one, other) => ([resolve, reject] = [one, other]));
  return { promise, resolve, reject };
};

const { PORT, STEPWELL_BENCH_MARKS } = process.env;
const file = fs.openSync(STEPWELL_BENCH_MARKS, "a");
const mark = (key, name) => fs.writeSync(file, `${process.hrtime.bigint()} ${key} ${name}\n`); // the monotonic clock
const step = (key, number) => {
  mark(key, `s${number}`);
  return { number };
};

const bench = restate.service({
  name: "bench",
  handlers: {
    seq: async (ctx, { key, steps }) => {
      for (let number = 0; number < steps; number++) await ctx.run(`s${number}`, () => step(key, number));
      mark(key, "done");
    },
    fan: async (ctx, { key, width }) => {
      const steps = Array.from({ length: width }, (_, number) => ctx.run(`s${number}`, () => step(key, number)));
      await restate.RestatePromise.all(steps);
      mark(key, "done");
    },
  },
});

restate.serve({ services: [bench], port: Number(PORT) });
