/** What the tests share. */

export const [G1, G2, G3] = [1, 2, 3].map((number) => `86fd539a-d29f-4d47-8ced-1e78a9e50d3${number}`);
export const ME = "513c5a25-edc3-4715-95bc-32682b4ba522";
export const AT = "2026-11-22T02:35:09.154152Z";

/** A message frame. */
export const message = (seq, members = {}) => ({
  type: "message",
  group: G1,
  name: "tea",
  seq,
  from: ME,
  at: AT,
  data: { n: seq },
  ...members,
});

export const seqs = (events) => events.map(({ seq }) => seq);

/** Tell the scripted server what to do. Return a function that asks it what it has seen. */
export async function script(parts) {
  const address = `${process.env.ATT_SCRIPT_URL}/script`;
  const response = await fetch(address, { method: "PUT", body: JSON.stringify(parts) });
  if (!response.ok) throw new Error(await response.text());
  return async () => (await fetch(address)).json();
}

/** Wait for the next event of a type. */
export function next(att, type, fits = () => true) {
  return new Promise((resolve) => {
    const off = att.on(type, (event) => fits(event) && resolve(event, off()));
  });
}

/** Connect, and return the first messages. */
export async function take(att, count) {
  const taken = [];
  const enough = new Promise((resolve) => att.on("message", (message) => taken.push(message) === count && resolve()));
  await att.connect();
  await enough;
  return taken.slice(0, count);
}

export async function connectedTo(att) {
  await att.connect();
  return att;
}

/** Let what is due come first. */
export const deferred = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** A store that answers later, as databases do. */
export function memoryStore(items = {}) {
  let told = () => {};
  return {
    getItem: (key) => items[key] ?? null,
    async setItem(key, value) {
      await null;
      items[key] = value;
      told();
    },
    changed: () => new Promise((resolve) => (told = resolve)),
    async saved(key) {
      await deferred(1);
      return items[key];
    },
  };
}
