/** The client's core, against a server that does as it is told: tests/support/scripted.py. */

import assert from "node:assert/strict";
import { after, afterEach, beforeEach, test } from "node:test";

import * as errors from "../src/att.js";
import {
  AT,
  G1,
  G2,
  G3,
  ME,
  connectedTo,
  deferred,
  memoryStore,
  message,
  next,
  script,
  seqs,
  take,
} from "./support.js";

const { Att, AttError, Forbidden, Invalid, NotFound, NotSignedIn, ProtocolError, Unavailable } = errors;
const url = process.env.ATT_SCRIPT_URL;
const { random } = Math;
let clients = [];

function client(options = {}) {
  const att = new Att(url, { token: "secret", store: null, ...options });
  clients.push(att);
  return att;
}

beforeEach(() => (Math.random = () => 0.001));
afterEach(() => {
  for (const att of clients) att.close();
  clients = [];
});
after(() => (Math.random = random));

// Hearing

test("every frame is an event, and what is not known is passed over", async () => {
  const heard = [
    message(5, { data: { n: 1 } }),
    { type: "joined", group: G1, name: "tea", seq: 6, user: { id: ME, login: "ann" }, at: AT },
    { type: "gap", group: G2, name: "two", from: 10, to: 20 },
    { type: "left", group: G1, name: "tea", seq: 7, user: ME, at: AT },
  ];
  const weather = { type: "weather", group: [G1], seq: "low" };
  await script({ groups: { [G1]: 4, [G2]: 9 }, parts: [{ send: [weather, ...heard] }] });
  const att = client();
  const events = ["message", "joined", "gap", "left"].map((type) => next(att, type));
  const hello = await att.connect();
  assert.equal(hello.user_id, ME);
  assert.equal(att.userId, ME);
  assert.deepEqual(
    (await Promise.all(events)).map(({ type }) => type),
    ["message", "joined", "gap", "left"],
  );
  assert.deepEqual(await events[0], heard[0]);
});

test("the token goes in a subprotocol, which is not sent back", async () => {
  const seen = await script({ parts: [{ send: [message(1)] }] });
  await client().connect();
  assert.deepEqual((await seen()).offered, [[null, "att.v1, att.bearer.secret"]]);
});

test("a lost connection is resumed after what was received; a group that was joined meanwhile from its beginning", async () => {
  const seen = await script({
    groups: { [G1]: 4 },
    parts: [
      { send: [message(5), message(6)], close: [1001], then: { groups: { [G1]: 6, [G2]: 1 } } },
      { send: [message(1, { group: G2 }), message(7)] },
    ],
  });
  assert.deepEqual(seqs(await take(client(), 4)), [5, 6, 1, 7]);
  assert.deepEqual((await seen()).resumes, [{ [G1]: 4 }, { [G1]: 6, [G2]: 0 }]);
});

test("what the server sends is given in its order, and the position in a group that one has left is kept", async () => {
  const left = { type: "left", group: G1, name: "tea", seq: 5, user: ME, at: AT };
  const seen = await script({
    groups: { [G1]: 4 },
    parts: [
      { send: [left], close: [1001], then: { groups: { [G2]: 0 } } },
      { send: [2, 3, 3].map((n) => message(n, { group: G2 })) },
    ],
  });
  assert.deepEqual(seqs(await take(client(), 3)), [2, 3, 3]);
  assert.deepEqual((await seen()).resumes[1], { [G1]: 5, [G2]: 0 });
});

test("positions are of a new epoch only when all that it has lost was told", async () => {
  const rewinds = [G1, G2].map((group) => ({ type: "rewind", group, name: "tea", to: 4 }));
  const seen = await script({
    groups: { [G1]: 7, [G2]: 7 },
    parts: [
      { send: [message(8)], close: [4001], then: { epoch: "second" } },
      { send: [rewinds[0], message(5)], close: [1001] },
      { send: [...rewinds, { type: "epoch", epoch: "second" }, message(5)], close: [1001] },
      { send: [message(6)] },
    ],
  });
  const att = client();
  const rewound = [];
  att.on("rewind", ({ to }) => rewound.push(to));
  assert.deepEqual(seqs(await take(att, 4)), [8, 5, 5, 6]);
  assert.deepEqual(rewound, [4, 4, 4]);
  const { resumes, epochs } = await seen();
  assert.deepEqual(epochs, ["first", "first", "first", "second"]);
  assert.deepEqual(resumes.slice(1), [
    { [G1]: 8, [G2]: 7 },
    { [G1]: 5, [G2]: 7 },
    { [G1]: 5, [G2]: 4 },
  ]);
});

test("an error of a handler is the page's; the others hear the event, and the connection goes on", async () => {
  await script({ parts: [{ send: [message(1), message(2)] }] });
  const att = client();
  const uncaught = [];
  const listeners = process.listeners("uncaughtException");
  process.removeAllListeners("uncaughtException");
  process.on("uncaughtException", (error) => uncaught.push(error.message));
  att.on("message", () => {
    throw new Error("mine");
  });
  assert.deepEqual(seqs(await take(att, 2)), [1, 2]);
  process.removeAllListeners("uncaughtException");
  for (const listener of listeners) process.on("uncaughtException", listener);
  assert.deepEqual(uncaught, ["mine", "mine"]);
});

test("a handler is ended by its function and by a signal", async () => {
  await script({ parts: [{ send: [message(1), message(2), message(3)] }] });
  const att = client();
  const heard = { once: [], until: [] };
  const abort = new AbortController();
  const off = att.on("message", ({ seq }) => (heard.once.push(seq), off()));
  att.on("message", ({ seq }) => (heard.until.push(seq), seq === 2 && abort.abort()), { signal: abort.signal });
  await take(att, 3);
  assert.deepEqual(heard, { once: [1], until: [1, 2] });
});

// The end of a connection

for (const close of [[1000], [1001], [1011], [1012], [1013], [4000], [4001], [4499], [5000 - 1000], null])
  test(`after ${close ?? "a broken connection"} the client connects again`, async () => {
    await script({ parts: [close ? { close } : { abort: true }, { send: [message(1)] }] });
    const att = client();
    const lost = next(att, "disconnected");
    assert.deepEqual(seqs(await take(att, 1)), [1]);
    assert.equal((await lost).delay, 0.0005);
    assert.ok((await lost).error instanceof Unavailable);
  });

for (const [code, reason, kind, says] of [
  [4500, "session ended", NotSignedIn, "session ended"],
  [4501, "data: must be an object", ProtocolError, "protocol error"],
  [4502, "forbidden", Forbidden, "forbidden"],
  [4999, "no more", AttError, "error"],
])
  test(`${code} is the end, after the events that came before`, async () => {
    await script({ parts: [{ send: [message(1)], close: [code, reason] }] });
    const att = client();
    const ended = next(att, "ended");
    assert.deepEqual(seqs(await take(att, 1)), [1]);
    const error = await ended;
    assert.equal(error.constructor, kind);
    assert.equal(error.code, says);
    assert.equal(att.connected, false);
  });

test("what is refused before hello fails connect", async () => {
  await script({
    parts: [
      { hello: false, close: [4500, "session ended"] },
      { hello: false, send: ["nonsense"] },
    ],
  });
  await assert.rejects(client().connect(), NotSignedIn);
  await assert.rejects(client().connect(), ProtocolError);
});

for (const text of ["nonsense", "[]", "{}", '{"type":1}', "null"])
  test(`a server that sends ${text} is not listened to any more`, async () => {
    await script({ parts: [{ send: [text] }] });
    const att = client();
    const ended = next(att, "ended");
    await att.connect();
    assert.ok((await ended) instanceof ProtocolError);
  });

for (const [reason, hint] of [
  ["server is stopping; retry in 0.007 s", 0.007],
  ["server is stopping; retry in 99999 s", 300],
  ["server is stopping; retry in 7 s or so", 0],
  ["retry", 0],
])
  test(`"${reason}" is a hint of ${hint} s`, async () => {
    await script({ parts: [{ close: [1001, reason] }, {}] });
    const att = client();
    const lost = next(att, "disconnected");
    await att.connect();
    assert.equal((await lost).delay, hint + 0.0005);
  });

test("pauses are random up to a bound that doubles to half a minute", async () => {
  await script({ parts: [...Array(8).fill({ status: 503 }), { send: [message(1)] }] });
  const att = client();
  const delays = [];
  att.on("disconnected", ({ delay }) => delays.push(delay * 1000));
  await take(att, 1);
  assert.deepEqual(delays, [0.5, 1, 2, 4, 8, 16, 30, 30]);
});

test("a client that wakes tries at once", async () => {
  globalThis.document = Object.assign(new EventTarget(), { hidden: true });
  try {
    await script({ parts: [{ close: [1001] }, { send: [message(1)] }] });
    const att = client();
    const heard = take(att, 1);
    Math.random = () => 1e6;
    await next(att, "disconnected");
    document.dispatchEvent(new Event("visibilitychange"));
    document.hidden = false;
    await deferred(1);
    document.dispatchEvent(new Event("visibilitychange"));
    assert.deepEqual(seqs(await heard), [1]);
  } finally {
    delete globalThis.document;
  }
});

test("a silent server is asked, and given up if it does not answer", async () => {
  const seen = await script({ heartbeat: 0.05, parts: [{ deaf: true }, { send: [message(1)] }] });
  await take(client(), 1);
  assert.deepEqual((await seen()).frames, [{ type: "ping" }]);
});

test("a server that answers is not given up, however little it has to say", async () => {
  await script({ heartbeat: 0.05, parts: [{ pongs: 3, send: [], afterwards: [message(1)] }] });
  const att = client();
  att.on("disconnected", () => assert.fail());
  assert.deepEqual(seqs(await take(att, 1)), [1]);
});

test("close ends it, also before hello, and connect begins anew where it was", async () => {
  const seen = await script({
    groups: { [G1]: 0 },
    parts: [{ hello: false }, { send: [message(1)] }, { send: [message(2)] }],
  });
  const att = client();
  const connecting = assert.rejects(att.connect(), { message: "The client was closed." });
  while (!(await seen()).offered.length) await null;
  att.close();
  await connecting;
  assert.deepEqual(seqs(await take(att, 1)), [1]);
  const closed = next(att, "closed");
  att.close();
  await closed;
  assert.deepEqual(seqs(await take(att, 1)), [2]);
  assert.deepEqual((await seen()).resumes, [{ [G1]: 0 }, { [G1]: 1 }]);
});

test("a signal closes the connection", async () => {
  await script({ parts: [{}] });
  const att = client();
  const abort = new AbortController();
  await att.connect({ signal: abort.signal });
  abort.abort();
  assert.equal(att.connected, false);
  await assert.rejects(att.connect({ signal: abort.signal }), { name: "AbortError" });
});

// Broadcasting

const broadcasts = ({ frames }) => frames.filter(({ type }) => type === "broadcast");

test("a broadcast is answered by its place", async () => {
  const seen = await script({ parts: [{ acks: 2 }] });
  const att = await connectedTo(client());
  const ack = await att.broadcast("tea", { kettle: "on" });
  assert.deepEqual(ack, { group: G1, seq: 1, at: AT, epoch: "first" });
  await att.broadcast("tea", { kettle: "off" }, { key: "mine" });
  const [one, two] = broadcasts(await seen());
  assert.match(one.key, /^[0-9a-f]{32}$/);
  assert.deepEqual([one.group, one.data, two.key], ["tea", { kettle: "on" }, "mine"]);
  assert.equal(att.pending, 0);
});

test("what was not answered is sent again, with its key, in order, and one after the other", async () => {
  const seen = await script({ parts: [{ acks: 1, frames: 3, close: [1001] }, { acks: 4 }] });
  const att = await connectedTo(client());
  const lost = next(att, "disconnected");
  const sent = [1, 2, 3].map((n) => att.broadcast("tea", { n }));
  await lost;
  const late = att.broadcast("tea", { n: 4 });
  assert.deepEqual(seqs(await Promise.all([...sent, late])), [1, 1, 2, 3]);
  const frames = broadcasts(await seen());
  assert.deepEqual(
    frames.map(({ data }) => data.n),
    [1, 2, 3, 2, 3, 4],
  );
  assert.deepEqual(
    frames.slice(1, 3).map(({ key }) => key),
    frames.slice(3, 5).map(({ key }) => key),
  );
});

test("what was sent before the server was there waits for it", async () => {
  await script({ parts: [{ status: 503 }, { acks: 3 }] });
  const att = client();
  att.connect();
  const sent = [1, 2, 3].map((n) => att.broadcast("tea", { n }));
  assert.equal(att.pending, 3);
  assert.deepEqual(seqs(await Promise.all(sent)), [1, 2, 3]);
});

test("after a refusal that may pass it is sent again, and not overtaken by those that come later", async () => {
  const busy = { type: "error", error: "busy", detail: "It rains." };
  const seen = await script({ parts: [{ answers: [busy, "ack", "ack"] }] });
  const att = await connectedTo(client());
  const first = att.broadcast("tea", { n: 1 });
  await deferred(20); // it was refused by then, or is still on its way: then the second one is sent at once, too
  const second = att.broadcast("tea", { n: 2 });
  await Promise.all([first, second]);
  const order = broadcasts(await seen()).map(({ data }) => data.n);
  assert.ok(["1,1,2", "1,2,1"].includes(String(order)), order);
});

for (const [error, kind] of [
  ["not a member", Forbidden],
  ["no such group", NotFound],
  ["key reused", Invalid],
  ["invalid", Invalid],
  ["quite new", AttError],
])
  test(`a refusal as "${error}" is raised`, async () => {
    await script({ parts: [{ answers: [{ type: "error", error, detail: "It rains." }] }] });
    const att = await connectedTo(client());
    const reason = await att.broadcast("tea", {}).catch((reason) => reason);
    assert.equal(reason.constructor, kind);
    assert.deepEqual([reason.code, reason.message], [error, "It rains."]);
  });

test("what cannot be a message is not sent", async () => {
  await script({ parts: [{}] });
  const att = await connectedTo(client());
  for (const data of [null, [], 1, "text", undefined, () => {}])
    await assert.rejects(att.broadcast("tea", data), Invalid);
  await assert.rejects(att.broadcast("tea", { text: "ö".repeat(2 ** 19) }), { code: "body too large" });
});

test("the outbox has bounds, a signal takes a message out, and close fails all", async () => {
  await script({ parts: [{ status: 503 }] });
  Math.random = () => 1e6;
  const att = client();
  att.connect().catch(() => {});
  const abort = new AbortController();
  const taken = att.broadcast("tea", {}, { signal: abort.signal });
  const kept = Array.from({ length: 999 }, () => att.broadcast("tea", {}));
  await assert.rejects(att.broadcast("tea", {}), { code: "outbox full" });
  abort.abort();
  await assert.rejects(taken, { name: "AbortError" });
  kept.push(att.broadcast("tea", {}));
  assert.equal(att.pending, 1000);
  att.close();
  for (const { reason } of await Promise.allSettled(kept)) assert.ok(reason instanceof Unavailable);
  const large = client();
  large.connect().catch(() => {});
  const filling = Array.from({ length: 8 }, () => large.broadcast("tea", { text: "x".repeat(2 ** 20 - 100) }));
  await assert.rejects(large.broadcast("tea", { text: "x".repeat(1000) }), { code: "outbox full" });
  large.close();
  await Promise.allSettled(filling);
});

test("without a connection it goes over HTTP, with one key, until it is accepted", async () => {
  const accepted = { json: { group: G1, seq: 3, at: AT, epoch: "first", delivered: 1, dropped: 0 } };
  const seen = await script({ answers: [{ status: 503, headers: { "Retry-After": "0" } }, null, accepted] });
  assert.equal((await client().broadcast("to / tea", { n: 1 })).seq, 3);
  const { requests } = await seen();
  assert.deepEqual(
    requests.map(([path]) => path),
    Array(3).fill("/broadcast/to%20%2F%20tea"),
  );
  assert.deepEqual(
    requests.map(([, , body]) => body),
    Array(3).fill('{"n":1}'),
  );
  assert.equal(new Set(requests.map(([, key]) => key)).size, 1);
});

// Requests

for (const [status, kind] of [
  [400, Invalid],
  [401, NotSignedIn],
  [403, Forbidden],
  [404, NotFound],
  [409, errors.Conflict],
  [412, errors.PreconditionFailed],
  [413, Invalid],
  [418, AttError],
  [422, Invalid],
  [429, errors.TooManyAttempts],
  [500, Unavailable],
  [501, AttError],
  [503, Unavailable],
])
  test(`a response ${status} is raised as ${kind.name}`, async () => {
    const problem = { error: "the code", detail: "It rains.", errors: [{ field: "login", detail: "is short" }] };
    await script({ answers: [{ status, json: problem, headers: { "Retry-After": "7" } }, { status }] });
    const error = await client()
      .me()
      .catch((reason) => reason);
    assert.equal(error.constructor, kind);
    assert.deepEqual([error.code, error.message, error.status, error.retryAfter], ["the code", "It rains.", status, 7]);
    assert.deepEqual(error.errors, problem.errors);
    await assert.rejects(client().me(), { code: "error", status });
  });

test("a server that is not att, or not there, is told", async () => {
  await script({ answers: [{ text: "<html>" }] });
  await assert.rejects(client().me(), ProtocolError);
  await assert.rejects(new Att("http://127.0.0.1:1").me(), Unavailable);
});

test("a signal ends a request", async () => {
  await assert.rejects(client().me({ signal: AbortSignal.abort() }), { name: "AbortError" });
});

test("names that a URL would resolve are not found, without a request", () => {
  for (const name of ["", ".", ".."]) assert.throws(() => client().deleteGroup(name), NotFound);
});

// Positions in a store

test("a later client goes on where the last one was", async () => {
  const seen = await script({ groups: { [G1]: 4 }, parts: [{ send: [message(5)] }, { send: [message(6)] }] });
  const store = memoryStore();
  const att = client({ store });
  await take(att, 1);
  att.close();
  assert.deepEqual(seqs(await take(client({ store }), 1)), [6]);
  const { resumes, epochs } = await seen();
  assert.deepEqual(
    [resumes, epochs],
    [
      [{ [G1]: 4 }, { [G1]: 5 }],
      ["first", "first"],
    ],
  );
});

test(
  "a tab that starts with another waits until that one has caught up",
  { skip: !globalThis.navigator?.locks },
  async () => {
    const seen = await script({
      groups: { [G1]: 7 },
      parts: [{ send: [5, 6, 7].map((n) => message(n)) }, { send: [message(8)] }],
    });
    const store = memoryStore({ [`att ${url} ${ME}`]: JSON.stringify({ epoch: "first", groups: { [G1]: 4 } }) });
    const [one, two] = [client({ store }), client({ store })];
    const heard = await Promise.all([take(one, 3), take(two, 1)]);
    assert.deepEqual(heard.map(seqs), [[5, 6, 7], [8]]);
    assert.deepEqual((await seen()).resumes, [{ [G1]: 4 }, { [G1]: 7 }]);
  },
);

test("what another tab has stored is not set back, but by a rewind", async () => {
  await script({
    groups: { [G1]: 4 },
    parts: [{ send: [message(5)], afterwards: [{ type: "rewind", group: G1, name: "tea", to: 2 }], pongs: 0 }],
  });
  const store = memoryStore();
  const key = `att ${url} ${ME}`;
  store.setItem(key, JSON.stringify({ epoch: "first", groups: { [G1]: 9, [G3]: 3 } }));
  const att = client({ store });
  const rewound = next(att, "rewind");
  await take(att, 1);
  await rewound;
  att.close();
  assert.deepEqual(JSON.parse(await store.saved(key)).groups, { [G1]: 2, [G3]: 3 });
});

test("a store that is broken or full is passed over", async () => {
  await script({ groups: { [G1]: 4 }, parts: [{ send: [message(5)] }] });
  const store = { getItem: () => "{", setItem: () => assert.fail("full") };
  const att = client({ store });
  assert.deepEqual(seqs(await take(att, 1)), [5]);
  att.close();
});

// Iterating

test("a loop receives the messages of its group, and only what it has done is stored", async () => {
  const sent = [message(5), message(1, { group: G2 }), message(6), message(7)];
  await script({ groups: { [G1]: 4, [G2]: 0 }, parts: [{ send: sent }], answers: [{ json: { id: G1 } }] });
  const store = memoryStore();
  const att = client({ store });
  const heard = [];
  for await (const { seq } of att.messages("Tea")) {
    heard.push(seq);
    if (seq === 6) {
      await store.changed();
      assert.deepEqual(JSON.parse(store.getItem(`att ${url} ${ME}`)).groups, { [G1]: 5, [G2]: 1 });
      break;
    }
  }
  assert.deepEqual(heard, [5, 6]);
});

test("a loop ends with the connection, by a signal, and by close", async () => {
  await script({ parts: [{ send: [message(1)], close: [4500] }, { send: [message(1)] }, { send: [message(1)] }] });
  const loop = async (att, each, options) => {
    for await (const one of att.messages(undefined, options)) each(one);
  };
  await assert.rejects(
    loop(client(), () => {}),
    NotSignedIn,
  );
  const abort = new AbortController();
  await assert.rejects(
    loop(client(), () => abort.abort(), { signal: abort.signal }),
    { name: "AbortError" },
  );
  const att = client();
  await loop(att, () => att.close());
});

test("while too many wait for a slow loop the connection is closed; nothing is lost", async () => {
  const seen = await script({ groups: { [G1]: 0 }, parts: [{ messages: 1000 }, { send: [message(1001)] }] });
  const att = client();
  const paused = next(att, "disconnected");
  let expected = 0;
  for await (const { seq } of att.messages()) {
    if (!expected) await paused;
    assert.equal(seq, ++expected);
    if (seq === 1001) break;
  }
  assert.deepEqual((await seen()).resumes, [{ [G1]: 0 }, { [G1]: 1000 }]);
});

test("the address has a query only if groups are chosen", async () => {
  const seen = [];
  class Noting extends WebSocket {
    constructor(address, protocols) {
      super(address, protocols);
      seen.push(address);
    }
  }
  await script({ parts: [{}, {}] });
  for (const groups of [[], ["one & only", "two"]]) await client({ groups, WebSocket: Noting }).connect();
  const address = `${url.replace("http", "ws")}/listen/me`;
  assert.deepEqual(seen, [address, `${address}?group=one+%26+only&group=two`]);
});

// What is not kept

test("ephemerals are dropped and read markers kept while there is no connection", async () => {
  const seen = await script({
    parts: [{ frames: 3, send: [], afterwards: [{ type: "error", id: null, error: "not a member", detail: "No." }] }],
  });
  const att = client();
  assert.equal(att.ephemeral("tea", { typing: true }), false);
  att.read("tea", 7);
  att.read("tea", 5);
  const refused = next(att, "refused");
  await att.connect();
  assert.equal(att.ephemeral("tea", { typing: true }), true);
  att.read("tea", 8);
  assert.ok((await refused) instanceof Forbidden);
  assert.deepEqual((await seen()).frames, [
    { type: "read", group: "tea", seq: 7 },
    { type: "broadcast", ephemeral: true, group: "tea", data: { typing: true } },
    { type: "read", group: "tea", seq: 8 },
  ]);
});

test("presence is told as a whole after each change", async () => {
  await script({
    parts: [
      {
        send: [
          { type: "presence", group: G1, users: [{ user: ME, since: AT }] },
          { type: "online", group: G1, user: "b" },
          { type: "online", group: G1, user: "b" },
          { type: "offline", group: G1, user: ME },
          { type: "presence", group: G2, count: 101 },
          { type: "online", group: G2, user: "b" },
          { type: "presence", group: G2, count: 102 },
        ],
      },
    ],
  });
  const att = client({ presence: true });
  const told = [];
  const last = new Promise((resolve) =>
    att.on("presence", ({ group, count, users }) => {
      told.push([group, count, users?.map(({ user }) => user)]);
      if (count === 102) resolve();
    }),
  );
  await att.connect();
  await last;
  assert.deepEqual(told, [
    [G1, 1, [ME]],
    [G1, 2, [ME, "b"]],
    [G1, 1, ["b"]],
    [G2, 101, undefined],
    [G2, 102, undefined],
  ]);
  assert.equal(att.online.get(G1).count, 1);
});
