"""The server against its own document: schemathesis tries every operation, with good input and with bad."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from att.api.keys import DOCUMENT
from att.api.routes import ROUTES
from att.app import create_app

HERE = Path(__file__).parents[1] / "support"
TIMEOUT = 300  # seconds on a busy machine; it takes some twenty

# What is good and bad input does not depend on the role, so a user tries few requests, and not all limits of schemas.
FEWER = ["--phases", "examples,fuzzing", "--max-examples", "2"]

pytestmark = pytest.mark.timeout(TIMEOUT)


@pytest.mark.parametrize(("role", "options"), [("Admin", []), ("User", FEWER)])
async def test_it_is_as_documented(aiohttp_server, settings, tmp_path, role, options):
    """No operation answers what its document does not say, takes what it forbids, or is open when it says closed."""
    server = await aiohttp_server(create_app(settings))
    # From a file: at its own address it would leave itself out.
    document = tmp_path / "openapi.json"
    document.write_bytes(server.app[DOCUMENT])
    environment = {
        "SCHEMATHESIS_HOOKS": str(HERE / "schemathesis_hooks.py"),
        "ATT_TESTS_DB_URL": settings.db_url,
        "ATT_TESTS_ROLE": role,
        "HYPOTHESIS_STORAGE_DIRECTORY": str(HERE.parents[1] / ".hypothesis"),  # tables of Unicode, computed once
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", HERE / "schemathesis.toml", "--no-color", "run"),
        *(document, "--url", str(server.make_url("/")), "--checks", "all", "--continue-on-failure"),
        *options,
        *("--exclude-checks", "use_after_free"),  # the hooks restore what was deleted, before each request
        cwd=tmp_path,
        env=os.environ | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(TIMEOUT):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, output.decode()
    assert f"Tested: {len(ROUTES)}\n" in output.decode()
