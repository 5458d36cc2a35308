"""The module that names all handlers."""

from att import handlers
from att.api.routes import ROUTES


def test_complete():
    """Every handler of the route table can be imported from ``att.handlers``."""
    named = {value for name, value in vars(handlers).items() if not name.startswith("__")}
    assert named - {handlers.make_login_response} == {route.handler for route in ROUTES}
