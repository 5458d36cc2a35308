// Made by clients/js/make_types.py from the OpenAPI document and docs/att.v1.schema.json. Do not edit.

/** A change in the history. `old` and `new` have the values that differ. */
export interface Change {
  id: number;
  at: string;
  table: "users" | "roles" | "groups" | "members";
  operation: "INSERT" | "UPDATE" | "DELETE";
  row: string;
  actor_id: string | null;
  session_id: string | null;
  request_id: string | null;
  database_role: string;
  old: { [name: string]: any } | null;
  new: { [name: string]: any } | null;
}

export interface ChangePage {
  items: Change[];
  next: string | null;
}

/** The body of log-in. A password that is too short is a wrong one, not invalid input. */
export interface Credentials {
  login: string;
  /** At most 1024 bytes in UTF-8. */
  password: string;
}

/** Number of deleted items. */
export interface Deleted {
  deleted: number;
}

/** The response to a broadcast: its position in the group's log, and the number of sockets of this node it went to.
 * `dropped` sockets did not get it, since they read too slowly or are closing. */
export interface Delivery {
  group: string;
  seq: number;
  at: string;
  epoch: string;
  delivered: number;
  dropped: number;
}

/** The response to an ephemeral broadcast: its group. */
export interface Ephemeral {
  group: string;
}

/** An event of a group's log. `user_id` sent it, joined or left, and is null for other kinds. `data` is the JSON
 * object that was sent, null once it is redacted; for other kinds the members of their frame. */
export interface Event {
  seq: number;
  kind: "message" | "joined" | "left" | "changed" | "role" | "redacted";
  user_id: string | null;
  at: string;
  data: { [name: string]: any } | null;
}

/** A page of a log. `next` is the `after` of the following page, or its `before`, null at the end. Seqs are of
 * `epoch`. */
export interface EventPage {
  items: Event[];
  next: string | null;
  epoch: string;
}

/** A group. `role` is one's own in it, null for non-members. The group keeps `retention` events, of which `seq` is
 * the last one's. Members read all of them if `history` is `all`. `read` is the seq up to which one has read,
 * `unread` the number of messages of others above it, counted up to 100; null for non-members. */
export interface Group {
  id: string;
  name: string;
  join: "invite" | "open";
  post: "members" | "owners";
  retention: number;
  history: "since_join" | "all";
  created_at: string;
  seq: number;
  role: "owner" | "member" | null;
  read: number;
  unread: number | null;
}

/** Fields of a group to change; the others stay. */
export interface GroupChange {
  name?: string;
  join?: "invite" | "open";
  post?: "members" | "owners";
  retention?: number;
  history?: "since_join" | "all";
}

export interface GroupPage {
  items: Group[];
  next: string | null;
}

/** A member of a group. */
export interface Member {
  user_id: string;
  login: string;
  first_name: string;
  last_name: string;
  role: "owner" | "member";
  joined_at: string;
}

/** The member's role. By default a new member is a plain member, and others keep theirs. */
export interface MemberChange {
  role?: "owner" | "member";
}

export interface MemberItems {
  items: Member[];
}

export interface MemberPage {
  items: Member[];
  next: string | null;
}

/** Any JSON object. It is delivered byte for byte as it was sent. */
export type Message = { [name: string]: any };

/** A change of one of many roles. */
export interface NamedRoleChange {
  name?: string;
  permissions?: Permission[];
  id: string;
}

/** A change of one of many users. */
export interface NamedUserChange {
  login?: string;
  /** At most 1024 bytes in UTF-8. */
  password?: string;
  /** At most 1024 bytes in UTF-8. */
  current_password?: string;
  first_name?: string;
  last_name?: string;
  birth_date?: string | null;
  role?: string;
  active?: boolean;
  id: string;
}

/** The body of sign-up. */
export interface NewAccount {
  /** As UsernameCaseMapped of RFC 8265, also in upper case, with spaces inside, signs and emoji. */
  login: string;
  /** At most 1024 bytes in UTF-8. */
  password: string;
}

/** A new group. */
export interface NewGroup {
  /** As Nickname of RFC 8266, with all emoji. */
  name: string;
  join?: "invite" | "open";
  post?: "members" | "owners";
  retention?: number;
  history?: "since_join" | "all";
}

/** Users to add as members, all or none. */
export interface NewMembers {
  user_ids: string[];
}

/** A new role. */
export interface NewRole {
  /** As Nickname of RFC 8266, with all emoji. */
  name: string;
  permissions?: Permission[];
}

/** New roles, all or none. */
export type NewRoles = NewRole[];

/** A new user. Without a password they cannot sign in until they get one. */
export interface NewUser {
  /** As UsernameCaseMapped of RFC 8265, also in upper case, with spaces inside, signs and emoji. */
  login: string;
  password?: string | null;
  /** As Nickname of RFC 8266, with all emoji. */
  first_name?: string;
  /** As Nickname of RFC 8266, with all emoji. */
  last_name?: string;
  birth_date?: string | null;
  role?: string;
  active?: boolean;
}

/** New users, all or none; at most 100 with a password. */
export type NewUsers = NewUser[];

/** Permissions that a role can grant beyond one's own account and groups. */
export type Permission = "*" | "users.read" | "users.write" | "roles.read" | "roles.write" | "history.read" | "groups.read" | "groups.write" | "broadcast.any" | "sessions.write" | "quotas.exempt";

/** Since when a user is connected, and by how many sockets; null and 0 when not connected. */
export interface Presence {
  user_id: string;
  since: string | null;
  sockets: number;
}

/** A member who is connected. */
export interface Present {
  user_id: string;
  since: string;
  sockets: number;
  login: string;
}

export interface PresentPage {
  items: Present[];
  next: string | null;
}

/** A user as fellow members of a group see them, and those who may read a message of theirs. */
export interface Profile {
  id: string;
  login: string;
  first_name: string;
  last_name: string;
}

export interface ProfilePage {
  items: Profile[];
  next: string | null;
}

/** The seq up to which one has read, and the number of messages of others above it, counted up to 100. */
export interface ReadMarker {
  read: number;
  unread: number;
}

/** The last event that one has read. */
export interface ReadMarkerChange {
  seq: number;
}

/** A role and its permissions. */
export interface Role {
  id: string;
  name: string;
  permissions: Permission[];
}

/** Fields of a role to change; the others stay. */
export interface RoleChange {
  name?: string;
  permissions?: Permission[];
}

/** Changes of roles, all or none. */
export type RoleChanges = NamedRoleChange[];

export interface RoleItems {
  items: Role[];
}

export interface RolePage {
  items: Role[];
  next: string | null;
}

/** A session. `current` is that of this request; `sockets` is the number of its open WebSockets. */
export interface Session {
  id: string;
  created_at: string;
  last_seen_at: string;
  expires_at: string;
  address: string | null;
  user_agent: string | null;
  current: boolean;
  sockets: number;
}

export interface SessionPage {
  items: Session[];
  next: string | null;
}

/** The response to sign-up and log-in. The token signs requests in; it is shown only here. */
export interface SignedIn {
  user_id: string;
  token: string;
  expires_at: string;
}

/** A user; `role` is its name. */
export interface User {
  id: string;
  login: string;
  first_name: string;
  last_name: string;
  birth_date: string | null;
  registered_at: string;
  role: string;
  active: boolean;
}

/** Fields of a user to change; the others stay. To change one's own password, send `current_password`, too. */
export interface UserChange {
  login?: string;
  /** At most 1024 bytes in UTF-8. */
  password?: string;
  /** At most 1024 bytes in UTF-8. */
  current_password?: string;
  first_name?: string;
  last_name?: string;
  birth_date?: string | null;
  role?: string;
  active?: boolean;
}

/** Changes of users, all or none, each user once; at most 100 with a password. */
export type UserChanges = NamedUserChange[];

export interface UserItems {
  items: User[];
}

export interface UserPage {
  items: User[];
  next: string | null;
}

/** An error (RFC 9457). */
export interface Problem {
  type: "about:blank";
  title: string;
  status: number;
  /** For people. */
  detail: string;
  /** For programs: it is stable. */
  error: string;
  /** All faults of invalid input. */
  errors?: {
    field: string;
    detail: string;
  }[];
  /** The quota at fault. */
  quota?: "groups-owned" | "groups-joined" | "members" | "retention" | "group-log" | "sockets" | "sessions" | "broadcasts" | "ephemerals" | "requests";
  /** Position of the item at fault. */
  index?: number;
}

/** Who you are, and the groups that you hear. Sent at once. */
export interface HelloFrame {
  type: "hello";
  user_id: string;
  session_id: string;
  /** Seconds between the server's pings. */
  heartbeat: number;
  epoch: string;
  groups: ({
    id: string;
    name: string;
    seq: number;
    /** Up to which seq you have read; 0 if you have not. */
    read: number;
    /** How many messages of others are above it, counted up to 100; null if they are not counted. */
    unread: number | null;
  })[];
}

/** A broadcast. `data` is byte for byte what was sent, or null once that is redacted; `from` is null when it was
 * sent by SQL on nobody's behalf. */
export interface MessageFrame {
  type: "message";
  group: string;
  name: string;
  seq: number;
  from: string | null;
  at: string;
  data: { [name: string]: any } | null;
}

/** Somebody has become a member. */
export interface JoinedFrame {
  type: "joined";
  group: string;
  name: string;
  seq: number;
  user: {
    id: string;
    login: string | null;
    first_name: string | null;
    last_name: string | null;
  };
  at: string;
}

/** Somebody is no member any more. If it is you, it is the last that you hear of the group. `removed` is true if
 * somebody else did it, also by deleting the group. Events from before version 0.3 have neither `removed` nor `by`.
 * */
export interface LeftFrame {
  type: "left";
  group: string;
  name: string;
  seq: number;
  user: string;
  at: string;
  removed?: boolean;
  by?: string | null;
}

/** The group has another name or other rules. `name` and the rules are those that it got by this event. */
export interface ChangedFrame {
  type: "changed";
  group: string;
  name: string;
  seq: number;
  at: string;
  by: string | null;
  join: "invite" | "open";
  post: "members" | "owners";
  retention: number;
  history: "since_join" | "all";
}

/** A member has another role. */
export interface RoleFrame {
  type: "role";
  group: string;
  name: string;
  seq: number;
  at: string;
  user: string;
  role: "owner" | "member";
  by: string | null;
}

/** The message with the seq `of` has been taken back: forget its data. */
export interface RedactedFrame {
  type: "redacted";
  group: string;
  name: string;
  seq: number;
  at: string;
  of: number;
  by: string | null;
}

/** A message that no log keeps. `data` is byte for byte what was sent. */
export interface EphemeralFrame {
  type: "ephemeral";
  group: string;
  from: string;
  data: { [name: string]: any };
}

/** The events from the seq `from` to the seq `to` are no longer kept, and cannot be given. */
export interface GapFrame {
  type: "gap";
  group: string;
  name: string;
  from: number;
  to: number;
}

/** The log has lost what you have heard of this group above the seq `to`: forget it. */
export interface RewindFrame {
  type: "rewind";
  group: string;
  name: string;
  to: number;
}

/** You have read the group up to the seq, on this socket or elsewhere. Of several the highest counts. */
export interface ReadFrame {
  type: "read";
  group: string;
  name: string;
  seq: number;
}

/** The connected members of a group; in a large group only their number. It replaces what was known. */
export interface PresenceFrame {
  type: "presence";
  group: string;
  users?: {
    user: string;
    since: string;
  }[];
  count?: number;
}

/** A member of the group is connected now. */
export interface OnlineFrame {
  type: "online";
  group: string;
  user: string;
}

/** A member of the group is not connected any more, or no member. */
export interface OfflineFrame {
  type: "offline";
  group: string;
  user: string;
}

/** The log has a new epoch. Your positions are of it from here on: what you have heard holds, but for what a
 * `rewind` has told before. */
export interface EpochFrame {
  type: "epoch";
  epoch: string;
}

/** The broadcast of this id is in the log. If it is ephemeral, it was sent; then there is no `seq`, `at` and
 * `epoch`. */
export interface AckFrame {
  type: "ack";
  id: string | number;
  group: string;
  seq?: number;
  at?: string;
  epoch?: string;
}

/** The frame of this id is refused; null stands for a `read`, or an ephemeral broadcast without one. `error` is
 * stable, `detail` is for people. */
export interface ErrorFrame {
  type: "error";
  id: string | number | null;
  error: string;
  detail: string;
  /** The name of the quota at fault. */
  quota?: string;
  /** Seconds to wait before the broadcast is sent again. */
  retry_after?: number;
}

/** The answer to a ping. */
export interface PongFrame {
  type: "pong";
}

/** The frames that a server sends, by their type. */
export interface ServerFrames {
  hello: HelloFrame;
  message: MessageFrame;
  joined: JoinedFrame;
  left: LeftFrame;
  changed: ChangedFrame;
  role: RoleFrame;
  redacted: RedactedFrame;
  ephemeral: EphemeralFrame;
  gap: GapFrame;
  rewind: RewindFrame;
  read: ReadFrame;
  presence: PresenceFrame;
  online: OnlineFrame;
  offline: OfflineFrame;
  epoch: EpochFrame;
  ack: AckFrame;
  error: ErrorFrame;
  pong: PongFrame;
}
