"""The conversations in docs/: pasted into a shell from top to bottom, each block prints what stands below it."""

import dataclasses
import shutil
from pathlib import Path

import pytest
from conversation import Step, blurred, play, section, steps

from att.app import create_app

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
LEAST = {"tutorial/api.md": 7, "reference/realtime.md": 3}  # blocks of commands, at least
NEEDS_CURL = pytest.mark.skipif(shutil.which("curl") is None, reason="the documentation needs curl, which is not here")


@NEEDS_CURL
@pytest.mark.parametrize("name", PAGES)
async def test_the_conversations(settings, aiohttp_client, name):
    """Every block of commands, on one server, prints the answer below it."""
    settings = dataclasses.replace(settings, admin_login="admin", admin_password="horse battery")
    client = await aiohttp_client(create_app(settings))
    page = (DOCS / name).read_text()
    async for _ in play(page, client.port):
        pass
    assert len(list(steps(page))) >= LEAST.get(name, 0)


# The runner, tried

PAGE = """# A page

```sh
echo one > /dev/null
```

Nothing is said to that. This is no answer, for words stand between:

```json
{"never": "printed"}
```

## Second

```sh
NAME=tea
```

```sh
echo "{\\"name\\": \\"$NAME\\"}"
```
```json
{"name": "tea"}
```

```python
print("no commands")
```

## Third

```sh
curl -sS 127.0.0.1:8000/groups
```

```http
HTTP/1.1 200 OK
```
"""


def test_steps():
    """Commands have the answer that stands right below them, and no other; what is no command is passed over."""
    assert list(steps(PAGE)) == [
        Step("echo one > /dev/null\n", None),
        Step("NAME=tea\n", None),
        Step('echo "{\\"name\\": \\"$NAME\\"}"\n', '{"name": "tea"}'),
        Step("curl -sS 127.0.0.1:8000/groups\n", "HTTP/1.1 200 OK"),
    ]
    assert list(steps(section(PAGE, "Second"))) == list(steps(PAGE))[1:3]
    assert list(steps(section(PAGE, "Fourth"))) == []


async def test_play():
    """What is set in one block is known in the next, and an answer that differs is told."""
    assert [printed async for printed in play(section(PAGE, "Second"), 8000)] == ["", '{"name": "tea"}']
    with pytest.raises(AssertionError, match="echo"):
        async for _ in play(section(PAGE.replace("NAME=tea", "NAME=coffee"), "Second"), 8000):
            pass


@NEEDS_CURL
async def test_play_talks_to_the_server(client):
    """Where the page has the usual address it is the test's server that answers."""
    page = """
```sh
curl -sS -o /dev/null -w '%{http_code} http://127.0.0.1:8000' http://127.0.0.1:8000/groups
```

```http
401 http://127.0.0.1:8000
```
"""
    assert [printed async for printed in play(page, client.port)] == [f"401 http://127.0.0.1:{client.port}"]


@pytest.mark.parametrize(
    "text",
    [
        "0f2a7c1e-5b3d-4c8f-9a6e-1d2b3c4d5e6f",
        "2026-11-22T02:35:09.154152Z",
        "2026-11-22T02:35:09+00:00",
        "Sun, 22 Nov 2026 02:35:09 GMT",
        "0f2a7c1e5b3d4c8f9a6e1d2b3c4d5e6f",
        "YAH2-mC6qyckyeA2FyvciPsNy8pWhy3UwpvF_EIJzVo",
        "WyJncm91cHMiLCIyMDI2LTExLTIyVDAyOjM1OjA5KzAwOjAwIiwiMGYyYTdjMWUtNWIzZC00YzhmLTlhNmUtMWQyYjNjNGQ1ZTZmIl0",
    ],
)
def test_blurred(text):
    """Whatever differs from one conversation to the next is one star; what stands around it stays."""
    assert blurred(f'{{"a": "{text}", "b": 401}}') == '{"a": "*", "b": 401}'
