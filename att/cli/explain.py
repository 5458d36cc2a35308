"""The sub-command ``why``."""

import dataclasses
import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import click

from att.cli.explain_queries import ExplainedActor, Explanation, Step, explain
from att.cli.options import database_options, redis_option, settings_of
from att.cli.output import say
from att.cli.runner import run
from att.config.database import naming, open_database
from att.config.options import Parsed
from att.config.settings import Settings
from att.core.names import check_name
from att.db.engine import Engine
from att.protocol.messages import timestamp
from att.realtime.presence import Stay

CHANGE_WORDS = {"joined": "joined as {}", "left": "left", "changed": "became {}"}


@click.command("why")
@click.argument("user", type=Parsed("login", check_name))
@click.argument("group", type=Parsed("name", check_name))
@click.option("--json", "is_json", is_flag=True, help="Print one JSON object, for programs.")
@database_options
@redis_option
@click.pass_context
def why(context: click.Context, /, user: str, group: str, *, is_json: bool, **where: object) -> None:
    """Explain why USER receives the events of GROUP, or does not.

    USER is a login or an id, GROUP a name or an id. The explanation is from the database: the membership, who changed
    it and when, the log, and the user's open sockets on all servers.
    """
    found = run(_explain(settings_of(context, **where), user, group))
    say(_as_json(found) if is_json else "\n".join(lines_of(found)))


async def _explain(settings: Settings, user: str, group: str) -> Explanation:
    async with open_database(settings, may_create=False) as database:
        db = await Engine.connect(database.dsn)
        try:
            with naming(database):
                return await explain(db, user, group, has_sessions=settings.redis_url is None)
        finally:
            await db.close()


def _as_json(found: Explanation) -> str:
    members = dataclasses.asdict(found) | {"sockets": [stay._asdict() for stay in found.sockets]}
    return json.dumps(members, ensure_ascii=False, default=_plain)


def _plain(value: Any) -> str:
    return timestamp(value) if isinstance(value, datetime) else str(value)


def lines_of(found: Explanation) -> Iterator[str]:
    """Yield the explanation for people; the first line is the answer."""
    user, group, membership = found.user, found.group, found.membership
    yield f"{user.login} {_answer(found)}"
    yield f"user: {user.login}, {user.id}, {'active' if user.active else 'disabled, and cannot sign in'}"
    yield f"group: {group.name}, {group.id}"
    if membership is None:
        yield "membership: none"
    else:
        by = "by whom is not recorded" if membership.by is None else _by(membership.by, found)
        yield f"membership: {membership.role} since {timestamp(membership.since)}, {by}"
    for step in found.steps:
        yield f"  {_step(step, found)}"
    yield f"log: {_log(found)}"
    yield f"sockets: {sum(stay.sockets for stay in found.sockets) or 'none'}"
    for stay in found.sockets:
        yield f"  {_stay(stay)}"
    yield f"sessions: {_sessions(found)}"


def _sessions(found: Explanation) -> str:
    if found.sessions is None:
        return "kept in Redis"
    return f"{found.sessions or 'none'} in PostgreSQL; if the servers have a --redis-url, give it here too"


def _answer(found: Explanation) -> str:
    name = found.group.name
    if found.membership is None:
        return f"is not a member of {name}, and receives nothing from it"
    if not found.user.active:
        return f"is a member of {name}, but is disabled, and cannot sign in"
    if not found.sockets:
        return (
            f"is a member of {name}, but has no open socket, and receives its events after the next connect and resume"
        )
    return f"is a member of {name}, and receives its events"


def _by(actor: ExplainedActor, found: Explanation) -> str:
    if actor.user_id is None:
        return f"by the database role {actor.database_role}"
    if actor.user_id == found.user.id:
        return "by themselves"
    return f"by {actor.login or 'a deleted account'} ({actor.user_id})"


def _step(step: Step, found: Explanation) -> str:
    change = CHANGE_WORDS[step.kind].format(step.role)
    place = f", seq {step.seq}" if step.seq is not None else ""
    return f"{timestamp(step.at)} {change}{place}, {_by(step.by, found)}"


def _log(found: Explanation) -> str:
    group = found.group
    if group.seq == 0:
        return "empty"
    at = f" at {timestamp(group.at)}" if group.at is not None else ""
    kept = "no event is kept" if group.oldest is None else f"kept from seq {group.oldest} on"
    read = "all of it" if group.history == "all" else "what was logged while they were members"
    return f"ends with seq {group.seq}{at}; {kept}, at most {group.retention} events; members read {read}"


def _stay(stay: Stay) -> str:
    return f"{stay.sockets} on {stay.node} since {timestamp(stay.since)}"
