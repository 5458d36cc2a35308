"""Swagger UI in a real browser: it works from our files alone, and signs in."""

import json

import pytest
from browser import CHROMIUM, open_page
from people import PASSWORD

UNAUTHORIZED = "Failed to load resource: the server responded with a status of 401 (Unauthorized)"
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here; apt-get install chromium")


async def open_form(page, operation):
    """Open an operation, to be filled in and tried."""
    await page.click(f"#{operation} .opblock-summary-control")
    await page.click(f"#{operation} .try-out__btn")


async def send(page, operation):
    """Try it; the status that the page shows."""
    await page.click(f"#{operation} .execute")
    return await page.text(f"#{operation} .live-responses-table tbody .response-col_status")


async def test_try_it_out_signs_in(client, sign_up, tmp_path):
    """What is tried after POST /login is signed in.

    Nothing is fetched from elsewhere, and the browser complains of nothing: neither a script nor a style breaks the
    Content-Security-Policy.
    """
    await sign_up("ann")
    origin = str(client.make_url("/"))
    async with open_page(tmp_path) as page:
        await page.open(f"{origin}docs")
        login, groups = "operations-accounts-login", "operations-groups-user_groups"

        await open_form(page, groups)
        await page.type(f"#{groups} input", "me")
        assert (await send(page, groups))[:3] == "401"

        await open_form(page, login)
        await page.type(f"#{login} textarea", json.dumps({"login": "ann", "password": PASSWORD}))
        assert (await send(page, login))[:3] == "200"

        await page.click(f"#{groups} .btn-clear")
        assert (await send(page, groups))[:3] == "200"

        assert {url for url in page.requests if not url.startswith((origin, "data:"))} == set()
        assert page.complaints == [UNAUTHORIZED]
