import { Att, NotSignedIn } from "./att.js";

const att = new Att("/api", { store: null, presence: true });
const $ = (id) => document.getElementById(id);
const element = (name, properties) => Object.assign(document.createElement(name), properties);
const say = (text) => ($("status").textContent = text);

/** When the form is sent, call the action with its fields and its button; show what is refused. */
function onSubmit(form, action) {
  $(form).onsubmit = (event) => {
    event.preventDefault();
    action(Object.fromEntries(new FormData(event.target)), event.submitter).catch((error) => say(error.message));
    event.target.reset();
  };
}

// Signing in
const showChat = (isSignedIn) => ([$("chat").hidden, $("sign-in").hidden] = [!isSignedIn, isSignedIn]);
att.on("connected", () => showChat(true, say("")));
att.on("closed", () => showChat(false));
att.on("ended", (error) => showChat(false, error instanceof NotSignedIn || say(error.message)));
att.connect().catch(() => {}); // "ended" has told why

onSubmit("sign-in", async (credentials, button) => {
  await (button.value === "signUp" ? att.signUp(credentials) : att.logIn(credentials));
  await att.connect();
});
$("sign-out").onclick = () => att.logOut();

// Groups
let current; // the open group
async function showGroups() {
  const buttons = await Array.fromAsync(att.groups({ all: true }), (group) => {
    const textContent = group.name + (group.unread ? ` (${group.unread})` : "");
    return element("button", { textContent, className: group.id === current?.id ? "open" : "", onclick: () => open(group) });
  });
  $("groups").replaceChildren(...buttons);
}

async function open(group) {
  if (!group.role) await att.join(group.id);
  current = group;
  dispatchEvent(new Event("opened")); // for the parts below
}

onSubmit("new-group", async ({ name }) => open(await att.createGroup({ name, join: "open", history: "all" })));
addEventListener("opened", showGroups);
for (const type of ["connected", "joined", "left", "changed"]) att.on(type, showGroups);

// Messages
const names = new Map(); // by user id
const rowOf = (seq) => document.querySelector(`[data-seq="${seq}"]`);

async function nameOf(id) {
  if (id && !names.has(id)) for (const user of await att.users([id])) names.set(id, user.login);
  return names.get(id) ?? "somebody";
}

/** Show a message at its place, once. */
async function show({ seq, user_id, data }) {
  const textContent = data ? `${await nameOf(user_id)}: ${data.text}` : "taken back";
  if (rowOf(seq)) return;
  const row = element("li", { textContent });
  Object.assign(row.dataset, { seq, user: user_id });
  $("messages").insertBefore(row, [...$("messages").children].find((one) => !(one.dataset.seq < seq)));
}

async function showPage(before) {
  const { items } = await att.history(current.id, { before, kind: "message", limit: 30 });
  for (const item of items) await show(item);
}

addEventListener("opened", async () => {
  $("messages").replaceChildren();
  await showPage();
  $("messages").scrollTop = 1e9;
});
att.on("message", ({ group, seq, from, data }) => group === current?.id && show({ seq, user_id: from, data }));

onSubmit("send", async ({ text }) => {
  const row = element("li", { textContent: text, className: "waiting" });
  $("messages").append(row);
  row.scrollIntoView();
  await att.broadcast(current.id, { text }).finally(() => row.remove());
});

// Scrolling back
$("messages").onscroll = async ({ target }) => {
  if (target.scrollTop > 0 || !target.firstChild) return;
  const height = target.scrollHeight;
  await showPage(target.firstChild.dataset.seq);
  target.scrollTop = target.scrollHeight - height;
};

// Offline and back
att.on("disconnected", ({ delay }) => say(`Offline. The next try is in ${Math.ceil(delay)} s.`));

// Unread
const markRead = () => current && !document.hidden && att.read(current.id, Number.MAX_SAFE_INTEGER);
for (const type of ["opened", "visibilitychange"]) addEventListener(type, markRead);
for (const listener of [markRead, showGroups]) att.on("message", listener);
att.on("read", showGroups);

// Taking back: double-click a message of yours
$("messages").ondblclick = ({ target: { dataset } }) => {
  if (dataset.user === att.userId) att.redact(current.id, dataset.seq).catch((error) => say(error.message));
};
att.on("redacted", ({ group, of }) => group === current?.id && rowOf(of)?.replaceChildren("taken back"));

// Who is here
async function showHere() {
  const online = att.online.get(current?.id);
  const people = online?.users ? await Promise.all(online.users.map(({ user }) => nameOf(user))) : [online?.count];
  if (online === att.online.get(current?.id)) $("here").textContent = `Here: ${people.join(", ")}`;
}
for (const type of ["presence", "disconnected"]) att.on(type, showHere);
addEventListener("opened", showHere);

// Who is typing
$("send").oninput = () => current && att.ephemeral(current.id, { typing: true });
att.on("ephemeral", async ({ group, from }) => {
  if (group !== current?.id || from === att.userId) return;
  const note = element("span", { textContent: `– ${await nameOf(from)} is typing …` });
  $("typing").replaceChildren(note);
  setTimeout(() => note.remove(), 3000);
});
