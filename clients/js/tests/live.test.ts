/** The client against a real server. It uses everything: tsc holds it against the types, Node.js runs it. */

import assert from "node:assert/strict";
import { after, test } from "node:test";

import { Att, AttError, Conflict, Forbidden, Invalid, NotFound, NotSignedIn } from "../src/att.js";
import type {
  Ack,
  EphemeralFrame,
  Events,
  Group,
  List,
  Member,
  MessageFrame,
  Online,
  PositionStore,
  User,
} from "../src/att.js";

const url = process.env.ATT_URL!;
const password = "correct horse";
const called = new Set<string>();
const methods = Object.getOwnPropertyNames(Att.prototype).filter((name) => name !== "constructor");
const clients: Att[] = [];

for (const name of methods) {
  const property = Object.getOwnPropertyDescriptor(Att.prototype, name)!;
  const kind = property.get ? "get" : "value";
  const original = property[kind];
  property[kind] = function (this: Att, ...values: unknown[]) {
    called.add(name);
    return original.apply(this, values);
  };
  Object.defineProperty(Att.prototype, name, property);
}

after(() => {
  for (const att of clients) att.close();
  assert.deepEqual(
    methods.filter((name) => !called.has(name)),
    [],
    "every method is tried here",
  );
});

let number = 0;

/** Sign somebody up. */
async function person(options: ConstructorParameters<typeof Att>[1] = {}): Promise<Att> {
  const att = new Att(url, { store: null, ...options });
  clients.push(att);
  await att.signUp({ login: `person ${++number}`, password });
  return att;
}

/** The next event of this type that fits. */
function next<Type extends keyof Events>(
  att: Att,
  type: Type,
  fits: (event: Events[Type]) => boolean = () => true,
): Promise<Events[Type]> {
  return new Promise((resolve) => {
    const off = att.on(type, (event) => {
      if (!fits(event)) return;
      off();
      resolve(event);
    });
  });
}

test("accounts", async () => {
  const att = new Att(`${url}/`);
  clients.push(att);
  assert.equal(att.url, url);
  await assert.rejects(att.me(), NotSignedIn);
  await assert.rejects(att.connect(), NotSignedIn);
  const id: string = await att.signUp({ login: "ann", password });
  assert.equal(att.userId, id);
  const me: User = await att.me();
  assert.deepEqual([me.id, me.login, me.role], [id, "ann", "User"]);
  assert.equal((await att.updateMe({ first_name: "Ann" })).first_name, "Ann");
  assert.equal((await att.user(id)).first_name, "Ann");

  const again = new Att(url, { token: att.token });
  assert.equal((await again.me()).id, id);
  await again.logOut();
  assert.equal(again.token, undefined);
  await assert.rejects(att.me(), NotSignedIn);
  await assert.rejects(att.logIn({ login: "ann", password: "wrong" }), (error: AttError) => {
    assert.ok(error instanceof NotSignedIn);
    assert.deepEqual([error.code, error.status], ["auth failed", 401]);
    return true;
  });
  assert.equal(await att.logIn({ login: "ann", password }), id);
  const { items } = await att.request<{ items: { current: boolean }[] }>("GET", "/sessions", { query: { limit: 1 } });
  assert.equal(items[0]?.current, true);
  await assert.rejects(att.signUp({ login: "ANN", password }), Conflict);
  await assert.rejects(att.signUp({ login: "", password: "x" }), (error: AttError) => {
    assert.ok(error instanceof Invalid);
    assert.deepEqual(
      error.errors?.map(({ field }) => field),
      ["login", "password"],
    );
    return true;
  });
});

test("groups and members", async () => {
  const [ann, ben] = [await person(), await person()];
  const group: Group = await ann.createGroup({ name: "Größe & co", join: "open" });
  assert.equal((await ben.group("größe & co")).id, group.id);
  const list: List<Group> = ben.groups({ all: true });
  assert.ok((await list).items.some(({ id }) => id === group.id));
  assert.deepEqual((await ben.groups()).items, []);
  const member: Member = await ben.join(group.id);
  assert.equal(member.role, "member");
  assert.equal((await ann.setMember(group.id, ben.userId!, "owner")).role, "owner");
  const members: string[] = [];
  for await (const { user_id } of ann.members(group.id, { limit: 1 })) members.push(user_id);
  assert.deepEqual(members, [ann.userId, ben.userId]);
  assert.equal((await ann.updateGroup(group.id, { name: "cocoa" })).name, "cocoa");
  await ben.leave("cocoa");
  await assert.rejects(ann.removeMember("cocoa", ben.userId!), NotFound);
  await ann.deleteGroup("cocoa");
  await assert.rejects(ann.group("cocoa"), NotFound);
  await assert.rejects(ben.groups({ signal: AbortSignal.abort() }), { name: "AbortError" });
});

test("broadcasting and listening", async () => {
  const [ann, ben] = [await person(), await person()];
  const group = await ann.createGroup({ name: "tea" });
  const ack: Ack = await ann.broadcast("tea", { n: 0 });
  assert.deepEqual([ack.group, ack.seq], [group.id, 2]);

  const hello = await ben.connect();
  assert.deepEqual([hello.user_id, hello.groups, ben.connected], [ben.userId, [], true]);
  const joined = next(ben, "joined");
  await ann.setMember("tea", ben.userId!);
  const { name, user } = await joined;
  assert.deepEqual([name, user.id, user.login], ["tea", ben.userId, (await ben.me()).login]);
  const others = Array.from({ length: 100 }, () => crypto.randomUUID());
  assert.deepEqual((await ben.users([...others, ann.userId!])).map(({ id }) => id), [ann.userId]);

  while (!(await ben.presence("tea")).items.length); // within about two seconds
  const heard: MessageFrame[] = [];
  const off = ben.on("message", (message) => heard.push(message));
  const loop = (async () => {
    for await (const message of ben.messages("TEA")) if (message.data?.n === 3) return message;
  })();
  await ann.connect();
  await ann.broadcast("tea", { n: 1 });
  await ben.broadcast(group.id, { n: 2 });
  const last = await ann.broadcast("tea", { n: 3 }, { key: "three" });
  assert.equal((await ann.broadcast("tea", { n: 3 }, { key: "three" })).seq, last.seq);
  assert.equal((await loop)?.seq, last.seq);
  assert.deepEqual(
    heard.map(({ data, from }) => [data?.n, from]),
    [
      [1, ann.userId],
      [2, ben.userId],
      [3, ann.userId],
    ],
  );
  assert.equal(ann.pending, 0);
  off();

  const promoted = next(ben, "role");
  await ann.setMember("tea", ben.userId!, "owner");
  assert.equal((await promoted).role, "owner");
  assert.equal((await ann.member("tea", ben.userId!)).role, "owner");
  const changed = next(ben, "changed");
  await ann.updateGroup("tea", { post: "owners" });
  assert.equal((await changed).post, "owners");

  assert.equal((await ben.group("tea")).unread, 2);
  const read = next(ben, "read");
  ben.read("tea", last.seq);
  assert.equal((await read).seq, last.seq);
  assert.equal((await ben.group("tea")).unread, 0);
  const refused = next(ben, "refused");
  ben.read("coffee", 1);
  assert.ok((await refused) instanceof NotFound);

  const redacted = next(ben, "redacted");
  await ann.redact("tea", last.seq);
  assert.deepEqual([(await redacted).of, (await redacted).by], [last.seq, ann.userId]);
  const { items } = await ben.history("tea", { kind: "message", limit: 1 });
  assert.deepEqual([items[0]?.seq, items[0]?.data], [last.seq, null]);

  const left = next(ben, "left");
  await ann.removeMember("tea", ben.userId!);
  assert.deepEqual([(await left).user, (await left).removed], [ben.userId, true]);
  await assert.rejects(ben.broadcast("tea", {}), Forbidden);
  await assert.rejects(ben.broadcast("coffee", {}), NotFound);
});

test("ephemerals", async () => {
  const [ann, ben, eve] = [await person(), await person(), await person()];
  const { id } = await ann.createGroup({ name: "draft" });
  await ann.setMember(id, ben.userId!);
  for (const att of [ann, ben, eve]) await att.connect();
  const started = [ann, ben].map((att) => next(att, "message"));
  const { seq } = await ann.broadcast(id, {});
  await Promise.all(started);

  const heard: Promise<EphemeralFrame>[] = [ann, ben].map((att) => next(att, "ephemeral"));
  assert.equal(ann.ephemeral("Draft", { typing: true }), true);
  const frame = { type: "ephemeral", group: id, from: ann.userId, data: { typing: true } };
  assert.deepEqual(await Promise.all(heard), [frame, frame]);
  assert.equal((await ann.group(id)).seq, seq);

  for (const [att, data, error] of [
    [eve, {}, Forbidden],
    [ann, { text: "x".repeat(4096) }, Invalid],
  ] as const) {
    const refused = next(att, "refused");
    att.ephemeral(id, data);
    assert.ok((await refused) instanceof error);
  }
});

test("who is online", async () => {
  const [ann, ben] = [await person({ presence: true }), await person()];
  const { id } = await ann.createGroup({ name: "here", join: "open" });
  await ben.join(id);
  const who = ({ users }: Online) => users!.map(({ user }) => user);
  const only = next(ann, "presence");
  await ann.connect();
  assert.deepEqual(who(await only), [ann.userId]);
  assert.equal((await only).count, 1);

  const came = next(ann, "presence");
  await ben.connect();
  assert.deepEqual(who(await came), [ann.userId, ben.userId]);
  assert.equal(ann.online.get(id), await came);
  assert.ok((await came).users!.every(({ since }) => since.endsWith("Z")));

  const left = next(ann, "left", ({ user }) => user === ann.userId);
  await ann.setMember(id, ben.userId!, "owner");
  await ann.leave(id);
  await left;
  assert.equal(ann.online.has(id), false);
  const back = next(ann, "presence");
  await ann.join(id);
  assert.deepEqual(new Set(who(await back)), new Set([ann.userId, ben.userId]));

  const went = next(ann, "presence", ({ count }) => count === 1);
  ben.close();
  assert.deepEqual(who(await went), [ann.userId]);
});

test("history", async () => {
  const ann = await person();
  await ann.createGroup({ name: "log" });
  for (let n = 1; n <= 4; n++) await ann.broadcast("log", { n });
  const found: unknown[] = [];
  for await (const { data } of ann.history("log", { after: 1, limit: 3 })) found.push(data?.n);
  assert.deepEqual(found, [1, 2, 3, 4]);
  const newest: number[] = [];
  for await (const { seq } of ann.history("log", { kind: "message", limit: 2 })) newest.push(seq);
  assert.deepEqual(newest, [5, 4, 3, 2]);
  const page = await ann.history("log", { before: 5, limit: 2 });
  assert.deepEqual([page.items.map(({ seq }) => seq), page.next], [[4, 3], "3"]);
});

test("a store keeps the positions for a later client", async () => {
  const items = new Map<string, string>();
  const store: PositionStore = {
    getItem: async (key) => items.get(key) ?? null,
    setItem: (key, value) => items.set(key, value),
  };
  const ann = await person();
  await ann.createGroup({ name: "kept" });
  const ben = await person({ store });
  await ann.setMember("kept", ben.userId!);
  await ben.connect();
  ben.close();
  for (let n = 1; n <= 3; n++) await ann.broadcast("kept", { n });
  const later = new Att(url, { token: ben.token, store });
  clients.push(later);
  const heard: number[] = [];
  for await (const { data } of later.messages()) if (heard.push(data?.n) === 3) break;
  assert.deepEqual(heard, [1, 2, 3]);
});

test("a client may listen to some of its groups", async () => {
  const ann = await person();
  const [one, two] = [await ann.createGroup({ name: "one & only" }), await ann.createGroup({ name: "two" })];
  const some = new Att(url, { token: ann.token, groups: ["one & only"] });
  clients.push(some);
  assert.deepEqual((await some.connect()).groups.map(({ id }) => id), [one.id]);
  const heard = next(some, "message");
  for (const { id } of [two, one]) await ann.broadcast(id, {});
  assert.equal((await heard).group, one.id);
});

test("the end of the session ends the connection", async () => {
  const ann = await person();
  await ann.connect();
  const ended = next(ann, "ended");
  await new Att(url, { token: ann.token }).logOut();
  const error: AttError = await ended;
  assert.ok(error instanceof NotSignedIn);
});
