"""Plans of statements."""


def nodes(plan):
    """All nodes of a plan."""
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def rows_read(node):
    """How many rows a node has read from a table."""
    if "Relation Name" not in node:
        return 0
    removed = sum(count for name, count in node.items() if name.startswith("Rows Removed by"))
    return (node["Actual Rows"] + removed) * node["Actual Loops"]
