"""The OpenAPI document of the route table."""
