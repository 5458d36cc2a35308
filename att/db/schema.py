"""The tables. The convention names every constraint; ``att.db.engine`` translates errors by these names.

``alembic/versions`` creates the tables; a test checks that both agree.
"""

from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_random_uuid = text("gen_random_uuid()")
_now = text("now()")

# A *_key column holds att.core.names.fold() of another column. Its collation is C, so that the database compares bytes
# in any locale.
roles = Table(
    "roles",
    metadata,
    Column("id", Uuid, primary_key=True, server_default=_random_uuid),
    Column("name", Text, nullable=False),
    Column("name_key", Text(collation="C"), nullable=False, unique=True),
    Column("permissions", ARRAY(Text), nullable=False, server_default=text("'{}'")),
)

# search_text holds the keys of login, first and last name, one per line; att_grams() cuts it into pieces of one to
# three characters, so that the last index finds any part of them. A user without a password cannot sign in.
users = Table(
    "users",
    metadata,
    Column("id", Uuid, primary_key=True, server_default=_random_uuid),
    Column("login", Text, nullable=False),
    Column("login_key", Text(collation="C"), nullable=False, unique=True),
    Column("password_hash", Text),
    Column("first_name", Text, nullable=False, server_default=text("''")),
    Column("last_name", Text, nullable=False, server_default=text("''")),
    Column("last_name_key", Text(collation="C"), nullable=False, server_default=text("''")),
    Column("birth_date", Date),
    Column("registered_at", DateTime(timezone=True), nullable=False, server_default=_now),
    Column("role_id", ForeignKey("roles.id", ondelete="RESTRICT"), nullable=False),
    Column("active", Boolean, nullable=False, server_default=text("true")),
    Column("search_text", Text(collation="C"), nullable=False),
    Index(None, "registered_at", "id"),
    Index(None, "last_name_key", "id"),
    Index(None, "role_id", "registered_at", "id"),
    Index(None, "active", "registered_at", "id"),
)
Index("ix_users_search", func.att_grams(users.c.search_text), postgresql_using="gin")

# Only the SHA-256 of a token is stored.
sessions = Table(
    "sessions",
    metadata,
    Column("id", Uuid, primary_key=True, server_default=_random_uuid),
    Column("token_hash", LargeBinary, nullable=False, unique=True),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=_now),
    Column("last_seen_at", DateTime(timezone=True), nullable=False, server_default=_now),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Column("address", Text),
    Column("user_agent", Text),
    Index(None, "user_id", "created_at", "id"),
    Index(None, "expires_at"),
)

# join and post say who may join and who may broadcast. seq is that of the last event, retention the number of stored
# events.
groups = Table(
    "groups",
    metadata,
    Column("id", Uuid, primary_key=True, server_default=_random_uuid),
    Column("name", Text, nullable=False),
    Column("name_key", Text(collation="C"), nullable=False, unique=True),
    Column("join", Text, nullable=False, server_default=text("'invite'")),
    Column("post", Text, nullable=False, server_default=text("'members'")),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=_now),
    Column("seq", BigInteger, nullable=False, server_default=text("0")),
    Column("retention", Integer, nullable=False, server_default=text("1000")),
    CheckConstraint("\"join\" IN ('invite', 'open')", name="join"),
    CheckConstraint("post IN ('members', 'owners')", name="post"),
    CheckConstraint("retention BETWEEN 0 AND 1000000", name="retention"),
    Index(None, "created_at", "id"),
    Index("ix_groups_open", "created_at", "id", postgresql_where=text("\"join\" = 'open'")),
)

# The two indexes serve two lists: the members of a group, and the groups of a user.
members = Table(
    "members",
    metadata,
    Column("group_id", ForeignKey("groups.id", ondelete="CASCADE"), nullable=False),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("role", Text, nullable=False),
    Column("joined_at", DateTime(timezone=True), nullable=False, server_default=_now),
    PrimaryKeyConstraint("group_id", "user_id"),
    CheckConstraint("role IN ('owner', 'member')", name="role"),
    Index(None, "group_id", "joined_at", "user_id"),
    Index(None, "user_id", "joined_at", "group_id"),
)

# The log: messages to each group, joins and leaves, in one order. Only functions of the database write it. It outlives
# groups and users, so it has no foreign keys. actor_id is the user who has sent, joined or left. The body is json,
# since jsonb does not keep the exact bytes.
events = Table(
    "events",
    metadata,
    Column("group_id", Uuid, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("kind", Text, nullable=False),
    Column("actor_id", Uuid),
    Column("body", JSON),
    Column("key", Text),
    Column("at", DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()")),
    PrimaryKeyConstraint("group_id", "seq"),
    CheckConstraint("kind IN ('message', 'joined', 'left')", name="kind"),
    Index(None, "group_id", "key", unique=True, postgresql_where=text("key IS NOT NULL")),
    Index(None, "actor_id", "group_id", "seq", postgresql_where=text("kind <> 'message'")),
    Index(None, "at"),
)

# Only triggers write it. It outlives the changed rows, so it has no foreign keys. user_id is the user or the member of
# the row.
history = Table(
    "history",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("at", DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()")),
    Column("table_name", Text, nullable=False),
    Column("operation", Text, nullable=False),
    Column("row_id", Text, nullable=False),
    Column("user_id", Uuid),
    Column("actor_id", Uuid),
    Column("session_id", Uuid),
    Column("request_id", Text),
    Column("database_role", Text, nullable=False, server_default=text("session_user")),
    Column("old", JSONB),
    Column("new", JSONB),
    Index(None, "at", "id"),
    Index(None, "row_id", "at", "id"),
    Index(None, "user_id", "at", "id"),
    Index(None, "actor_id", "at", "id"),
    Index(None, "table_name", "at", "id"),
    Index(None, "operation", "at", "id"),
    Index(None, "table_name", "operation", "at", "id"),
)

# The running servers, and the users connected to each: the opening time of their earliest open socket, and the number
# of sockets. The rows of a server are deleted with it. Unlogged, since the rows are worthless after a crash, and
# PostgreSQL then empties the tables. No foreign key to users: the rows of a deleted user go when their sockets close.
nodes = Table(
    "nodes",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", Text, nullable=False),
    Column("started_at", DateTime(timezone=True), nullable=False, server_default=_now),
    Column("seen_at", DateTime(timezone=True), nullable=False, server_default=_now),
    prefixes=["UNLOGGED"],
)
presence = Table(
    "presence",
    metadata,
    Column("node_id", ForeignKey("nodes.id", ondelete="CASCADE"), nullable=False),
    Column("user_id", Uuid, nullable=False),
    Column("since", DateTime(timezone=True), nullable=False),
    Column("sockets", Integer, nullable=False),
    PrimaryKeyConstraint("node_id", "user_id"),
    CheckConstraint("sockets > 0", name="sockets"),
    Index(None, "user_id"),
    prefixes=["UNLOGGED"],
)
