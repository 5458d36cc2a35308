"""Monitoring from outside: the health check of the image, and the alert rules."""

import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from site_parts import DEPLOY, ROOT, Node, open_directory, started

from chaos.cluster import free_port

SUFFIXES = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "info": ["_info"]}
NAME = re.compile(r"\b(?:att|process)_[a-z_]+\b")
RULES = [rule for group in yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"] for rule in group["rules"]]


@pytest.fixture
def server(db_url) -> Iterator[tuple[Node, int]]:
    """A server, and the port of its health and metrics."""
    port = free_port()
    with open_directory() as directory:
        node = Node(directory / "log", db_url, "--admin-listen", f"127.0.0.1:{port}")
        with started(node):
            yield node, port


def check(port):
    """Run the image's health check; return its exit status, 0 for healthy."""
    [text] = re.findall(r"HEALTHCHECK .*\\\n\s*CMD (\[.*\])", (ROOT / "Dockerfile").read_text())
    words = [word.replace("127.0.0.1:9100", f"127.0.0.1:{port}") for word in json.loads(text)]
    assert words[0] == "python"
    return subprocess.run([sys.executable, *words[1:]], check=False, capture_output=True).returncode


def test_health_check(server):
    """The image is healthy when the server is ready, and not when it is gone."""
    node, port = server
    assert check(port) == 0
    node.kill()
    assert check(port)


def test_health_check_uses_the_admin_address_of_the_image():
    assert "ATT_ADMIN_LISTEN=127.0.0.1:9100" in (ROOT / "Dockerfile").read_text()


def metrics(port):
    """Return the names of the metrics of a server, as queries write them."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        families = [*text_string_to_metric_families(answer.read().decode())]
    return {family.name + suffix for family in families for suffix in SUFFIXES.get(family.type, [""])}


def test_alerts_have_metrics(server):
    """Every metric in a rule is one that a server has."""
    wanted = {name for rule in RULES for name in NAME.findall(rule["expr"])}
    assert len(wanted) > 10
    assert wanted <= metrics(server[1])


def test_alerts_are_explained():
    """Every alert is in the table of docs/how-to/operations.md that says what it means and what to do, and no other."""
    table = re.findall(r"^\| `(Att\w+)` \|", (ROOT / "docs" / "how-to" / "operations.md").read_text(), re.MULTILINE)
    assert table == [rule["alert"] for rule in RULES]
    assert all(rule["for"] for rule in RULES)
