"""The JavaScript client: its own tests on Node.js, against a scripted server and a real one; its types; its size."""

import gzip
import importlib.util

import pytest
from node import CLIENT, NODE, npm_program, run_node
from scripted_control import ControlledScript

NEEDS_NODE = pytest.mark.skipif(NODE is None, reason="there is no Node.js here; make test installs it")
NEEDS_NPM = pytest.mark.skipif(
    NODE is None or npm_program("tsc") is None, reason="npm has not installed clients/js; make test does it"
)
RUN = ("--test", "--test-timeout=20000", "--test-reporter=dot")
SIZE = 12 * 1024  # bytes that a page may have to load


@NEEDS_NODE
async def test_against_a_scripted_server(aiohttp_server):
    """What a real server cannot be made to do: losses, refusals, epochs, silence, order of answers."""
    server = await aiohttp_server(ControlledScript().app)
    await run_node(*RUN, "tests/scripted.test.js", ATT_SCRIPT_URL=f"http://127.0.0.1:{server.port}")


@NEEDS_NODE
async def test_against_a_real_server(client, monkeypatch):
    """Every public method is tried, with the types that it is declared to have."""
    monkeypatch.setattr("att.realtime.presence._TICK", 0.05)  # so that nobody waits for a second
    monkeypatch.setattr("att.realtime.presence_feed._INTERVAL", 0.05)
    await run_node(*RUN, "tests/live.test.ts", ATT_URL=f"http://127.0.0.1:{client.port}")


@NEEDS_NPM
async def test_types():
    """The declarations fit a program that uses everything."""
    await run_node(npm_program("tsc"))


def test_shapes_are_up_to_date():
    """The types of requests, responses and frames are those that clients/js/make_types.py writes now."""
    spec = importlib.util.spec_from_file_location("make_types", CLIENT / "make_types.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.TARGET.read_text(encoding="utf-8") == module.make_types()


@NEEDS_NPM
async def test_size():
    """Minified and compressed, the module is small."""
    minified = await run_node(npm_program("esbuild"), "src/att.js", "--minify", "--format=esm")
    assert len(gzip.compress(minified.encode(), 9)) <= SIZE
