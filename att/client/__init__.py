"""The Python client: log in, broadcast, and listen with automatic reconnection and resume."""

from att.client.client import Ack, Backoff, Client, Event, Gap, Joined, Left, Message, Profile, Rewind

__all__ = ["Ack", "Backoff", "Client", "Event", "Gap", "Joined", "Left", "Message", "Profile", "Rewind"]
