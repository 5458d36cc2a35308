"""The tables. Every constraint has a name by the convention, so that a driver's error can be told by it.

``alembic/versions`` creates them; a test holds that the two agree.
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

# A *_key column holds att.names.fold() of the column beside it. Its collation is C, so that it is compared byte by
# byte whatever the database's locale.
roles = Table(
    "roles",
    metadata,
    Column("id", Uuid, primary_key=True, server_default=_random_uuid),
    Column("name", Text, nullable=False),
    Column("name_key", Text(collation="C"), nullable=False, unique=True),
    Column("permissions", ARRAY(Text), nullable=False, server_default=text("'{}'")),
)

# search_text holds the keys of login, first and last name, a line each; att_grams() cuts it into pieces of one to three
# characters, so that the last index finds any part of them. Without a password nobody can sign in.
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

# Of a token only its SHA-256 is kept.
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

# Who may let themselves in (join), and who may broadcast (post). seq is that of the last event, and retention how many
# events are kept.
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

# The two indexes serve the two lists, by key: the members of a group, and the groups of a user.
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

# The log: what was sent to each group, and who joined and left it, in one order. Written by functions of the database
# alone. It outlives its groups and users, and so refers to nothing. actor_id is who has sent it, joined or left. The
# body is json and not jsonb, which would not keep it byte for byte.
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

# Written by triggers alone. It outlives what it tells of, and so refers to nothing. user_id is whose row it was: the
# user, or the member.
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

# The servers that run, and who is connected to each: since when the earliest of their open sockets is there, and how
# many there are. What a server has written goes with it. Unlogged, for it is worth nothing after a crash; PostgreSQL
# then empties them. A user who is deleted leaves when their sockets are closed, and so is not referred to.
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
