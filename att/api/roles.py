"""Roles."""

from uuid import UUID

from aiohttp import web

from att import errors
from att.accounts import roles
from att.api import schemas
from att.api.auth import actor_of, path_id
from att.api.keys import ROLE_SERVICE
from att.api.query_schemas import IdsQuery
from att.api.route import EXAMPLE_ID, Examples, Route
from att.core.permissions import Permission, Who
from att.http.requests import read, read_one_or_many, read_preconditions, read_query, read_window
from att.http.responses import respond, respond_page
from att.http.schemas import PageOut, PageQuery


async def list_roles(request: web.Request) -> web.Response:
    """List the roles by name."""
    window = read_window(read_query(request, PageQuery), roles.ROLES.order)
    return respond_page(request, await request.app[ROLE_SERVICE].page(window), schemas.RoleOut)


async def create_roles(request: web.Request) -> web.Response:
    """Create a role, or up to 1,000."""
    body, actor = await read_one_or_many(request, schemas.NewRoleIn, schemas.NewRolesIn), actor_of(request)
    if isinstance(body, list):
        new = [roles.NewRole(role.name, role.permissions) for role in body]
        return _respond_roles(await request.app[ROLE_SERVICE].create_many(new, actor), status=201)
    role = await request.app[ROLE_SERVICE].create(roles.NewRole(body.name, body.permissions), actor)
    return _respond_role(role, status=201)


async def change_roles(request: web.Request) -> web.Response:
    """Change roles."""
    body = await read(request, schemas.RoleChangesIn)
    changes = [_role_change(change.id, change) for change in body.root]
    return _respond_roles(await request.app[ROLE_SERVICE].change_many(changes, actor_of(request)))


async def delete_roles(request: web.Request) -> web.Response:
    """Delete roles."""
    query = read_query(request, IdsQuery)
    deleted = await request.app[ROLE_SERVICE].delete_many(query.id, actor_of(request))
    return respond(schemas.DeletedOut(deleted=deleted))


async def get_role(request: web.Request) -> web.Response:
    """Return a role."""
    return _respond_role(await request.app[ROLE_SERVICE].find(path_id(request, "role_id")))


async def change_role(request: web.Request) -> web.Response:
    """Change a role."""
    change = _role_change(path_id(request, "role_id"), await read(request, schemas.RoleChangeIn))
    preconditions = read_preconditions(request)
    return _respond_role(await request.app[ROLE_SERVICE].change(change, actor_of(request), preconditions))


async def delete_role(request: web.Request) -> web.Response:
    """Delete a role that nobody has."""
    role_id, preconditions = path_id(request, "role_id"), read_preconditions(request)
    await request.app[ROLE_SERVICE].delete(role_id, actor_of(request), preconditions)
    return web.Response(status=204)


def _role_change(role_id: UUID, body: schemas.RoleChangeIn) -> roles.RoleChange:
    given = body.model_fields_set
    return roles.RoleChange(
        role_id, body.name if "name" in given else None, body.permissions if "permissions" in given else None
    )


def _respond_role(role: roles.Role, *, status: int = 200) -> web.Response:
    return respond(schemas.RoleOut.model_validate(role), status=status, version=role.version)


def _respond_roles(found: list[roles.Role], *, status: int = 200) -> web.Response:
    items = [schemas.RoleOut.model_validate(role) for role in found]
    return respond(schemas.ItemsOut[schemas.RoleOut](items=items), status=status)


_ROLE_ERRORS = (errors.NoSuchRole, errors.RoleNameTaken, errors.BuiltInRole, errors.LastAdministrator)
ROLE_ROUTES = (
    Route(
        "GET /roles",
        list_roles,
        Who.PERMITTED,
        Permission.ROLES_READ,
        query=PageQuery,
        responses={200: PageOut[schemas.RoleOut]},
    ),
    Route(
        "POST /roles",
        create_roles,
        Who.PERMITTED,
        Permission.ROLES_WRITE,
        body=(schemas.NewRoleIn, schemas.NewRolesIn),
        responses={201: (schemas.RoleOut, schemas.ItemsOut[schemas.RoleOut])},
        errors=(errors.RoleNameTaken,),
    ),
    Route(
        "PATCH /roles",
        change_roles,
        Who.PERMITTED,
        Permission.ROLES_WRITE,
        body=schemas.RoleChangesIn,
        responses={200: schemas.ItemsOut[schemas.RoleOut]},
        errors=_ROLE_ERRORS,
    ),
    Route(
        "DELETE /roles",
        delete_roles,
        Who.PERMITTED,
        Permission.ROLES_WRITE,
        query=IdsQuery,
        responses={200: schemas.DeletedOut},
        errors=(errors.NoSuchRole, errors.BuiltInRole, errors.RoleInUse),
    ),
    Route(
        "GET /roles/{role_id}",
        get_role,
        Who.PERMITTED,
        Permission.ROLES_READ,
        responses={200: schemas.RoleOut},
        errors=(errors.NoSuchRole,),
    ),
    Route(
        "PATCH /roles/{role_id}",
        change_role,
        Who.PERMITTED,
        Permission.ROLES_WRITE,
        body=schemas.RoleChangeIn,
        responses={200: schemas.RoleOut},
        errors=_ROLE_ERRORS,
        conditional=True,
    ),
    Route(
        "DELETE /roles/{role_id}",
        delete_role,
        Who.PERMITTED,
        Permission.ROLES_WRITE,
        responses={204: None},
        errors=(errors.NoSuchRole, errors.BuiltInRole, errors.RoleInUse),
        conditional=True,
    ),
)

ROLE_EXAMPLES: Examples = {
    schemas.NewRoleIn: {"name": "Support", "permissions": ["users.read"]},
    schemas.RoleChangeIn: {"permissions": ["users.read", "history.read"]},
    schemas.NamedRoleChangeIn: {"id": EXAMPLE_ID, "name": "Help desk"},
    schemas.RoleOut: {"id": EXAMPLE_ID, "name": "Support", "permissions": ["users.read"]},
}
