"""The tables. The convention names every constraint; ``att.db.engine`` translates errors by these names.

``alembic/versions`` creates the tables; a test checks that both agree.
"""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_random_uuid = sa.text("gen_random_uuid()")
_now = sa.text("now()")

# A *_key column holds att.core.names.fold() of another column. Its collation is C, so that the database compares bytes
# in any locale.
roles = sa.Table(
    "roles",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True, server_default=_random_uuid),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("name_key", sa.Text(collation="C"), nullable=False, unique=True),
    sa.Column("permissions", sa.ARRAY(sa.Text), nullable=False, server_default=sa.text("'{}'")),
)

# search_text holds the keys of login, first and last name, one per line; att_grams() cuts it into pieces of one to
# three characters, so that the last index finds any part of them. A user without a password cannot sign in.
users = sa.Table(
    "users",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True, server_default=_random_uuid),
    sa.Column("login", sa.Text, nullable=False),
    sa.Column("login_key", sa.Text(collation="C"), nullable=False, unique=True),
    sa.Column("password_hash", sa.Text),
    sa.Column("first_name", sa.Text, nullable=False, server_default=sa.text("''")),
    sa.Column("last_name", sa.Text, nullable=False, server_default=sa.text("''")),
    sa.Column("last_name_key", sa.Text(collation="C"), nullable=False, server_default=sa.text("''")),
    sa.Column("birth_date", sa.Date),
    sa.Column("registered_at", sa.DateTime(timezone=True), nullable=False, server_default=_now),
    sa.Column("role_id", sa.ForeignKey("roles.id", ondelete="RESTRICT"), nullable=False),
    sa.Column("active", sa.Boolean, nullable=False, server_default=sa.text("true")),
    sa.Column("search_text", sa.Text(collation="C"), nullable=False),
    sa.Index(None, "registered_at", "id"),
    sa.Index(None, "last_name_key", "id"),
    sa.Index(None, "role_id", "registered_at", "id"),
    sa.Index(None, "active", "registered_at", "id"),
)
sa.Index("ix_users_search", sa.func.att_grams(users.c.search_text), postgresql_using="gin")

# Only the SHA-256 of a token is stored.
sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True, server_default=_random_uuid),
    sa.Column("token_hash", sa.LargeBinary, nullable=False, unique=True),
    sa.Column("user_id", sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=_now),
    sa.Column("last_seen_at", sa.DateTime(timezone=True), nullable=False, server_default=_now),
    sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("address", sa.Text),
    sa.Column("user_agent", sa.Text),
    sa.Index(None, "user_id", "created_at", "id"),
    sa.Index(None, "expires_at"),
)

# join, post and history say who may join, who may broadcast, and what members read of the log: all of it, or only what
# came while they were members. seq is that of the last event, retention the number of stored events. log_end is the
# log_offset of the next message, log_start that of the oldest stored one, or of an earlier one: their difference is the
# most that the log's bodies have, in bytes.
groups = sa.Table(
    "groups",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True, server_default=_random_uuid),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("name_key", sa.Text(collation="C"), nullable=False, unique=True),
    sa.Column("join", sa.Text, nullable=False, server_default=sa.text("'invite'")),
    sa.Column("post", sa.Text, nullable=False, server_default=sa.text("'members'")),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=_now),
    sa.Column("seq", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    sa.Column("retention", sa.Integer, nullable=False, server_default=sa.text("1000")),
    sa.Column("history", sa.Text, nullable=False, server_default=sa.text("'since_join'")),
    sa.Column("log_start", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    sa.Column("log_end", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    sa.CheckConstraint("\"join\" IN ('invite', 'open')", name="join"),
    sa.CheckConstraint("post IN ('members', 'owners')", name="post"),
    sa.CheckConstraint("retention BETWEEN 0 AND 1000000", name="retention"),
    sa.CheckConstraint("history IN ('since_join', 'all')", name="history"),
    sa.Index(None, "created_at", "id"),
    sa.Index("ix_groups_open", "created_at", "id", postgresql_where=sa.text("\"join\" = 'open'")),
)

# The two indexes serve two lists: the members of a group, and the groups of a user. Triggers do the work of foreign
# keys, except that the rows of a large group, or of a user in many groups, outlive it for a while: see removals. So a
# query of this table alone also finds members of deleted groups, and deleted users.
members = sa.Table(
    "members",
    metadata,
    sa.Column("group_id", sa.Uuid, nullable=False),
    sa.Column("user_id", sa.Uuid, nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("joined_at", sa.DateTime(timezone=True), nullable=False, server_default=_now),
    sa.PrimaryKeyConstraint("group_id", "user_id"),
    sa.CheckConstraint("role IN ('owner', 'member')", name="role"),
    sa.Index(None, "group_id", "joined_at", "user_id"),
    sa.Index(None, "user_id", "joined_at", "group_id"),
)

# Up to which seq a member has read a group's log; who does not read has no row. A marker outlives its membership, and
# ends with the user or the group, by triggers.
read_markers = sa.Table(
    "read_markers",
    metadata,
    sa.Column("user_id", sa.Uuid, nullable=False),
    sa.Column("group_id", sa.Uuid, nullable=False),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("clock_timestamp()")),
    sa.PrimaryKeyConstraint("user_id", "group_id"),
    sa.Index(None, "group_id"),
)

# The skeletons of names (att.core.skeletons), so that no two names of a kind look alike. kind is the name of the table
# that has the owner. A trigger deletes an owner's rows with their name. Names from before, and those that other
# programs store, have none until a server adds them: att.db.skeletons. After a change of the algorithm a migration may
# empty this table.
skeletons = sa.Table(
    "skeletons",
    metadata,
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("skeleton", sa.Text(collation="C"), nullable=False),
    sa.Column("owner_id", sa.Uuid, nullable=False),
    sa.PrimaryKeyConstraint("kind", "skeleton"),
    sa.Index(None, "owner_id"),
)

# Deleted groups and users that still have rows in members, which att_remove_members deletes. seq is the last one of the
# group's log, last_id the last member who was removed. The rest says who has deleted it, for the history.
removals = sa.Table(
    "removals",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("clock_timestamp()")),
    sa.Column("seq", sa.BigInteger),
    sa.Column("last_id", sa.Uuid, nullable=False, server_default=sa.text(f"'{'0' * 32}'")),
    sa.Column("actor_id", sa.Uuid),
    sa.Column("session_id", sa.Uuid),
    sa.Column("request_id", sa.Text),
    sa.CheckConstraint("kind IN ('group', 'user')", name="kind"),
)

# The log: messages to each group, joins, leaves and other changes, in one order. Only functions of the database write
# it. It outlives groups and users, so it has no foreign keys. actor_id is the user who has sent, joined or left; or the
# group's own id, which leaves when a large group is deleted. The body is json, since jsonb does not keep the exact
# bytes: the message, null if that was redacted, or the facts of the other kinds. log_offset is the number of bytes of
# all earlier messages of the log, NULL for messages of 0.2.0 and for other kinds.
events = sa.Table(
    "events",
    metadata,
    sa.Column("group_id", sa.Uuid, nullable=False),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("actor_id", sa.Uuid),
    sa.Column("body", sa.JSON),
    sa.Column("key", sa.Text),
    sa.Column("at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("clock_timestamp()")),
    sa.Column("log_offset", sa.BigInteger),
    sa.PrimaryKeyConstraint("group_id", "seq"),
    sa.CheckConstraint("kind IN ('message', 'joined', 'left', 'changed', 'role', 'redacted')", name="kind"),
    sa.Index(None, "group_id", "key", unique=True, postgresql_where=sa.text("key IS NOT NULL")),
    sa.Index(None, "actor_id", "group_id", "seq", postgresql_where=sa.text("kind <> 'message'")),
    sa.Index(None, "at"),
)

# Users who have sent messages to a group without being its member, by a permission or in SQL, so that their profile is
# found; seq is at least that of their last message. Only att_append and att_broadcast write it. Rows outlive users.
outside_senders = sa.Table(
    "outside_senders",
    metadata,
    sa.Column("user_id", sa.Uuid, primary_key=True),
    sa.Column("group_id", sa.ForeignKey("groups.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Index(None, "group_id"),
)

# The times in which the log cannot have lost its end, and for each group that has grown in an epoch the seq before: up
# to it a position of an earlier epoch holds. Only functions of the database read and write them. Epochs of one number
# are one: transactions at the same time have each found it begun. The column written_by has the row's own xmin, which a
# restored row does not have.
epochs = sa.Table(
    "epochs",
    metadata,
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("began_at", sa.DateTime(timezone=True), primary_key=True),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("database_oid", sa.BigInteger, nullable=False),
    sa.Column("written_by", sa.BigInteger, nullable=False),
)
forks = sa.Table(
    "forks",
    metadata,
    sa.Column("group_id", sa.Uuid, primary_key=True),
    sa.Column("epoch", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("head", sa.BigInteger, nullable=False),
    sa.Index(None, "epoch"),
)

# Only triggers write it. It outlives the changed rows, so it has no foreign keys. user_id is the user or the member of
# the row.
history = sa.Table(
    "history",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("clock_timestamp()")),
    sa.Column("table_name", sa.Text, nullable=False),
    sa.Column("operation", sa.Text, nullable=False),
    sa.Column("row_id", sa.Text, nullable=False),
    sa.Column("user_id", sa.Uuid),
    sa.Column("actor_id", sa.Uuid),
    sa.Column("session_id", sa.Uuid),
    sa.Column("request_id", sa.Text),
    sa.Column("database_role", sa.Text, nullable=False, server_default=sa.text("session_user")),
    sa.Column("old", JSONB),
    sa.Column("new", JSONB),
    sa.Index(None, "at", "id"),
    sa.Index(None, "row_id", "at", "id"),
    sa.Index(None, "user_id", "at", "id"),
    sa.Index(None, "actor_id", "at", "id"),
    sa.Index(None, "table_name", "at", "id"),
    sa.Index(None, "operation", "at", "id"),
    sa.Index(None, "table_name", "operation", "at", "id"),
)

# Keys with which servers sign what they give to clients. The database makes them up, so they are in no statement.
signing_keys = sa.Table(
    "signing_keys",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column(
        "key",
        sa.LargeBinary,
        nullable=False,
        server_default=sa.text("(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()))"),
    ),
)

# The running servers, and the users connected to each: the opening time of their earliest open socket, and the number
# of sockets. changes counts what a server has recorded. The rows of a server are deleted with it. Unlogged, since the
# rows are worthless after a crash, and PostgreSQL then empties the tables. No foreign key to users: the rows of a
# deleted user go when their sockets close.
nodes = sa.Table(
    "nodes",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("started_at", sa.DateTime(timezone=True), nullable=False, server_default=_now),
    sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False, server_default=_now),
    sa.Column("changes", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    prefixes=["UNLOGGED"],
)
presence = sa.Table(
    "presence",
    metadata,
    sa.Column("node_id", sa.ForeignKey("nodes.id", ondelete="CASCADE"), nullable=False),
    sa.Column("user_id", sa.Uuid, nullable=False),
    sa.Column("since", sa.DateTime(timezone=True), nullable=False),
    sa.Column("sockets", sa.Integer, nullable=False),
    sa.PrimaryKeyConstraint("node_id", "user_id"),
    sa.CheckConstraint("sockets > 0", name="sockets"),
    sa.Index(None, "user_id"),
    prefixes=["UNLOGGED"],
)
