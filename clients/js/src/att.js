/**
 * Client for att: accounts, groups and realtime messages. One ES module for browsers and Node.js, without dependencies.
 *
 *     const att = new Att("https://att.example");
 *     await att.logIn({ login: "ann", password: "correct horse" });
 *     att.on("message", (message) => console.log(message.name, message.data));
 *     await att.connect();
 *     await att.broadcast("tea", { kettle: "on" });
 *
 * The types are in att.d.ts, the reference is docs/reference/javascript.md.
 */

const SUBPROTOCOL = "att.v1";
const FIRST_DELAY = 0.5; // seconds, doubled by each failure up to the longest
const LONGEST_DELAY = 30;
const LONGEST_HINT = 300;
const STABLE = 30; // seconds after which a connection counts as good
const OPEN_TIMEOUT = 10; // seconds until hello
const REQUEST_TIMEOUT = 30; // seconds for one answer over HTTP
const ANSWER_TIMEOUT = 30; // seconds for one answer on an open socket
const PROBE_TIMEOUT = 5; // seconds for a pong after the tab wakes
const CATCH_UP_TIMEOUT = 5; // seconds for which a tab that starts may keep others from starting
const BROADCAST_TIMEOUT = 60; // seconds for which a broadcast over HTTP is tried again
const SAVE_DELAY = 0.1; // seconds after an event until its position is stored
const RESUME_LIMIT = 10_000; // groups that the server takes in one resume
const BODY_LIMIT = 1024 ** 2; // bytes of one message
const OUTBOX_COUNT = 1000; // messages that wait for the server
const OUTBOX_SIZE = 8 * 1024 ** 2; // their characters together
const BUFFER = 1000; // messages that wait for an iterator; then the connection pauses
const EPHEMERAL_BACKLOG = 256 * 1024; // bytes that wait in the socket; then ephemerals are dropped
const END_OF_LOG = "9223372036854775807";
const LOGGED = new Set(["message", "joined", "left", "changed", "role", "redacted"]); // frames with a seq of the log
const PING = '{"type":"ping"}';
const HINT = /; retry in (\d+(?:\.\d+)?) s$/;

// Errors

/** A refusal or a failure. `code` is stable; `message` is for people. */
export class AttError extends Error {
  constructor(problem = {}, options) {
    super(problem.detail ?? problem.error, options);
    this.name = new.target.name;
    this.code = problem.error ?? "error";
    this.status = problem.status;
    this.errors = problem.errors;
    this.index = problem.index;
    this.quota = problem.quota;
    this.retryAfter = problem.retry_after;
  }
}
/** 401, or the session has ended: sign in. */
export class NotSignedIn extends AttError {}
/** 403: you may not do this. */
export class Forbidden extends AttError {}
/** 404: it does not exist, or not for you. */
export class NotFound extends AttError {}
/** 409: a name is taken, or a rule would be broken. */
export class Conflict extends AttError {}
/** 412: it has changed since you read it. */
export class PreconditionFailed extends AttError {}
/** 400, 413, 415 or 422: the request is wrong; `errors` lists the fields at fault. */
export class Invalid extends AttError {}
/** 429: wait for `retryAfter` seconds. */
export class TooManyAttempts extends AttError {}
/** The server cannot be reached, or cannot do this now. The next try may succeed. */
export class Unavailable extends AttError {}
/** The other side does not speak att.v1, or did not understand this client. */
export class ProtocolError extends AttError {}

const CLASSES = [
  // class, statuses, codes that a frame `error` may have
  [NotSignedIn, [401], ["not signed in", "session ended"]],
  [Forbidden, [403], ["forbidden", "not you", "not permitted", "not a member", "not an owner", "quota exceeded"]],
  [NotFound, [404], ["not found", "no such group", "no such user", "no such member", "no such event"]],
  [Conflict, [409], []],
  [PreconditionFailed, [412], []],
  [
    Invalid,
    [400, 413, 414, 415, 422, 431],
    ["invalid", "invalid input", "malformed", "not an object", "not json", "key reused"],
  ],
  [TooManyAttempts, [429], ["quota exhausted", "too many attempts"]],
  [Unavailable, [408], ["unavailable", "busy", "database unavailable", "redis unavailable", "shutting down"]],
  [AttError, [501, 505], []],
];

/** Return the error for a problem of HTTP, which has a status, or of a frame `error`, which has none. */
function refusal(problem) {
  const { status, error } = problem;
  const found = CLASSES.find(([, statuses, codes]) => (status ? statuses.includes(status) : codes.includes(error)));
  return new (found?.[0] ?? (status >= 500 ? Unavailable : AttError))(problem);
}

const unavailable = (detail, retry_after = 0, options) =>
  new Unavailable({ error: "unavailable", detail, retry_after }, options);
const protocolError = (detail) => new ProtocolError({ error: "protocol error", detail });
const mayPass = (error) => error instanceof Unavailable || error instanceof TooManyAttempts;

/** Return the error for a close code; an Unavailable means that connecting again may help. */
function closeError({ code, reason }) {
  if (code === 4500) return new NotSignedIn({ error: "session ended", detail: "The session has ended. Sign in." });
  if (code === 4501) return protocolError(reason);
  if (code === 4502) return new Forbidden({ error: "forbidden", detail: "You may not listen here." });
  const detail = `The connection was closed (${code}): ${reason || "no reason given"}.`;
  if (code >= 4500 && code < 5000) return new AttError({ detail });
  return unavailable(detail, Number(HINT.exec(reason)?.[1] ?? 0));
}

// Tools

const seconds = () => Date.now() / 1000;

/** Call an action after a delay in seconds. The timer alone does not keep a program running. */
function later(delay, action) {
  const timer = setTimeout(action, delay * 1000);
  timer.unref?.();
  return timer;
}

/** Wait for some seconds, or until one of the signals is aborted. */
function sleep(delay, ...signals) {
  const signal = AbortSignal.any(signals);
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const timer = setTimeout(resolve, delay * 1000);
    signal.addEventListener("abort", () => resolve(clearTimeout(timer)), { once: true });
  });
}

/** Return a path with the values percent-encoded. No group or user is called "", "." or "..", which URLs resolve. */
function path(parts, ...values) {
  if (values.some((value) => /^\.{0,2}$/.test(value)))
    throw new NotFound({ error: "not found", detail: "No such name." });
  return String.raw({ raw: parts }, ...values.map(encodeURIComponent));
}

/** Return the JSON of a message, which must be an object. */
function encode(data) {
  const text = JSON.stringify(data);
  if (text?.[0] !== "{") throw new Invalid({ error: "not an object", detail: "A message must be an object: {…}." });
  if (text.length > BODY_LIMIT / 3 && new TextEncoder().encode(text).length > BODY_LIMIT)
    throw new Invalid({ error: "body too large", detail: "A message has at most 1 MiB." });
  return text;
}

function randomKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Return the browser's storage, if there is one and the page may use it. */
function browserStore() {
  try {
    return typeof document === "undefined" ? null : localStorage;
  } catch {
    return null;
  }
}

/** Wait for the lock of this name, which all tabs of an origin share. Return a function that releases it. */
function acquireLock(name) {
  return new Promise((resolve) => {
    const give = () => new Promise((release) => resolve(release));
    const signal = AbortSignal.timeout(2 * CATCH_UP_TIMEOUT * 1000);
    const request = globalThis.navigator?.locks?.request(name, { signal }, give) ?? Promise.reject();
    request.catch(() => resolve(() => {})); // without it two tabs that start at once may receive the same
  });
}

/** One WebSocket, from its opening to its end. */
class Connection {
  /** Promise of the first frame. It fails as `ended` does. */
  hello;
  /** Promise that fails with the reason for the end. */
  ended;
  /** Called with each frame after the first one. */
  onFrame;
  #socket;
  #fail;
  #heardAt = 0;
  #timer;

  constructor(WebSocket, url, protocols) {
    const socket = (this.#socket = new WebSocket(url, protocols));
    this.ended = new Promise((_, fail) => (this.#fail = fail));
    this.hello = new Promise((resolve, fail) => {
      this.ended.catch(fail);
      this.onFrame = resolve;
    });
    this.#timer = setTimeout(() => this.end(unavailable("The server did not send hello.")), OPEN_TIMEOUT * 1000);
    socket.onmessage = ({ data }) => this.#onMessage(data);
    socket.onclose = (event) => this.end(closeError(event));
    socket.onerror = () => later(0, () => this.end(unavailable("The connection was lost."))); // onclose may know more
  }

  get backlog() {
    return this.#socket.bufferedAmount;
  }

  send(text) {
    this.#socket.send(text);
  }

  /** Close the socket; only the first reason counts. */
  end(error) {
    clearTimeout(this.#timer);
    this.#socket.onmessage = null;
    this.#socket.close();
    this.#fail(error);
  }

  #onMessage(data) {
    this.#heardAt = seconds();
    let frame;
    try {
      frame = JSON.parse(data);
    } catch {}
    if (typeof frame?.type === "string") this.onFrame(frame);
    else this.end(protocolError(`The server does not speak ${SUBPROTOCOL}.`));
  }

  /** Send a ping after each silence of `heartbeat` seconds. End if it is not answered, or `isStuck()`. */
  watch(heartbeat, isStuck, pingedAt = 0) {
    clearTimeout(this.#timer);
    const silence = seconds() - this.#heardAt;
    if (this.#heardAt < pingedAt) return this.end(unavailable("The server does not answer."));
    if (isStuck()) return this.end(unavailable("The server does not answer a broadcast."));
    const mustPing = silence >= heartbeat;
    if (mustPing) this.send(PING);
    const now = seconds();
    this.#timer = setTimeout(
      () => this.watch(heartbeat, isStuck, mustPing ? now : 0),
      (mustPing ? heartbeat / 2 : heartbeat - silence) * 1000,
    );
  }

  /** Find out whether the server is still there. */
  probe() {
    const askedAt = seconds();
    this.send(PING);
    later(PROBE_TIMEOUT, () => this.#heardAt < askedAt && this.end(unavailable("The server does not answer.")));
  }
}

// The client

/** One user's connection to a server. */
export class Att {
  #store;
  #WebSocket;
  #listenUrl;
  #wantsPresence;
  #usesCookie;
  #handlers = new Map(); // sets of {handler}, by type of event
  #queues = new Set(); // messages that wait for an iterator; the first one is being processed
  #outbox = new Map(); // broadcasts without an answer, by id, oldest first
  #outboxSize = 0;
  #lastId = 0;
  #oneByOne = false; // send the next broadcast only when the last one is answered
  #retryTimer;
  #reads = new Map(); // read markers to send, by group
  #running; // AbortController of all that goes on until close()
  #ready; // promise of the first hello
  #connection; // once it has resumed
  #wake = () => {}; // ends the pause before the next connection, but for what the server has asked for
  #drained; // promise that slow iterators have caught up
  #shown; // promise that the page, which was left, is shown again
  #positions; // last seq by group id; undefined before the first connection
  #epoch; // of the positions
  #isRewound = false; // the stored positions may be above ours and wrong
  #saveTimer;

  /** Token of the session, to keep for `options.token`. Undefined where the browser's cookie signs in. */
  token;
  /** Id of the user, once known. */
  userId;
  /** Who is online, by group id: `{group, count, users}`. */
  online = new Map();

  /**
   * `url` is that of a server, in a page also relative, as "/api". Options: `token` signs in; `store` keeps positions,
   * by default localStorage where there is one, and null for none; `groups` are the ids or names of those to listen to,
   * by default all; `presence: true` asks for who is online; `WebSocket` is for runtimes that have none.
   */
  constructor(url, { token, store = browserStore(), groups = [], presence = false, WebSocket } = {}) {
    const base = new URL(url, globalThis.location?.href);
    this.url = (base.origin + base.pathname).replace(/\/+$/, "");
    this.token = token;
    this.#usesCookie = !token && base.origin === globalThis.location?.origin;
    this.#store = store;
    const address = new URL(`${this.url.replace(/^http/, "ws")}/listen/me`);
    address.search = new URLSearchParams(groups.map((group) => ["group", group]));
    this.#listenUrl = address.href;
    this.#wantsPresence = presence;
    this.#WebSocket = WebSocket;
  }

  /** True while the connection is open. */
  get connected() {
    return Boolean(this.#connection);
  }

  /** Number of broadcasts that the server has not answered. */
  get pending() {
    return this.#outbox.size;
  }

  // Requests

  /** Send a request of the HTTP API and return the body of the response. Raise an AttError. */
  async request(method, path, { body, query = {}, headers = {}, signal } = {}) {
    const url = new URL(this.url + path);
    for (const [name, value] of Object.entries(query))
      for (const one of [value].flat()) if (one != null) url.searchParams.append(name, one);
    if (body !== undefined) headers = { "Content-Type": "application/json", ...headers };
    if (this.token) headers = { Authorization: `Bearer ${this.token}`, ...headers };
    const timeout = AbortSignal.timeout(REQUEST_TIMEOUT * 1000);
    let response, text;
    try {
      response = await fetch(url, {
        method,
        headers,
        body: typeof body === "object" ? JSON.stringify(body) : body,
        credentials: this.#usesCookie ? "same-origin" : "omit",
        signal: signal ? AbortSignal.any([signal, timeout]) : timeout,
      });
      text = await response.text();
    } catch (cause) {
      signal?.throwIfAborted();
      throw unavailable(`The server at ${url.origin} cannot be reached.`, 0, { cause });
    }
    let answer;
    try {
      answer = text ? JSON.parse(text) : undefined;
    } catch {
      if (response.ok) throw protocolError(`There is no att at ${this.url}.`);
    }
    if (response.ok) return answer;
    const retry_after = Number(response.headers.get("Retry-After")) || 0;
    const usual = { error: "error", detail: `The server answered ${response.status}.` };
    throw refusal({ ...usual, ...answer, status: response.status, retry_after });
  }

  /** Return a promise of the first page, which is also an iterable of the items of all pages. */
  #list(path, { signal, ...query } = {}) {
    const fetchPage = (cursor) => this.request("GET", path, { query: { ...query, ...cursor }, signal });
    const first = fetchPage();
    return Object.assign(first, {
      async *[Symbol.asyncIterator]() {
        for (let page = await first; ; page = await fetchPage({ [query.before ? "before" : "after"]: page.next })) {
          yield* page.items;
          if (page.next === null) return;
        }
      },
    });
  }

  async #signIn(path, body, options) {
    this.close();
    const { user_id, token } = await this.request("POST", path, { body, ...options });
    if (user_id !== this.userId) this.#positions = undefined;
    this.userId = user_id;
    if (!this.#usesCookie) this.token = token;
    return user_id;
  }

  /** Make an account and sign in. Return the user's id. */
  signUp(account, options) {
    return this.#signIn("/signup", account, options);
  }

  /** Sign in. Return the user's id. */
  logIn(credentials, options) {
    return this.#signIn("/login", credentials, options);
  }

  /** Close the connection and end the session. */
  async logOut(options) {
    this.close();
    await this.request("POST", "/logout", options);
    this.token = this.userId = undefined;
  }

  /** Return the user who is signed in. */
  me(options) {
    return this.request("GET", "/users/me", options);
  }

  /** Change fields of the user who is signed in. */
  updateMe(changes, options) {
    return this.request("PATCH", "/users/me", { body: changes, ...options });
  }

  /** Return the profile of a user whom you share a group with, or whose message you may read. */
  user(id, options) {
    return this.request("GET", path`/users/${id}`, options);
  }

  /** Return the profiles of those of the users whom you may see. */
  async users(ids, options) {
    const found = [];
    for (let start = 0; start < ids.length; start += 100)
      found.push(...(await this.#list("/users", { id: ids.slice(start, start + 100), ...options })).items);
    return found;
  }

  /** List your groups, longest membership first; with `all` also the open ones, which you may join. */
  groups({ all = false, ...options } = {}) {
    return this.#list(all ? "/groups" : "/users/me/groups", options);
  }

  /** Return a group by its id or name. */
  group(group, options) {
    return this.request("GET", path`/groups/${group}`, options);
  }

  /** Make a group, which you then own. */
  createGroup(group, options) {
    return this.request("POST", "/groups", { body: group, ...options });
  }

  /** Change the name or the rules of a group. */
  updateGroup(group, changes, options) {
    return this.request("PATCH", path`/groups/${group}`, { body: changes, ...options });
  }

  /** Delete a group with its log. */
  deleteGroup(group, options) {
    return this.request("DELETE", path`/groups/${group}`, options);
  }

  /** List the members of a group, longest membership first. */
  members(group, options) {
    return this.#list(path`/groups/${group}/members`, options);
  }

  /** Return one member of a group. */
  member(group, userId, options) {
    return this.request("GET", path`/groups/${group}/members/${userId}`, options);
  }

  /** Add a member, or change a member's role. */
  setMember(group, userId, role, options) {
    return this.request("PUT", path`/groups/${group}/members/${userId}`, { body: role && { role }, ...options });
  }

  /** Remove a member from a group. */
  removeMember(group, userId, options) {
    return this.request("DELETE", path`/groups/${group}/members/${userId}`, options);
  }

  /** Join an open group. */
  join(group, options) {
    return this.setMember(group, "me", undefined, options);
  }

  /** Leave a group. */
  leave(group, options) {
    return this.removeMember(group, "me", options);
  }

  /** List the log of a group: newest first, also from below `before`; with `after` oldest first, from above it. */
  history(group, { before, after, ...options } = {}) {
    const start = after == null ? { before: before ?? END_OF_LOG } : { after };
    return this.#list(path`/groups/${group}/events`, { ...start, ...options });
  }

  /** List the members of a group who are online. */
  presence(group, options) {
    return this.#list(path`/groups/${group}/presence`, options);
  }

  /** Take a message back: its body leaves the log for good. */
  redact(group, seq, options) {
    return this.request("DELETE", path`/groups/${group}/events/${seq}`, options);
  }

  // Sending

  /**
   * Broadcast an object to a group. Return its place in the log, `{group, seq, at, epoch}`.
   *
   * It is sent again until the server has it, and is in the log once. Of a client that is offline, 1,000 may wait. One
   * that was never connected sends it over HTTP, and gives up after a minute.
   */
  async broadcast(group, data, { key = randomKey(), signal } = {}) {
    signal?.throwIfAborted();
    const text = encode(data);
    if (!this.#running) return this.#post(group, text, key, signal);
    if (this.#outbox.size >= OUTBOX_COUNT || this.#outboxSize + text.length > OUTBOX_SIZE)
      throw new Unavailable({ error: "outbox full", detail: "Too many messages wait for the server." });
    return new Promise((resolve, reject) => {
      const id = ++this.#lastId;
      const settle = (outcome) => (value) => {
        this.#outbox.delete(id);
        this.#outboxSize -= text.length;
        signal?.removeEventListener("abort", abort);
        outcome(value);
        this.#sendOldest();
      };
      const entry = { id, group, key, text, sentAt: 0, resolve: settle(resolve), reject: settle(reject) };
      const abort = () => entry.reject(signal.reason);
      signal?.addEventListener("abort", abort);
      this.#outbox.set(id, entry);
      this.#outboxSize += text.length;
      if (this.#connection && !this.#oneByOne) this.#send(entry);
      else this.#sendOldest();
    });
  }

  async #post(group, body, key, signal) {
    const until = seconds() + BROADCAST_TIMEOUT;
    const headers = { "Idempotency-Key": key };
    for (let bound = FIRST_DELAY; ; bound *= 2) {
      try {
        return await this.request("POST", path`/broadcast/${group}`, { body, headers, signal });
      } catch (error) {
        const delay = (error.retryAfter ?? 0) + Math.random() * bound;
        if (!mayPass(error) || seconds() + delay > until) throw error;
        await sleep(delay, ...(signal ? [signal] : []));
        signal?.throwIfAborted();
      }
    }
  }

  #send(entry) {
    const { id, group, key, text } = entry;
    entry.sentAt = seconds();
    this.#connection.send(`${JSON.stringify({ type: "broadcast", id, group, key }).slice(0, -1)},"data":${text}}`);
  }

  /** Send the oldest broadcast, unless it is on its way or must wait. */
  #sendOldest() {
    const [oldest] = this.#outbox.values();
    if (!oldest) this.#oneByOne = false;
    else if (this.#connection && !this.#retryTimer && !oldest.sentAt) this.#send(oldest);
  }

  #onAnswer({ type, id, ...answer }) {
    const entry = this.#outbox.get(id);
    if (type === "ack") return entry?.resolve(answer);
    const error = refusal(answer);
    if (id === null) return this.#emit("refused", error);
    if (!entry || !mayPass(error)) return entry?.reject(error);
    entry.sentAt = 0;
    this.#oneByOne = true; // so that those behind it do not overtake it
    clearTimeout(this.#retryTimer);
    this.#retryTimer = later((error.retryAfter ?? 0) + Math.random(), () => {
      this.#retryTimer = undefined;
      this.#sendOldest();
    });
  }

  /** Send an object to those who listen now; it is not kept. Return false if it was dropped. */
  ephemeral(group, data) {
    const text = encode(data);
    if (!this.#connection || this.#connection.backlog > EPHEMERAL_BACKLOG) return false;
    this.#connection.send(`{"type":"broadcast","ephemeral":true,"group":${JSON.stringify(group)},"data":${text}}`);
    return true;
  }

  /** Mark a group as read up to this seq, now or once connected. The marker never goes back. */
  read(group, seq) {
    this.#reads.set(group, Math.max(seq, this.#reads.get(group) ?? 0));
    this.#sendReads();
  }

  #sendReads() {
    if (!this.#connection) return;
    for (const [group, seq] of this.#reads) this.#connection.send(JSON.stringify({ type: "read", group, seq }));
    this.#reads.clear();
  }

  // Listening

  /** Call the handler for each event of this type. Return a function that ends this; so does `signal`. */
  on(type, handler, { signal } = {}) {
    const handlers = this.#handlers.get(type) ?? new Set();
    this.#handlers.set(type, handlers);
    const entry = { handler };
    const off = () => void handlers.delete(entry);
    if (signal?.aborted) return off;
    handlers.add(entry);
    signal?.addEventListener("abort", off, { once: true });
    return off;
  }

  #emit(type, event) {
    for (const { handler } of [...(this.#handlers.get(type) ?? [])]) {
      try {
        handler(event);
      } catch (error) {
        queueMicrotask(() => {
          throw error; // the fault is the page's: the console shows it, and all else goes on
        });
      }
    }
  }

  /**
   * Iterate over the messages of a group, or of all groups, as they come; connect if need be. A message counts as
   * processed when the next one is asked for. While 1,000 wait for a slow loop, the connection is closed.
   */
  async *messages(group, { signal } = {}) {
    signal?.throwIfAborted();
    const queue = [];
    let news = () => {};
    let end;
    const stop = (error) => news((end = { error }));
    const offs = [
      this.on("message", (message) => news(this.#enqueue(queue, message))),
      this.on("ended", stop),
      this.on("closed", () => stop()),
    ];
    const onAbort = () => stop(signal.reason);
    signal?.addEventListener("abort", onAbort);
    this.#queues.add(queue);
    try {
      await this.connect();
      const id = group && (await this.group(group, { signal })).id;
      for (;;) {
        for (; queue.length && !signal?.aborted; queue.shift()) if (!id || queue[0].group === id) yield queue[0];
        queue.resume?.();
        if (this.#positions) this.#saveSoon();
        if (end?.error) throw end.error;
        if (end) return;
        await new Promise((resolve) => (news = resolve));
      }
    } finally {
      for (const off of offs) off();
      signal?.removeEventListener("abort", onAbort);
      this.#queues.delete(queue);
      queue.resume?.();
    }
  }

  /** Keep a message for an iterator. If too many wait, disconnect until it has caught up: then the log has the rest. */
  #enqueue(queue, message) {
    if (queue.push(message) < BUFFER || queue.resume) return;
    const drained = new Promise((resolve) => (queue.resume = resolve)).then(() => delete queue.resume);
    this.#drained = Promise.all([this.#drained, drained]);
    this.#connection?.end(unavailable("A loop over messages is too slow."));
  }

  /**
   * Connect, and stay connected until `close`, `logOut`, the end of the session, or `signal`. Return the first `hello`.
   * Raise NotSignedIn, or another error that trying again cannot mend; after all others the client tries again.
   */
  async connect({ signal } = {}) {
    signal?.throwIfAborted();
    if (!this.#running) {
      this.#running = new AbortController();
      this.#ready = new Promise((resolve, reject) => this.#run(this.#running.signal, resolve).catch(reject));
    }
    signal?.addEventListener("abort", () => this.close(), { once: true, signal: this.#running.signal });
    return this.#ready;
  }

  /** Close the connection. Broadcasts that were not answered fail, although they may be in the log. */
  close() {
    this.#end(unavailable("The client was closed."), "closed");
  }

  #end(error, type) {
    if (!this.#running) return;
    this.#save();
    this.#running.abort(error);
    this.#running = this.#connection = undefined;
    for (const entry of [...this.#outbox.values()]) entry.reject(error);
    this.#reads.clear();
    this.#emit(type, error);
  }

  /** Connect again and again. Resolve `onHello` by the first hello; fail with the reason for the end. */
  async #run(signal, onHello) {
    const { document } = globalThis;
    const wake = () => {
      this.#wake();
      this.#connection?.probe();
    };
    globalThis.addEventListener?.("online", wake, { signal });
    // A browser may keep a page that was left, with its sockets, for the back button: nobody is there.
    const leave = () => {
      this.#save();
      this.#shown = new Promise((resolve) => globalThis.addEventListener("pageshow", resolve, { once: true }));
      this.#connection?.end(unavailable("The page was left."));
    };
    globalThis.addEventListener?.("pagehide", leave, { signal });
    globalThis.addEventListener?.("pageshow", wake, { signal });
    document?.addEventListener("visibilitychange", () => document.hidden || wake(), { signal });
    for (let bound = FIRST_DELAY; ; bound = Math.min(bound * 2, LONGEST_DELAY)) {
      const since = seconds();
      const error = await this.#listen(signal, onHello).catch((reason) => reason);
      signal.throwIfAborted();
      if (!mayPass(error)) this.#end(error, "ended");
      signal.throwIfAborted();
      this.#save();
      if (seconds() - since > STABLE) bound = FIRST_DELAY;
      const hint = Math.min(error.retryAfter ?? 0, LONGEST_HINT);
      const jitter = Math.random() * bound;
      this.#emit("disconnected", { error, delay: hint + jitter });
      await sleep(hint, signal);
      const woken = new AbortController();
      this.#wake = () => woken.abort();
      await sleep(jitter, signal, woken.signal);
      await this.#drained;
      await this.#shown;
      signal.throwIfAborted();
    }
  }

  /** Connect once. Fail with the reason for the end of the connection. */
  async #listen(signal, onHello) {
    // The first tab that starts receives what none has received, and the next one starts where it has got to.
    const release = this.#positions || !this.#store ? () => {} : await acquireLock(`att ${this.url}`);
    const kind = this.#WebSocket ?? globalThis.WebSocket;
    let connection;
    try {
      signal.throwIfAborted();
      if (!kind) throw new AttError({ detail: "There is no WebSocket in this runtime: give the option WebSocket." });
      const protocols = this.token ? [SUBPROTOCOL, `att.bearer.${this.token}`] : [SUBPROTOCOL];
      connection = new Connection(kind, this.#listenUrl, protocols);
      signal.addEventListener("abort", () => connection.end(signal.reason), { once: true });
      const hello = await connection.hello;
      if (hello.type !== "hello") throw protocolError("The server did not send hello.");
      await this.#loadPositions(hello);
      signal.throwIfAborted();
      const behind = new Set(hello.groups.filter(({ id, seq }) => this.#positions[id] < seq).map(({ id }) => id));
      const heads = new Map(hello.groups.map(({ id, seq }) => [id, seq]));
      connection.onFrame = (frame) => {
        this.#onFrame(frame);
        if (this.#positions[frame.group] < heads.get(frame.group) || !behind.delete(frame.group)) return;
        if (!behind.size) this.#save().then(release);
      };
      if (behind.size) later(CATCH_UP_TIMEOUT, release);
      else release();
      connection.send(this.#resume(hello));
      connection.watch(hello.heartbeat, () => {
        const [oldest] = this.#outbox.values();
        return oldest?.sentAt && seconds() - oldest.sentAt > ANSWER_TIMEOUT;
      });
      this.#connection = connection;
      onHello(hello);
      this.#emit("connected", hello);
      this.#sendReads();
      for (const entry of this.#outbox.values()) entry.sentAt = 0;
      this.#oneByOne = true; // those that the server has already must not be overtaken by the others
      this.#sendOldest();
      await connection.ended;
    } finally {
      this.#connection = undefined;
      clearTimeout(this.#retryTimer);
      this.#retryTimer = undefined;
      this.online.clear();
      connection?.end();
      release();
    }
  }

  #resume({ groups }) {
    const mine = new Set(groups.map(({ id }) => id));
    const positions = Object.entries(this.#positions).sort(([a], [b]) => mine.has(b) - mine.has(a));
    return JSON.stringify({
      type: "resume",
      epoch: this.#epoch,
      groups: Object.fromEntries(positions.slice(0, RESUME_LIMIT)),
      presence: this.#wantsPresence || undefined,
    });
  }

  #onFrame(frame) {
    const { type, group } = frame;
    if (type === "ack" || type === "error") return this.#onAnswer(frame);
    if (type === "presence" || type === "online" || type === "offline") return this.#onPresence(frame);
    if (type === "pong") return;
    if (type === "left" && frame.user === this.userId) this.online.delete(group); // nothing more is told of it
    this.#emit(type, frame);
    if (type === "epoch") this.#epoch = frame.epoch;
    else if (LOGGED.has(type)) this.#positions[group] = frame.seq;
    else if (type === "gap" || type === "rewind") this.#positions[group] = frame.to;
    else return;
    this.#isRewound ||= type === "rewind";
    this.#saveSoon();
  }

  /** Keep who is online, and emit it as a whole. In large groups only their number is known. */
  #onPresence({ type, group, user, users = null, count = users?.length }) {
    if (type !== "presence") {
      users = this.online.get(group)?.users;
      if (!users) return;
      const others = users.filter((one) => one.user !== user);
      if (type === "online" && others.length < users.length) return;
      users = type === "online" ? [...users, { user, since: new Date().toISOString() }] : others;
      count = users.length;
    }
    const online = { group, count, users };
    this.online.set(group, online);
    this.#emit("presence", online);
  }

  // Positions

  get #storeKey() {
    return `att ${this.url} ${this.userId}`;
  }

  /** Set the positions to resume from: those in memory, those in the store, or the present ones. */
  async #loadPositions({ user_id, groups, epoch }) {
    if (this.userId !== user_id) this.#positions = undefined;
    this.userId = user_id;
    let isNew = false;
    if (!this.#positions) {
      const stored = await this.#readStore();
      isNew = !stored;
      this.#positions = stored?.groups ?? {};
      this.#epoch = stored?.epoch ?? epoch;
    }
    for (const { id, seq } of groups) this.#positions[id] ??= isNew ? seq : 0; // 0: joined while we were away
  }

  async #readStore() {
    try {
      return JSON.parse(await this.#store.getItem(this.#storeKey));
    } catch {} // there is no store, or what it has is broken: start from now
  }

  #saveSoon() {
    this.#saveTimer ??= setTimeout(() => this.#save(), SAVE_DELAY * 1000);
  }

  /** Store the positions. Other tabs may be further; what waits for an iterator has not been processed. */
  async #save() {
    clearTimeout(this.#saveTimer);
    this.#saveTimer = undefined;
    if (!this.#store || !this.#positions) return;
    const groups = { ...this.#positions };
    for (const queue of this.#queues)
      for (const { group, seq } of queue) groups[group] = Math.min(groups[group], seq - 1);
    const epoch = this.#epoch;
    const stored = await this.#readStore();
    if (stored?.epoch === epoch && !this.#isRewound)
      for (const [group, seq] of Object.entries(stored.groups)) groups[group] = Math.max(groups[group] ?? 0, seq);
    this.#isRewound = false;
    try {
      await this.#store.setItem(this.#storeKey, JSON.stringify({ epoch, groups }));
    } catch {} // it is full: the next start repeats some events
  }
}
