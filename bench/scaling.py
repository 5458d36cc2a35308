"""Number of nodes for an installation, from ten thousand users to a hundred million, and what is full first.

It measures nothing: it computes with the figures of the other questions, and with assumptions about people and
machines. All of them are printed.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from harness import Figure
from model import CROWDS, HIGHEST, Model, Workload, assumptions
from report import RESULTS, Report

USERS = (10_000, 100_000, 1_000_000, 10_000_000, 100_000_000)
NODES = (1, 2, 5, 10, 20, 50, 100)
DOCUMENT = Path(__file__).parents[1] / "docs" / "explanation" / "scaling.md"
MODELS = {"chat": Model(), "crowds": Model(workload=CROWDS)}


def words(number: float) -> str:
    """Format a number with two significant digits: 0.042, 1.6, 25, 1,600, 25 million."""
    if number >= 999_500:
        return f"{words(number / 1e6)} million"
    return f"{float(f'{number:.2g}'):,g}" if number else "0"


def by_users(model: Model) -> list[list[str]]:
    """Return a row for each number of users; ``reached`` is the nodes with a listener of a message."""
    rows = [["users", "messages/s", "deliveries/s", "nodes", "by CPU", "by memory", "reached", "fullest"]]
    for users in USERS:
        of = model.of_users(users)
        load, fullness = of.load(of.nodes()), of.fullness()
        fullest = max(fullness, key=lambda name: fullness[name])
        counts = (of.nodes(), of.nodes_for(of.by_cpu), of.nodes_for(of.by_memory))
        figures = (users, load.messages, load.deliveries, *counts, load.reached)
        rows.append([*map(words, figures), f"{fullest}, {fullness[fullest]:.0%}"])
    return rows


def by_nodes(model: Model) -> list[list[str]]:
    """Return a row for each number of nodes."""
    rows = [["nodes", "users", "sockets", "deliveries/s", "reached", "Redis's core", "PostgreSQL's cores"]]
    for nodes in NODES:
        users = model.users_of(nodes)
        load = model.of_users(users).load(nodes)
        figures = (nodes, users, load.sockets, load.deliveries, load.reached)
        rows.append([*map(words, figures), f"{load.redis_cores:.0%}", f"{load.db_cores:.1f}"])
    return rows


def by_limit(model: Model) -> list[list[str]]:
    """Return a row for each resource, the first full one first."""
    rows = [["what is full", "with so many users"]]
    return rows + [[name, _until(users)] for name, users in model.limits().items()]


def _until(users: float) -> str:
    return "never" if users >= HIGHEST else words(users)


def shares(model: Model) -> list[list[str]]:
    """Return the shares of the CPU of nodes and of PostgreSQL, at a million users."""
    of = model.of_users(1e6)
    whole = of.load(of.nodes())
    rows = [["at a million users", "of the nodes' CPU", "of PostgreSQL's"]]
    for name, fields in PARTS.items():
        spared = of._replace(costs=replace(of.costs, **dict.fromkeys(fields, 0.0))).load(of.nodes())
        rows.append([name, f"{1 - spared.cores / whole.cores:.0%}", f"{1 - spared.db_cores / whole.db_cores:.0%}"])
    return rows


PARTS = {
    "deliveries": ["delivery"],
    "appending, and announcing to other nodes": ["append", "publish", "receive", "db_append"],
    "connecting and resuming": ["connect", "connect_group", "resume", "db_connect", "db_resume"],
    "looking for what was not announced": [
        *("sweep", "joinings", "session", "db_sweep", "db_joinings", "db_session", "db_recent"),
    ],
}
TABLES = {"by users": by_users, "by nodes": by_nodes, "limits": by_limit, "shares": shares}


def markdown(rows: list[list[str]]) -> str:
    """Format a table, as in docs/explanation/scaling.md."""
    head, *rest = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, f"|{'---|' * len(rows[0])}", *rest])


def inputs() -> str:
    """Format all inputs as a table."""
    rows = [["input", "value", "from"], *([name, value, source] for _, name, value, source in assumptions(Model()))]
    chat, crowds = Workload(), CROWDS
    for name in ("groups", "tail", "largest", "messages", "posting"):
        for row in rows:
            if row[0] == name:
                row[1] = row[1].replace(" ", f" (crowds: {getattr(crowds, name):,.10g}) ", 1)
                assert getattr(chat, name) != getattr(crowds, name)
    return markdown(rows)


def rewrite(document: str) -> str:
    """Return the document with new tables, each between a comment with its name and one that ends it."""
    for name, model in MODELS.items():
        for title, table in TABLES.items():
            document = _put(document, f"{name}, {title}", lambda table=table, model=model: markdown(table(model)))
    return _put(document, "inputs", inputs)


def _put(document: str, title: str, make: Callable[[], str]) -> str:
    begin = f"<!-- {title} -->\n"
    if begin not in document:
        return document
    head, _, rest = document.partition(begin)
    return f"{head}{begin}{make()}\n<!-- end -->{rest.partition('<!-- end -->')[2]}"


def plot() -> None:
    """Plot nodes, and how full everything is, by users."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    users = [10 ** (power / 4) for power in range(16, 33)]
    figure, axes = plt.subplots(1, 2, figsize=(12, 5))
    for name, model in MODELS.items():
        found = [model.of_users(count) for count in users]
        axes[0].loglog(users, [of.nodes_for(of.by_cpu) for of in found], label=f"{name}, by CPU")
        axes[0].loglog(users, [of.nodes_for(of.by_memory) for of in found], "--", label=f"{name}, by memory")
    full = [MODELS["chat"].of_users(count).fullness() for count in users]
    for name in full[0]:
        axes[1].loglog(users, [one[name] for one in full], label=name)
    axes[1].axhline(1, color="grey", linewidth=0.8)
    axes[0].set(xlabel="users", ylabel="nodes")
    axes[1].set(xlabel="users", ylabel="how full, chat; 1 is full", ylim=(1e-4, 10))
    for axis in axes:
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(RESULTS / "scaling.png", dpi=120)


def main() -> None:
    """Write rows and plot, and the tables of the document."""
    report = Report("scaling")
    for name, model in MODELS.items():
        for title, table in TABLES.items():
            print(f"\n{name}, {title}\n\n{markdown(table(model))}", file=sys.stderr)
        for users in USERS:
            of = model.of_users(users)
            figures = {"nodes": float(of.nodes()), **{f"full: {what}": full for what, full in of.fullness().items()}}
            for what, value in figures.items():
                report.add(f"{name}, {users:,} users", what, "", Figure(value, value, value))
    print(f"\n{inputs()}", file=sys.stderr)
    report.save()
    DOCUMENT.write_text(rewrite(DOCUMENT.read_text()))
    plot()


if __name__ == "__main__":
    main()
