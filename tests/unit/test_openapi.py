"""The OpenAPI document as a function of the route table."""

import json
import re

from openapi_spec_validator import OpenAPIV31SpecValidator

from att import errors
from att.api import query_schemas, schemas
from att.api.openapi.document import document
from att.api.route import File, Route
from att.api.routes import ROUTES
from att.api.schemas import ItemsOut
from att.core import fields
from att.core.pagination import CURSOR_LENGTH, CURSOR_PATTERN
from att.core.permissions import Permission, Who
from att.http.schemas import PageOut


class Filter(query_schemas.PageQuery):
    """A query with everything that queries may have."""

    repeatable = frozenset({"id"})
    id: list[fields.Id]
    active: bool | None = None


async def users(_request):
    raise NotImplementedError


async def change(_request):
    raise NotImplementedError


USERS = Route(
    "GET /users",
    users,
    Who.PERMITTED,
    Permission.USERS_READ,
    query=Filter,
    responses={200: PageOut[schemas.UserOut]},
)
MAKE = Route(
    "POST /users",
    change,
    Who.SIGNED_IN,
    body=(schemas.NewUserIn, schemas.NewUsersIn),
    responses={201: (schemas.UserOut, ItemsOut[schemas.UserOut])},
    errors=(errors.LoginTaken,),
)
GET = Route("GET /users/{user_id}", users, Who.ONESELF, Permission.USERS_READ, responses={200: schemas.UserOut})
PATCH = Route(
    "PATCH /users/{user_id}",
    change,
    Who.ANYONE,
    body=schemas.UserChangeIn,
    is_body_required=False,
    responses={200: schemas.UserOut, 204: None},
    conditional=True,
)


def operation(route, *others):
    """Return the operation of a route, and its document."""
    found = document([route, *others], "1.2.3")
    OpenAPIV31SpecValidator(found).validate()
    return found["paths"][route.path][route.method.lower()], found


# The whole table


def test_valid():
    """The document is valid OpenAPI, complete, JSON, and the same every time."""
    found = document(ROUTES, "1.2.3")
    OpenAPIV31SpecValidator(found).validate()
    described = {(method.upper(), path) for path, methods in found["paths"].items() for method in methods}
    assert described == {(route.method, route.path) for route in ROUTES}
    assert found["info"]["version"] == "1.2.3"
    assert json.loads(json.dumps(found)) == found == document(ROUTES, "1.2.3")


def test_components_are_used():
    """Every named schema, response and header is referred to, and every reference has its target."""
    text = json.dumps(document(ROUTES, ""))
    referred = set(re.findall(r'"#/components/(\w+/[^"]+)"', text))
    components = json.loads(text)["components"]
    named = {f"{kind}/{name}" for kind in ("schemas", "responses") for name in components[kind]}
    assert {name for name in referred if not name.startswith("headers/")} == named
    assert {f"headers/{name}" for name in components["headers"]} >= referred - named


def test_security():
    """Each operation names its credentials and its permission."""
    found = document(ROUTES, "")
    for route in ROUTES:
        described = found["paths"][route.path][route.method.lower()]
        assert described["security"] == ([] if route.who is Who.ANYONE else [{"token": []}, {"cookie": []}])
        assert route.permission is None or f"`{route.permission}`" in described["description"]
        assert ("401" in described["responses"]) >= (route.who is not Who.ANYONE)


# One route


def test_parameters():
    """Parameters of path and query have their constraints, and are never null."""
    described, _ = operation(GET)
    assert described["parameters"][:1] == [
        {
            "name": "user_id",
            "in": "path",
            "required": True,
            "description": "The id of a user, or `me`.",
            "schema": {"anyOf": [{"type": "string", "format": "uuid"}, {"const": "me"}]},
        }
    ]
    described, found = operation(USERS)
    assert {
        parameter["name"]: (parameter["required"], parameter["schema"]) for parameter in described["parameters"]
    } == {
        "limit": (False, {"type": "integer", "minimum": 1, "maximum": 200, "default": 50}),
        "after": (False, {"type": "string", "maxLength": CURSOR_LENGTH, "pattern": CURSOR_PATTERN}),
        "id": (True, {"type": "array", "items": {"type": "string", "format": "uuid"}}),
        "active": (False, {"type": "boolean"}),
    }
    assert "Filter" not in found["components"]["schemas"]


def test_either_of_two():
    """A body and a response can be one object or many."""
    described, _ = operation(MAKE)
    body, answer = described["requestBody"], described["responses"]["201"]
    assert body["required"]
    for content, one, many in [(body, "NewUser", "NewUsers"), (answer, "User", "UserItems")]:
        assert content["content"]["application/json"]["schema"] == {
            "anyOf": [{"$ref": f"#/components/schemas/{one}"}, {"$ref": f"#/components/schemas/{many}"}]
        }


def test_optional_body():
    described, _ = operation(PATCH)
    assert described["requestBody"]["required"] is False


def test_preconditions():
    """A user has an ETag, which a change and a read accept; a list has none."""
    described, found = operation(PATCH, GET)
    read = found["paths"][GET.path]["get"]
    assert [parameter["name"] for parameter in read["parameters"]] == ["user_id", "If-None-Match"]
    assert "304" in read["responses"]
    assert [parameter["name"] for parameter in described["parameters"]] == ["user_id", "If-Match"]
    assert "412" in described["responses"]
    methods = found["paths"][GET.path]
    assert all("ETag" in methods[method]["responses"]["200"]["headers"] for method in ("get", "patch"))
    assert "ETag" not in operation(USERS)[0]["responses"]["200"]["headers"]


def test_answers():
    """Each status has its shape and headers; without a body it has no content."""
    described, found = operation(USERS)
    answer = described["responses"]["200"]
    assert answer["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/UserPage"}
    assert set(answer["headers"]) == {"X-Request-ID", "Link"}
    assert "content" not in operation(PATCH)[0]["responses"]["204"]
    assert found["components"]["schemas"]["UserPage"]["required"] == ["items", "next"]


def test_files():
    """A file has its media types and no shape."""
    described, _ = operation(
        Route("GET /x", users, Who.ANYONE, responses={200: File(("text/css", "application/json"))})
    )
    assert described["responses"]["200"]["content"] == {
        "text/css": {"schema": {"type": "string"}},
        "application/json": {"schema": {"type": "object"}},
    }


def test_errors():
    """Each status is a problem with its codes and headers."""
    described, found = operation(MAKE)
    for status, codes, header in [
        ("401", ["not signed in"], "WWW-Authenticate"),
        ("409", ["login taken"], None),
        ("503", ["busy", "database unavailable", "redis unavailable", "shutting down"], "Retry-After"),
    ]:
        name = described["responses"][status]["$ref"].removeprefix("#/components/responses/")
        response = found["components"]["responses"][name]
        content = response["content"]["application/problem+json"]
        assert content["schema"]["allOf"][1]["properties"] == {
            "status": {"const": int(status)},
            "error": {"enum": codes},
        }
        assert list(content["examples"]) == codes
        assert set(response["headers"]) == {"X-Request-ID", header} - {None}
        for code in codes:
            assert f"`{code}`: " in response["description"]


def test_who():
    """The description says who may call the operation."""
    assert operation(USERS)[0]["description"] == "Needs the permission `users.read`."
    assert operation(GET)[0]["description"] == ("Open to the user in the path, and with the permission `users.read`.")
    assert operation(MAKE)[0]["description"] == "Open to anyone signed in."


def test_one_handler_for_two_paths():
    """Each operation has its own id."""
    _, found = operation(USERS, GET)
    assert [path["get"]["operationId"] for path in found["paths"].values()] == ["users", "users_of_user"]
