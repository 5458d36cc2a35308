/** Types of att.js. The reference is docs/reference/javascript.md. */

import type {
  AckFrame,
  Credentials,
  Event as LogEvent,
  Group,
  GroupChange,
  HelloFrame,
  Member,
  MessageFrame,
  NewAccount,
  NewGroup,
  Present,
  Problem,
  Profile,
  ServerFrames,
  User,
  UserChange,
} from "./shapes.js";

export type * from "./shapes.js";

/** A refusal or a failure. `code` is stable; `message` is for people. */
export class AttError extends Error {
  code: string;
  /** Status of the HTTP response, if it was one. */
  status?: number;
  /** Fields at fault. */
  errors?: Problem["errors"];
  /** Position of the item at fault, if there were many. */
  index?: number;
  /** Name of the quota at fault. */
  quota?: string;
  /** Seconds to wait before another try. */
  retryAfter?: number;
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

/** A place for positions, such as localStorage. Both methods may return promises. */
export interface PositionStore {
  getItem(key: string): string | null | Promise<string | null>;
  setItem(key: string, value: string): unknown;
}

export interface AttOptions {
  /** Token of a session. */
  token?: string;
  /** Keeps the positions in the logs. By default localStorage in pages, elsewhere none. */
  store?: PositionStore | null;
  /** Ids or names of the groups to listen to. By default all of one's own. */
  groups?: string[];
  /** Ask for who is online. By default false. */
  presence?: boolean;
  /** For runtimes without a global one. */
  WebSocket?: new (url: string, protocols: string[]) => any;
}

export interface Options {
  /** Ends the waiting when it is aborted. */
  signal?: AbortSignal;
}

export interface RequestOptions extends Options {
  /** Is sent as JSON. */
  body?: unknown;
  query?: Record<string, unknown>;
  headers?: Record<string, string>;
}

export interface ListOptions extends Options {
  /** Items of one page. */
  limit?: number;
  /** `next` of the page before. */
  after?: string | number;
}

export interface HistoryOptions extends Options {
  limit?: number;
  /** Newest first, from below this seq. By default from the end. */
  before?: string | number;
  /** Oldest first, from above this seq. */
  after?: string | number;
  /** Only events of this kind. */
  kind?: "message";
}

export interface Page<Item> {
  items: Item[];
  /** Where the next page begins; null at the end. */
  next: string | null;
}

/** A page when awaited; all items when iterated over. */
export interface List<Item, P = Page<Item>> extends Promise<P>, AsyncIterable<Item> {}

export interface LogPage extends Page<LogEvent> {
  epoch: string;
}

/** Place of a broadcast in the log of its group. */
export type Ack = Required<Omit<AckFrame, "type" | "id">>;

/** Who is online in a group. `users` is null in large groups. */
export interface Online {
  group: string;
  count: number;
  users: { user: string; since: string }[] | null;
}

type Answers = "hello" | "ack" | "error" | "pong" | "presence";

/** What `on` hears: frames of the server by their type, and what happens to the connection. */
export interface Events extends Omit<ServerFrames, Answers> {
  /** The connection is open, and events follow. */
  connected: HelloFrame;
  /** The connection was lost. The next try is in `delay` seconds. */
  disconnected: { error: AttError; delay: number };
  /** The connection has ended for good: NotSignedIn, or what else a new try cannot mend. */
  ended: AttError;
  /** `close` was called. */
  closed: AttError;
  /** A read marker or an ephemeral was refused. */
  refused: AttError;
  presence: Online;
}

/** One user's connection to a server. */
export class Att {
  /** `url` is that of a server, in a page also relative, as "/api". */
  constructor(url: string, options?: AttOptions);

  readonly url: string;
  /** Token of the session, to keep for `options.token`. Undefined where the browser's cookie signs in. */
  token?: string;
  /** Id of the user, once known. */
  userId?: string;
  /** Who is online, by group id, if `presence` was asked for. */
  readonly online: ReadonlyMap<string, Online>;
  /** True while the connection is open. */
  readonly connected: boolean;
  /** Number of broadcasts that the server has not answered. */
  readonly pending: number;

  /** Send a request of the HTTP API and return the body of the response. */
  request<T = any>(method: string, path: string, options?: RequestOptions): Promise<T>;

  /** Make an account and sign in. Return the user's id. */
  signUp(account: NewAccount, options?: Options): Promise<string>;
  /** Sign in. Return the user's id. */
  logIn(credentials: Credentials, options?: Options): Promise<string>;
  /** Close the connection and end the session. */
  logOut(options?: Options): Promise<void>;
  /** Return the user who is signed in. */
  me(options?: Options): Promise<User>;
  /** Change fields of the user who is signed in. */
  updateMe(changes: UserChange, options?: Options): Promise<User>;
  /** Return the profile of a user whom you share a group with, or whose message you may read. */
  user(id: string, options?: Options): Promise<Profile>;
  /** Return the profiles of those of the users whom you may see. */
  users(ids: string[], options?: Options): Promise<Profile[]>;

  /** List your groups, longest membership first; with `all` also the open ones, which you may join. */
  groups(options?: ListOptions & { all?: boolean }): List<Group>;
  /** Return a group by its id or name. */
  group(group: string, options?: Options): Promise<Group>;
  /** Make a group, which you then own. */
  createGroup(group: NewGroup, options?: Options): Promise<Group>;
  /** Change the name or the rules of a group. */
  updateGroup(group: string, changes: GroupChange, options?: Options): Promise<Group>;
  /** Delete a group with its log. */
  deleteGroup(group: string, options?: Options): Promise<void>;
  /** List the members of a group, longest membership first. */
  members(group: string, options?: ListOptions): List<Member>;
  /** Return one member of a group. */
  member(group: string, userId: string, options?: Options): Promise<Member>;
  /** Add a member, or change a member's role. */
  setMember(group: string, userId: string, role?: Member["role"], options?: Options): Promise<Member>;
  /** Remove a member from a group. */
  removeMember(group: string, userId: string, options?: Options): Promise<void>;
  /** Join an open group. */
  join(group: string, options?: Options): Promise<Member>;
  /** Leave a group. */
  leave(group: string, options?: Options): Promise<void>;
  /** List the log of a group: newest first, also from below `before`; with `after` oldest first, from above it. */
  history(group: string, options?: HistoryOptions): List<LogEvent, LogPage>;
  /** List the members of a group who are online. */
  presence(group: string, options?: ListOptions): List<Present>;
  /** Take a message back: its body leaves the log for good. */
  redact(group: string, seq: number, options?: Options): Promise<void>;

  /**
   * Broadcast an object to a group. It is sent again until the server has it, and is in the log once. Of a client that
   * is offline, 1,000 may wait. One that was never connected sends it over HTTP, and gives up after a minute.
   */
  broadcast(group: string, data: object, options?: Options & { key?: string }): Promise<Ack>;
  /** Send an object to those who listen now; it is not kept. Return false if it was dropped. */
  ephemeral(group: string, data: object): boolean;
  /** Mark a group as read up to this seq, now or once connected. The marker never goes back. */
  read(group: string, seq: number): void;

  /** Call the handler for each event of this type. Return a function that ends this; so does `signal`. */
  on<Type extends keyof Events>(type: Type, handler: (event: Events[Type]) => void, options?: Options): () => void;
  /**
   * Iterate over the messages of a group, or of all groups, as they come; connect if need be. A message counts as
   * processed when the next one is asked for. While 1,000 wait for a slow loop, the connection is closed.
   */
  messages(group?: string, options?: Options): AsyncGenerator<MessageFrame, void, void>;
  /**
   * Connect, and stay connected until `close`, `logOut`, the end of the session, or `signal`. Return the first `hello`.
   * Raise NotSignedIn, or another error that trying again cannot mend; after all others the client tries again.
   */
  connect(options?: Options): Promise<HelloFrame>;
  /** Close the connection. Broadcasts that were not answered fail, although they may be in the log. */
  close(): void;
}
