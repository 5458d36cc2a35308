"""Descriptions of errors that the system raises."""

import socket

import pytest

from att.core.error_text import describe_error


def test_a_refused_connection():
    """An error of the system is described by its reason."""
    with socket.socket() as taken, pytest.raises(ConnectionRefusedError) as refused:
        taken.bind(("127.0.0.1", 0))
        socket.create_connection(taken.getsockname())
    assert describe_error(refused.value) == "connection refused"
