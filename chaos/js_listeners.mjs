// Listeners that use the JavaScript client. Reads commands as lines of JSON, and writes what the clients emit likewise.

import { setMaxListeners } from "node:events";
import { createInterface } from "node:readline";

import { Att } from "../clients/js/src/att.js";

const EMITTED = ["message", "joined", "left", "changed", "role", "redacted", "gap", "rewind", "epoch", "read", "ephemeral"];
const ONLINE_INTERVAL = 300; // milliseconds

// A browser says when its network is back. Here it does so often, so that no client waits long before it connects again.
const browser = new EventTarget();
setMaxListeners(0, browser);
globalThis.addEventListener = browser.addEventListener.bind(browser);
const clients = new Map();
setInterval(() => {
  if ([...clients.values()].some(({ att }) => !att.connected)) browser.dispatchEvent(new Event("online"));
}, ONLINE_INTERVAL);

function listen({ client, token, urls, positions }) {
  const say = (type, value) => process.stdout.write(`${JSON.stringify({ client, type, value })}\n`);
  const known = { socket: undefined };
  let turn = 0;
  class Socket extends WebSocket {
    constructor(url, protocols) {
      say("opening", Date.now() / 1000);
      super(url.replace(/^ws:\/\/[^/]+/, urls[turn++ % urls.length].replace("http", "ws")), protocols);
      known.socket = this;
      this.addEventListener("close", ({ code }) => say("closed", code));
    }
  }
  // From the beginning of each log, or from now on; later the client knows its positions itself.
  const store = { getItem: () => JSON.stringify(positions && { groups: positions }), setItem: () => {} };
  known.att = new Att(urls[0], { token, store, WebSocket: Socket });
  for (const type of EMITTED) known.att.on(type, (frame) => say("frame", frame));
  known.att.on("connected", (hello) => say("connected", hello));
  known.att.on("disconnected", () => say("disconnected"));
  known.att.on("refused", ({ code }) => say("refused", code));
  known.att.on("ended", ({ code, message }) => say("ended", `${code}: ${message}`));
  clients.set(client, known);
}

const COMMANDS = {
  listen,
  connect: ({ client }) => clients.get(client).att.connect().catch(() => {}), // it was closed, or has emitted "ended"
  close: ({ client }) => clients.get(client).att.close(),
  cut: ({ client }) => clients.get(client).socket?.close(), // the client does not know that it is we who close it
  read: ({ client, group, seq }) => clients.get(client).att.read(group, seq),
  ephemeral: ({ client, group, data }) => clients.get(client).att.ephemeral(group, data),
};
for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  COMMANDS[command.do](command);
}
process.exit();
