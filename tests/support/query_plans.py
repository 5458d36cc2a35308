"""Plans of statements."""


def nodes(plan):
    """Yield all nodes of a plan."""
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def rows_read(node):
    """Return the number of rows that a node has read from a table."""
    if "Relation Name" not in node:
        return 0
    removed = sum(count for name, count in node.items() if name.startswith("Rows Removed by"))
    return (node["Actual Rows"] + removed) * node["Actual Loops"]
