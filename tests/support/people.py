"""Users of the application."""

from typing import Any
from uuid import UUID

from aiohttp import ClientResponse, ClientWebSocketResponse
from aiohttp.test_utils import TestClient

PASSWORD = "correct horse"


class Person:
    """A user signed in by bearer token, and their requests."""

    def __init__(self, client: TestClient, login: str, answer: dict[str, str]) -> None:
        self.client = client
        self.login = login
        self.id = UUID(answer["user_id"])
        self.token = answer["token"]
        self.headers = {"Authorization": f"Bearer {self.token}"}

    async def request(self, method: str, path: str, **options: Any) -> ClientResponse:
        """Send a request, signed in."""
        return await self.client.request(method, path, headers=self.headers | options.pop("headers", {}), **options)

    async def make_group(self, name: str) -> dict[str, Any]:
        """Create a group; return the server's response."""
        response = await self.request("POST", "/groups", json={"name": name})
        assert response.status == 201, await response.text()
        return await response.json()

    async def add(self, group: str, person: "Person") -> None:
        """Add a member."""
        response = await self.request("PUT", f"/groups/{group}/members/{person.id}")
        assert response.status == 201, await response.text()

    async def remove(self, group: str, person: "Person") -> None:
        """Remove a member."""
        response = await self.request("DELETE", f"/groups/{group}/members/{person.id}")
        assert response.status == 204, await response.text()

    async def broadcast(self, group: str, message: object) -> int:
        """Broadcast to a group; return the number of sockets."""
        response = await self.request("POST", f"/broadcast/{group}", json=message)
        assert response.status == 200, await response.text()
        return (await response.json())["delivered"]

    async def listen(self, **options: Any) -> ClientWebSocketResponse:
        """Open a socket."""
        headers = self.headers | options.pop("headers", {})
        return await self.client.ws_connect(f"/listen/{self.id}", headers=headers, **options)
