"""The module that names all handlers."""

from att import handlers
from att.api.routes import ROUTES


def test_complete():
    """Every handler of the route table can be imported from ``att.handlers``."""
    named = {getattr(handlers, name) for name in handlers.__all__}
    assert {route.handler for route in ROUTES} == named - {handlers.make_login_response}
