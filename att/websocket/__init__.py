"""WebSockets: the upgrade, frames, connections and subprotocols."""
