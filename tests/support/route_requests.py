"""Valid requests to every route of the table."""

from collections import defaultdict
from uuid import uuid4

from people import PASSWORD

from att.api.openapi.examples import example_of
from att.api.routes import ROUTES


def served() -> dict[str, set[str]]:
    """Return the methods of each path, with HEAD and OPTIONS."""
    methods = defaultdict(lambda: {"OPTIONS"})
    for route in ROUTES:
        methods[route.path] |= {"GET", "HEAD"} if route.method == "GET" and not route.upgrades else {route.method}
    return methods


def fill(path: str, **places: object) -> str:
    """Fill in the parameters of the path; those not given get an unused id."""
    given = defaultdict(uuid4) | {"group": "tea", "file": "swagger-ui.css"} | places
    return path.format_map(given)


def request_for(method: str, path: str, **places: object) -> dict[str, object]:
    """Return a valid body or query for a request: a unique one, or the example of its shape."""
    unique = uuid4().hex[:12]
    user_id, role_id = str(places.get("user_id", uuid4())), str(places.get("role_id", uuid4()))
    bodies = {
        ("POST", "/signup"): {"login": unique, "password": PASSWORD},
        ("POST", "/login"): {"login": "owner", "password": PASSWORD},
        ("POST", "/users"): {"login": unique},
        ("PATCH", "/users"): [{"id": user_id, "first_name": "Zoe"}],
        ("PATCH", "/users/{user_id}"): {"first_name": "Zoe"},
        ("POST", "/roles"): {"name": unique},
        ("PATCH", "/roles"): [{"id": role_id, "name": unique}],
        ("PATCH", "/roles/{role_id}"): {"name": unique},
        ("POST", "/groups"): {"name": unique + "g"},
        ("PATCH", "/groups/{group}"): {"post": "owners"},
        ("POST", "/groups/{group}/members"): {"user_ids": [user_id]},
    }
    queries = {("DELETE", "/users"): {"id": user_id}, ("DELETE", "/roles"): {"id": role_id}}
    if (method, path) in queries:
        return {"params": queries[method, path]}
    if method not in ("POST", "PUT", "PATCH"):
        return {}
    [route] = [route for route in ROUTES if (route.method, route.path) == (method, path)]
    if not route.is_body_required:
        return {}
    return {"json": bodies.get((method, path)) or (example_of(route.body) if route.body else {})}
