"""The house: names are unique, and tests are in the directory of what they need."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "att"
UNIT = Path(__file__).parent
SERVERS = {"initialised", "embedded", "valkey", "valkey_cluster", "aiohttp_client", "aiohttp_server"}  # fixtures


def test_names_are_unique():
    """A reader who meets a name knows which thing is meant."""
    places = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        for name in defined(path.read_text(encoding="utf-8")):
            places[name].append(str(path.relative_to(PACKAGE)))
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_unit_tests_need_no_server(request):
    """Tests that need a database, a Valkey or the application are in another directory."""
    tests = (item for item in request.session.items if UNIT in item.path.parents)
    assert [item.nodeid for item in tests if SERVERS & {*item.fixturenames}] == []


def test_defined():
    """Classes, type aliases and constants are found; functions, private names and plain variables are not."""
    source = "class A: ...\nclass _B: ...\nC = D = 1\nE, F = 1, 2\nG: int = 1\nAlias = A\n_H = 1\nlog = 1\ndef f(): 1"
    assert [*defined(source)] == ["A", "C", "D", "E", "F", "G", "Alias"]


def defined(source: str) -> Iterator[str]:
    """Yield the public class, alias and constant names that a module defines."""
    for node in ast.parse(source).body:
        match node:
            case ast.ClassDef(name=name):
                found = [name]
            case ast.Assign(targets=targets):
                found = [leaf.id for target in targets for leaf in ast.walk(target) if isinstance(leaf, ast.Name)]
            case ast.AnnAssign(target=ast.Name(id=name)):
                found = [name]
            case _:
                found = []
        yield from (name for name in found if name[0].isupper())
