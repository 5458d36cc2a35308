"""Build the OpenAPI document from the route table."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from inspect import getdoc
from typing import Any

from att import errors
from att.api.openapi.errors import ErrorResponse, error_responses
from att.api.openapi.json_schema import Json, Schemas, each_of, markdown
from att.api.route import PATH_PARAMETERS, Route
from att.api.schemas import GroupOut, RoleOut, SignedInOut, UserOut
from att.core.names import KEY_PATTERN
from att.core.permissions import Who
from att.core.quotas import Quota
from att.http.bodies import BODY_LIMIT
from att.http.credentials import COOKIE, DEVICE_COOKIE, HOST_COOKIE
from att.http.requests import IDEMPOTENCY_KEY, LAST_EVENT_ID
from att.http.status_codes import phrase_of
from att.protocol.event_stream import ID_LIMIT

ABOUT = f"""\
Accounts, groups and broadcasts.

Sign in at `/login`, here with *Try it out*, and send the token as `Authorization: Bearer <token>`. The cookie
`{HOST_COOKIE}` (over http `{COOKIE}`) signs a browser in, too; requests that change something must
then come from a page of this server or of an origin that it allows.

Bodies are JSON of at most {BODY_LIMIT // 1024} KiB. Errors are problems (RFC 9457): compare `error`, which is stable;
`detail` is for people. Lists come in pages: send `next` of a page as `after` to get the following one. Every
response has `X-Request-ID`: your own, if you send one.
"""
SECURITY = {
    "token": {"type": "http", "scheme": "bearer", "description": "The token from sign-up or log-in."},
    "cookie": {
        "type": "apiKey",
        "in": "cookie",
        "name": HOST_COOKIE,
        "description": f"Set by sign-up and log-in. Over http, and below a path prefix, it is `{COOKIE}`.",
    },
}

_WORD = {"type": "string", "minLength": 1}
_FAULT = {
    "type": "object",
    "properties": {"field": {"type": "string"}, "detail": {"type": "string"}},
    "required": ["field", "detail"],
}
_PROBLEM: Json = {
    "type": "object",
    "description": "An error (RFC 9457).",
    "properties": {
        "type": {"const": "about:blank"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "For people."},
        "error": {"type": "string", "description": "For programs: it is stable."},
        "errors": {"type": "array", "items": _FAULT, "description": "All faults of invalid input."},
        "quota": {"enum": [*Quota], "description": "The quota at fault."},
        "index": {"type": "integer", "minimum": 0, "description": "Position of the item at fault."},
    },
    "required": ["type", "title", "status", "detail", "error"],
}
_HEADERS: dict[str, Json] = {
    "X-Request-ID": {"required": True, "description": "The id of the request.", "schema": _WORD},
    "Link": {"description": 'The following page (RFC 8288): `<…>; rel="next"`.', "schema": _WORD},
    "ETag": {"description": "This version, for `If-Match` and `If-None-Match`.", "schema": _WORD},
    "Set-Cookie": {
        "description": f"The cookie `{HOST_COOKIE}` or `{COOKIE}`, and after sign-up and log-in `{DEVICE_COOKIE}`.",
        "schema": _WORD,
    },
    "Retry-After": {"required": True, "description": "In seconds.", "schema": {"type": "integer", "minimum": 1}},
    "WWW-Authenticate": {"required": True, "description": "How to sign in.", "schema": _WORD},
    "Upgrade": {"required": True, "description": "The protocol to upgrade to.", "schema": {"const": "websocket"}},
}
_ERROR_HEADERS = {401: "WWW-Authenticate", 426: "Upgrade", 429: "Retry-After", 503: "Retry-After"}
_KEY = {
    "name": IDEMPOTENCY_KEY,
    "in": "header",
    "description": "A request that is repeated with the same key gets the first response. Another body is refused.",
    "schema": {"type": "string", "pattern": KEY_PATTERN},
}
_LAST_EVENT_ID = {
    "name": LAST_EVENT_ID,
    "in": "header",
    "description": "For server-sent events: the `id` of the last event, after which the stream goes on.",
    "schema": {"type": "string", "maxLength": ID_LIMIT},
}
_IF_MATCH = {
    "name": "If-Match",
    "in": "header",
    "description": "The `ETag` that was read: nothing is changed if it is no longer current. `*`: if it exists.",
    "schema": {"type": "string"},
}
_IF_NONE_MATCH = {
    "name": "If-None-Match",
    "in": "header",
    "description": "The `ETag` that was read: nothing is sent if it is still current. With PUT, `*`: if it is new.",
    "schema": {"type": "string"},
}
_NOT_MODIFIED = 304
_VERSIONED = (UserOut, RoleOut, GroupOut)  # shapes of responses with an ETag


def document(routes: Iterable[Route], version: str) -> Json:
    """Return the document (OpenAPI 3.1) of these routes. Schemas and error responses are shared."""
    routes = tuple(routes)
    schemas = Schemas(routes)
    paths: defaultdict[str, Json] = defaultdict(dict)
    problems: dict[str, Json] = {}
    for route, operation_id in zip(routes, _operation_ids(routes), strict=True):
        problems |= {_name(found): _problem(found) for found in error_responses(route).values()}
        operation = _operation(route, schemas)
        paths[route.path][route.method.lower()] = {"operationId": operation_id, **operation}
    queries = {route.query.__name__ for route in routes if route.query}
    shown = {name: schema for name, schema in schemas.definitions.items() if name not in queries}
    return {
        "openapi": "3.1.0",
        "info": {"title": "att", "version": version, "description": ABOUT, "license": {"name": "MIT"}},
        "tags": [{"name": tag} for tag in dict.fromkeys(route.tag for route in routes)],
        "paths": dict(paths),
        "components": {
            "schemas": {**shown, "Problem": _PROBLEM},
            "responses": {name: problems[name] for name in sorted(problems)},
            "headers": _HEADERS,
            "securitySchemes": SECURITY,
        },
    }


# Operations


def _operation(route: Route, schemas: Schemas) -> Json:
    operation: Json = {
        "tags": [route.tag],
        "summary": route.summary,
        "description": _describe_who(route),
        "security": [] if route.who is Who.ANYONE else [{name: []} for name in SECURITY],
        "parameters": [*_path_parameters(route), *_query_parameters(route, schemas)],
    }
    if route.conditional:
        operation["parameters"].append(_IF_MATCH)
    is_cached = route.method == "GET" and _has_version(route.responses.get(200))
    if is_cached or (route.conditional and route.method == "PUT"):
        operation["parameters"].append(_IF_NONE_MATCH)
    if route.takes_key:
        operation["parameters"].append(_KEY)
    if route.upgrades:
        operation["parameters"].append(_LAST_EVENT_ID)
    if route.body is not None:
        content = schemas.content(route.body, "validation")
        operation["requestBody"] = {"required": route.is_body_required, "content": content}
    operation["responses"] = {
        str(status): _response(status, response, schemas)
        for status, response in {**route.responses, **({_NOT_MODIFIED: None} if is_cached else {})}.items()
    } | {
        str(status): {"$ref": f"#/components/responses/{_name(found)}"}
        for status, found in error_responses(route).items()
    }
    return operation


def _operation_ids(routes: Iterable[Route]) -> Iterator[str]:
    """Yield the names of the handlers; for a handler's second path, with its first parameter added."""
    taken = set()
    for route in routes:
        name = route.handler.__name__
        if name in taken:
            name += f"_of_{route.parameters[0].removesuffix('_id')}"
        taken.add(name)
        yield name


def _describe_who(route: Route) -> str:
    if route.who is Who.PERMITTED:
        return f"Needs the permission `{route.permission}`."
    also = f", and with the permission `{route.permission}`" if route.permission else ""
    return f"Open to {route.who.value}{also}."


def _path_parameters(route: Route) -> Iterator[Json]:
    for name in route.parameters:
        parameter = PATH_PARAMETERS[name]
        schema = {"description": parameter.description, "schema": parameter.schema}
        yield {"name": name, "in": "path", "required": True, **schema}


def _query_parameters(route: Route, schemas: Schemas) -> Iterator[Json]:
    shape = route.query
    if shape is None:
        return
    schema = schemas.of_query(shape)
    for name, member in schema.get("properties", {}).items():
        is_required = name in schema.get("required", ())
        yield {"name": name, "in": "query", "required": is_required, **_parameter(member)}


def _parameter(member: Json) -> Json:
    """Return a query parameter. Unlike the shape's field it is never null."""
    rest = {key: value for key, value in member.items() if key not in ("anyOf", "description", "default")}
    if member.get("default") is not None:
        rest["default"] = member["default"]
    kinds = [kind for kind in member.get("anyOf", ()) if kind != {"type": "null"}]
    schema = rest | (kinds[0] if len(kinds) == 1 else {"anyOf": kinds} if kinds else {})
    description = {key: member[key] for key in ("description",) if key in member}
    return {**description, "schema": schema}


# Responses


def _response(status: int, shape: Any, schemas: Schemas) -> Json:
    each = each_of(shape)
    headers = ["X-Request-ID"]
    if any("next" in one.model_fields for one in each):
        headers.append("Link")
    if _has_version(shape):
        headers.append("ETag")
    if SignedInOut in each:
        headers.append("Set-Cookie")
    description = " Or: ".join(markdown(getdoc(one) or "") for one in each)
    response: Json = {"description": description or f"{phrase_of(status)}.", "headers": _refer(headers)}
    if shape is not None:
        response["content"] = schemas.content(shape, "serialization")
    return response


def _has_version(shape: Any) -> bool:
    return not set(_VERSIONED).isdisjoint(each_of(shape))


def _refer(headers: Iterable[str]) -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in headers}


# Errors


def _name(found: Sequence[ErrorResponse]) -> str:
    """Return a name that equal error responses share."""
    return "-".join([str(found[0].status), *(error.code.replace(" ", "_") for error in found)])


def _problem(found: Sequence[ErrorResponse]) -> Json:
    status = found[0].status
    headers = ["X-Request-ID", *([_ERROR_HEADERS[status]] if status in _ERROR_HEADERS else [])]
    own = {"status": {"const": status}, "error": {"enum": [error.code for error in found]}}
    schema = {"allOf": [{"$ref": "#/components/schemas/Problem"}, {"properties": own}]}
    examples = {error.code: {"value": _problem_example(error)} for error in found}
    return {
        "description": " ".join(f"`{error.code}`: {error.detail}" for error in found),
        "headers": _refer(headers),
        "content": {"application/problem+json": {"schema": schema, "examples": examples}},
    }


def _problem_example(error: ErrorResponse) -> Json:
    status, code, detail = error
    problem = {"type": "about:blank", "title": phrase_of(status), "status": status}
    if code == errors.InvalidInput.code:
        fault = {"field": "name", "detail": "is missing"}
        return problem | {"detail": "name: is missing", "error": code, "errors": [fault]}
    return problem | {"detail": detail, "error": code}
