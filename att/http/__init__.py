"""HTTP, apart from our API: connections, requests, responses, security."""
