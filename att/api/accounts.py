"""Sign-up, log-in and log-out of accounts."""

from functools import partial
from uuid import UUID

from aiohttp import web

from att import errors
from att.api import schemas
from att.api.keys import ACCOUNT_SERVICE, DEVICES, RATE_LIMITS, SESSION_LISTENER, SESSIONS
from att.api.route import EXAMPLE_ID, EXAMPLE_TIME, Examples, Route
from att.core.permissions import Who
from att.http.client_info import client_of
from att.http.context import REQUEST_ID, SESSION
from att.http.credentials import delete_session_cookies, device_cookie, set_device_cookie, set_session_cookie
from att.http.problems import problem_of
from att.http.requests import read
from att.sessions.store import SignIn, Verified


def make_login_response(user_id: UUID | str | None, session: SignIn | None = None) -> web.Response:
    """Return the response to a log-in: 200 with the user's id, and with the token of the session if there is one.

    Without a user it is a 401, which does not tell whether the login or the password was wrong.
    """
    if user_id is None:
        return problem_of(errors.AuthFailed())
    body = {"user_id": str(user_id)}
    if session is not None:
        body |= {"token": session.token, "expires_at": session.expires_at.isoformat().replace("+00:00", "Z")}
    return web.json_response(body)


async def signup(request: web.Request) -> web.Response:
    """Create an account, and start a session."""
    account = await read(request, schemas.NewAccountIn)
    address = client_of(request).address
    async with request.app[RATE_LIMITS].sign_up(address):
        verified = await request.app[ACCOUNT_SERVICE].sign_up(
            account.login, account.password, request[REQUEST_ID], address
        )
    with errors.with_detail("The account was created, but cannot be signed in now. Log in in a moment."):
        response = await _sign_in(request, account.login, verified)
    response.set_status(201)
    return response


async def login(request: web.Request) -> web.Response:
    """Start a session."""
    credentials = await read(request, schemas.CredentialsIn)
    accounts, login, address = request.app[ACCOUNT_SERVICE], credentials.login, client_of(request).address
    device = request.app[DEVICES].find(login, device_cookie(request))
    is_known = partial(accounts.is_signed_in_at, login, address)
    async with request.app[RATE_LIMITS].login_attempt(login, address, device, is_known):
        verified = await accounts.authenticate(login, credentials.password, address)
        return await _sign_in(request, login, verified)


async def logout(request: web.Request) -> web.Response:
    """End the session, and close its sockets."""
    session = request[SESSION]
    try:
        await request.app[SESSIONS].end(session.id)
    finally:
        # Even if the session may still exist: a user who logs out wants its sockets closed.
        request.app[SESSION_LISTENER].session_ended(session.id)
    response = web.Response(status=204)
    delete_session_cookies(request, response)
    return response


async def _sign_in(request: web.Request, login: str, verified: Verified) -> web.Response:
    signed_in = await request.app[SESSIONS].create(verified, client_of(request))
    response = make_login_response(verified.user_id, signed_in)
    set_session_cookie(request, response, signed_in.token)
    set_device_cookie(request, response, request.app[DEVICES].add(login, device_cookie(request)))
    return response


ACCOUNT_ROUTES = (
    Route(
        "POST /signup",
        signup,
        Who.ANYONE,
        body=schemas.NewAccountIn,
        responses={201: schemas.SignedInOut},
        errors=(errors.LoginTaken, errors.TooManyAttempts),
        section="accounts",
    ),
    Route(
        "POST /login",
        login,
        Who.ANYONE,
        body=schemas.CredentialsIn,
        responses={200: schemas.SignedInOut},
        errors=(errors.AuthFailed, errors.TooManyAttempts),
        section="accounts",
    ),
    Route("POST /logout", logout, Who.SIGNED_IN, responses={204: None}, section="accounts"),
)

ACCOUNT_EXAMPLES: Examples = {
    schemas.NewAccountIn: {"login": "ann", "password": "correct horse"},
    schemas.CredentialsIn: {"login": "ann", "password": "correct horse"},
    schemas.SignedInOut: {"user_id": EXAMPLE_ID, "token": "h2Zt9…", "expires_at": EXAMPLE_TIME},
}
