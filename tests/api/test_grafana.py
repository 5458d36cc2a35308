"""The dashboard: well formed, and of figures that there are."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from att.app import create_app
from att.config.settings import ListenAddress

DASHBOARD = json.loads((Path(__file__).parents[2] / "deploy" / "grafana.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]
NAME = re.compile(r"\b(?:att|process|python)_\w+\b")
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",), "info": ("_info",)}


def names_of(family):
    """The names of the samples of a family, be there any or not."""
    return {f"{family.name}{suffix}" for suffix in SUFFIXES[family.type]}


@pytest.fixture
async def families(settings, aiohttp_client, tmp_path):
    """What a server really exposes."""
    path = tmp_path / "ops"
    await aiohttp_client(create_app(replace(settings, admin_listen=ListenAddress(None, 0, str(path)))))
    connector = aiohttp.UnixConnector(str(path))
    async with aiohttp.ClientSession(connector=connector) as session, session.get("http://att/metrics") as response:
        return list(text_string_to_metric_families(await response.text()))


async def test_each_figure_is_shown_and_each_shown_one_is_there(families):
    """No panel is empty for want of a figure, and none of ours is shown nowhere."""
    shown = {name for expression in EXPRESSIONS for name in NAME.findall(expression)}
    there = {name for family in families for name in names_of(family)}
    missing = {name for name in shown - there if sys.platform == "linux" or not name.startswith("process_")}
    assert missing == set()  # elsewhere the library does not tell of the process
    ours = [family for family in families if family.name.startswith("att_")]
    assert [family.name for family in ours if not names_of(family) & shown] == []
    assert len(shown) > 25


def test_the_labels_that_are_asked_for_are_there():
    """Of those by which figures are told apart."""
    known = {
        "instance",
        "le",
        "route",
        "method",
        "status",
        "dialect",
        "code",
        "bus",
        "kind",
        "quota",
        "version",
        "python",
    }
    for expression in EXPRESSIONS:
        asked = re.findall(r"(\w+)=~?\"", expression)
        asked += [name for group in re.findall(r"by \(([^)]*)\)", expression) for name in re.split(r",\s*", group)]
        assert set(asked) <= known, expression
    legends = [target["legendFormat"] for panel in PANELS for target in panel["targets"]]
    assert {name for legend in legends for name in re.findall(r"{{(\w+)}}", legend)} <= known


def test_each_expression_is_balanced():
    for expression in EXPRESSIONS:
        for opening, closing in ("()", "{}", "[]"):
            assert expression.count(opening) == expression.count(closing), expression
        assert 'instance=~"$instance"' in expression


def test_it_asks_the_chosen_source():
    """There is a variable for it, and nothing names another."""
    [source, _] = variables = DASHBOARD["templating"]["list"]
    assert (source["type"], source["query"]) == ("datasource", "prometheus")
    wanted = {"type": "prometheus", "uid": f"${{{source['name']}}}"}
    asking = [*PANELS, *(target for panel in PANELS for target in panel["targets"]), *variables[1:]]
    assert all(one["datasource"] == wanted for one in asking)


def test_panels_do_not_overlap():
    """Each has an id and a place of its own, within the 24 columns, and says what it shows."""
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    cells = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not own & cells, panel["title"]
        assert max(x for x, _ in own) < 24
        cells |= own
    assert all(panel["description"].endswith(".") and panel["title"] for panel in PANELS)


def test_it_can_be_imported():
    """What Grafana wants of a dashboard."""
    assert DASHBOARD["schemaVersion"] >= 36
    assert DASHBOARD["title"]
    assert DASHBOARD["uid"]
    assert "id" not in DASHBOARD  # that is another installation's
