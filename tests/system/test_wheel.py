"""The wheel: it carries the program and the migrations, and works without the checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The wheel of this checkout, unpacked as an installer would."""
    directory = tmp_path_factory.mktemp("wheel")
    source = directory / "source"
    source.mkdir()
    for name in ("att", "alembic", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        (source / name).symlink_to(ROOT / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    result = subprocess.run(
        [*pip, "--wheel-dir", str(directory), str(source)], capture_output=True, text=True, check=False, timeout=120
    )
    assert result.returncode == 0, result.stderr
    [wheel] = directory.glob("att_server-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(directory / "site")
    return directory / "site"


def run(unpacked, script, *arguments):
    """Run Python where only the wheel's att can be imported."""
    environment = {**os.environ, "PYTHONPATH": str(unpacked)}
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=unpacked,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_it_carries_every_module(unpacked):
    ours = {path.relative_to(ROOT) for path in (ROOT / "att").rglob("*.py")}
    carried = {path.relative_to(unpacked) for path in (unpacked / "att").rglob("*.py")}
    migrations = {path for path in carried if path.is_relative_to("att/db/migrations")}
    assert carried - migrations == ours
    assert {path.name for path in migrations} == {path.name for path in (ROOT / "alembic").rglob("*.py")}
    assert (unpacked / "att" / "py.typed").exists()


def test_it_carries_swagger_ui(unpacked):
    """With its licence, byte for byte."""
    ours = {path.name: path.read_bytes() for path in (ROOT / "att" / "swagger_ui").iterdir()}
    assert {path.name: path.read_bytes() for path in (unpacked / "att" / "swagger_ui").iterdir()} == ours
    assert {"LICENSE", "NOTICE", "swagger-ui-bundle.js.LICENSE.txt"} <= set(ours)


def test_it_migrates(unpacked, empty_db_url, empty_postgresql):
    script = "import att, sys; print(att.__file__); from att.db.migrate import *; "
    result = run(unpacked, script + "bring_up_to_date(sys.argv[1], migrate=True)", empty_db_url)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(str(unpacked))
    assert empty_postgresql.execute("SELECT count(*) FROM members").fetchone() == (0,)


def test_its_command_is_called_att_server(unpacked):
    [entry_points] = unpacked.glob("*.dist-info/entry_points.txt")
    assert "att-server = att.__main__:main" in entry_points.read_text()


def test_it_needs_an_aiohttp_without_known_faults(unpacked):
    """An older one reads requests in ways that were attacked, and that the tests of this one do not know."""
    [metadata] = unpacked.glob("*.dist-info/METADATA")
    assert "Requires-Dist: aiohttp<3.15,>=3.14.2\n" in metadata.read_text()
