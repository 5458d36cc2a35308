"""The tables. Every constraint has a name by the convention, so that a driver's error can be told by it.

``alembic/versions`` creates them; a test holds that the two agree.
"""

from sqlalchemy import (
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    Uuid,
    text,
)

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
users = Table(
    "users",
    metadata,
    Column("id", Uuid, primary_key=True, server_default=_random_uuid),
    Column("login", Text, nullable=False),
    Column("login_key", Text(collation="C"), nullable=False, unique=True),
    Column("password_hash", Text, nullable=False),
)

# Of a token only its SHA-256 is kept.
sessions = Table(
    "sessions",
    metadata,
    Column("id", Uuid, primary_key=True, server_default=_random_uuid),
    Column("token_hash", LargeBinary, nullable=False, unique=True),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=_now),
    Column("expires_at", DateTime(timezone=True), nullable=False),
)

groups = Table(
    "groups",
    metadata,
    Column("id", Uuid, primary_key=True, server_default=_random_uuid),
    Column("name", Text, nullable=False),
    Column("name_key", Text(collation="C"), nullable=False, unique=True),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=_now),
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
