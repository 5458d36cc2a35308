"""Users."""

import contextlib
from collections.abc import AsyncIterator
from uuid import UUID

from aiohttp import web

from att import errors
from att.accounts.user_search import ORDERS, UserFilters
from att.accounts.users import NewUser, User, UserChange
from att.api import schemas
from att.api.auth import actor_of, is_permitted, path_user, visible_profiles
from att.api.keys import ACCOUNT_SERVICE, PROFILE, RATE_LIMITS, USER_SEARCH
from att.api.query_schemas import IdsQuery, UsersQuery
from att.api.route import EXAMPLE_ID, EXAMPLE_TIME, Examples, Route
from att.core.pagination import Page
from att.core.permissions import Permission, Who
from att.http.client_info import client_of
from att.http.context import SESSION
from att.http.requests import read, read_one_or_many, read_preconditions, read_query, read_window
from att.http.responses import respond, respond_page
from att.http.schemas import PageOut


async def list_users(request: web.Request) -> web.Response:
    """List the users that match the filters, or those with these ids.

    By ids everyone gets the profiles of the users whom they may see. The rest needs the permission `users.read`.
    """
    may_read_all = await is_permitted(request, Permission.USERS_READ)
    if not may_read_all and "id" not in request.query:
        raise errors.NotPermitted
    query = read_query(request, UsersQuery)
    if query.id is not None and may_read_all:
        return respond_page(request, Page(await request.app[USER_SEARCH].find_many(query.id), None), schemas.UserOut)
    if query.id is not None:
        return respond_page(request, Page(await visible_profiles(request, query.id), None), schemas.ProfileOut)
    filters = UserFilters(**query.model_dump(include=set(UserFilters._fields)))
    page = await request.app[USER_SEARCH].list(filters, query.sort, read_window(query, ORDERS[query.sort]))
    return respond_page(request, page, schemas.UserOut)


async def create_users(request: web.Request) -> web.Response:
    """Create a user, or many."""
    new = await read_one_or_many(request, schemas.NewUserIn, schemas.NewUsersIn)
    if not isinstance(new, list):
        return _respond_user(await request.app[ACCOUNT_SERVICE].create(_new_user(new), actor_of(request)), status=201)
    users = await request.app[ACCOUNT_SERVICE].create_many([_new_user(one) for one in new], actor_of(request))
    return respond(schemas.ItemsOut[schemas.UserOut].model_validate({"items": users}, from_attributes=True), status=201)


async def get_user(request: web.Request) -> web.Response:
    """Return a user; of another one the profile, without users.read."""
    if PROFILE in request:
        return respond(schemas.ProfileOut.model_validate(request[PROFILE]))
    return _respond_user(await request.app[USER_SEARCH].find(path_user(request)))


async def change_user(request: web.Request) -> web.Response:
    """Change a user."""
    change = await read(request, schemas.UserChangeIn)
    values = change.model_dump(exclude_unset=True)
    user_id, actor, preconditions = path_user(request), actor_of(request), read_preconditions(request)
    async with _limited(request, change, user_id):
        user = await request.app[ACCOUNT_SERVICE].change(user_id, values, actor, preconditions)
    return _respond_user(user)


async def change_users(request: web.Request) -> web.Response:
    """Change many users."""
    changes = await read(request, schemas.UserChangesIn)
    named = [UserChange(one.id, one.model_dump(exclude_unset=True, exclude={"id"})) for one in changes.root]
    own = next((one for one in changes.root if one.id == request[SESSION].user_id), None)
    async with _limited(request, own, own.id) if own else contextlib.nullcontext():
        users = await request.app[ACCOUNT_SERVICE].change_many(named, actor_of(request))
    return respond(schemas.ItemsOut[schemas.UserOut].model_validate({"items": users}, from_attributes=True))


async def delete_user(request: web.Request) -> web.Response:
    """Delete a user."""
    preconditions = read_preconditions(request)
    await request.app[ACCOUNT_SERVICE].delete(path_user(request), actor_of(request), preconditions)
    return web.Response(status=204)


async def delete_users(request: web.Request) -> web.Response:
    """Delete many users."""
    query = read_query(request, IdsQuery)
    deleted = await request.app[ACCOUNT_SERVICE].delete_many(query.id, actor_of(request))
    return respond(schemas.DeletedOut(deleted=deleted))


@contextlib.asynccontextmanager
async def _limited(request: web.Request, change: schemas.UserChangeIn, user_id: UUID) -> AsyncIterator[None]:
    """Apply the rate limits of log-in and sign-up to changes of one's own password and login."""
    rate_limits, address, session = request.app[RATE_LIMITS], client_of(request).address, request[SESSION]
    async with contextlib.AsyncExitStack() as stack:
        if "current_password" in change.model_fields_set:
            await stack.enter_async_context(rate_limits.current_password(session.id, address))
        if "login" in change.model_fields_set and user_id == session.user_id:
            await stack.enter_async_context(rate_limits.rename(address))
        yield


def _new_user(new: schemas.NewUserIn) -> NewUser:
    return NewUser(**new.model_dump())


def _respond_user(user: User, *, status: int = 200) -> web.Response:
    return respond(schemas.UserOut.model_validate(user), status=status, version=user.version)


_USER = {200: schemas.UserOut}
_GIVEN = (errors.NoSuchRole, errors.LoginTaken)
_CHANGED = (
    *_GIVEN,
    errors.NoSuchUser,
    errors.NotPermitted,
    errors.WrongPassword,
    errors.TooManyAttempts,
    errors.LastAdministrator,
)
USER_ROUTES = (
    Route(
        "GET /users",
        list_users,
        Who.SIGNED_IN,
        query=UsersQuery,
        responses={200: (PageOut[schemas.UserOut], PageOut[schemas.ProfileOut])},
        errors=(errors.NotPermitted,),
    ),
    Route(
        "POST /users",
        create_users,
        Who.PERMITTED,
        Permission.USERS_WRITE,
        body=(schemas.NewUserIn, schemas.NewUsersIn),
        responses={201: (schemas.UserOut, schemas.ItemsOut[schemas.UserOut])},
        errors=_GIVEN,
    ),
    Route(
        "PATCH /users",
        change_users,
        Who.PERMITTED,
        Permission.USERS_WRITE,
        body=schemas.UserChangesIn,
        responses={200: schemas.ItemsOut[schemas.UserOut]},
        errors=_CHANGED,
    ),
    Route(
        "DELETE /users",
        delete_users,
        Who.PERMITTED,
        Permission.USERS_WRITE,
        query=IdsQuery,
        responses={200: schemas.DeletedOut},
        errors=(errors.NoSuchUser, errors.LastAdministrator),
    ),
    Route(
        "GET /users/{user_id}",
        get_user,
        Who.FELLOW,
        Permission.USERS_READ,
        responses={200: (schemas.UserOut, schemas.ProfileOut)},
        errors=(errors.NoSuchUser,),
    ),
    Route(
        "PATCH /users/{user_id}",
        change_user,
        Who.ONESELF,
        Permission.USERS_WRITE,
        body=schemas.UserChangeIn,
        responses=_USER,
        errors=_CHANGED,
        conditional=True,
    ),
    Route(
        "DELETE /users/{user_id}",
        delete_user,
        Who.ONESELF,
        Permission.USERS_WRITE,
        responses={204: None},
        errors=(errors.NoSuchUser, errors.NotPermitted, errors.LastAdministrator),
        conditional=True,
    ),
)

_PERSON = {"first_name": "Ann", "last_name": "Lee", "birth_date": "1990-05-17"}
USER_EXAMPLES: Examples = {
    schemas.NewUserIn: {"login": "ann", "password": "correct horse", **_PERSON, "role": "User", "active": True},
    schemas.UserChangeIn: {"first_name": "Anna", "birth_date": None},
    schemas.NamedUserChangeIn: {"id": EXAMPLE_ID, "active": False},
    schemas.UserOut: {
        "id": EXAMPLE_ID,
        "login": "ann",
        **_PERSON,
        "registered_at": EXAMPLE_TIME,
        "role": "User",
        "active": True,
    },
    schemas.ProfileOut: {"id": EXAMPLE_ID, "login": "ann", "first_name": "Ann", "last_name": "Lee"},
    schemas.DeletedOut: {"deleted": 2},
}
