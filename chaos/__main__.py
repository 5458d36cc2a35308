"""`make chaos`: run ten seeds, or the given ones. The exit status is 1 if a promise was broken."""

import argparse
import asyncio
import logging
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import uvloop

from chaos.evidence import Evidence
from chaos.plan import SHORT, STANDARD, Size, make_plan, with_redis
from chaos.trial import Trial
from chaos.verdict import Rule, Violation, judge

SHOWN = 20  # violations of one seed that are printed


class Result(NamedTuple):
    """The result of a seed."""

    seed: int
    evidence: Evidence
    violations: list[Violation]
    connections: int
    times_too_slow: int
    seconds: float


def run(seed: int, size: Size, root: Path) -> Result:
    """Run a seed, and judge it."""
    start = time.monotonic()
    trial = Trial(make_plan(seed, size), root)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        evidence = runner.run(trial.run())
    violations = judge(evidence)
    if evidence.deliveries < size.deliveries:
        violations.append(Violation(Rule.FAULT, f"only {evidence.deliveries:,} deliveries show little"))
    return Result(seed, evidence, violations, trial.connections, trial.times_too_slow, time.monotonic() - start)


COLUMNS = (
    *("seed", "seconds", "in log", "sent", "acked", "redacted"),
    *("sockets", "too slow", "received", "ephemerals", *Rule),
)


def cells(result: Result) -> list[str]:
    """Return a row of the table."""
    evidence = result.evidence
    counts = Counter(violation.rule for violation in result.violations)
    figures = (
        sum(map(len, evidence.stored.logs.values())),
        len(evidence.sendings),
        sum(bool(sending.acks) for sending in evidence.sendings),
        len(evidence.redactions),
        result.connections,
        result.times_too_slow,
        evidence.deliveries,
        evidence.heard,
        *(counts[rule] for rule in Rule),
    )
    return [str(result.seed), f"{result.seconds:.0f}", *(f"{figure:,}" for figure in figures)]


def table(rows: Sequence[Sequence[str]]) -> str:
    """Format the rows as a table."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def main() -> int:
    """Run the seeds of the command line."""
    parser = argparse.ArgumentParser(prog="make chaos", description=sys.modules["__main__"].__doc__)
    parser.add_argument("--seed", type=int, action="append", help="a seed; may be given more than once")
    parser.add_argument("--seeds", type=int, default=10, help="how many, from 1, when none is given (default: 10)")
    parser.add_argument("--short", action="store_true", help="as in make test: fewer clients, for some seconds")
    parser.add_argument("--redis", action="store_true", help="with the servers on a Valkey, which is killed, too")
    options = parser.parse_args()
    size = SHORT if options.short else STANDARD
    size = with_redis(size) if options.redis else size
    logging.getLogger("psycopg").setLevel(logging.ERROR)  # it warns of each connection that we kill
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # so that it leaves no process behind
    results = []
    for seed in options.seed or range(1, options.seeds + 1):
        root = Path(tempfile.mkdtemp(prefix=f"att-chaos-{seed}-"))
        result = run(seed, size, root)
        results.append(result)
        outcome = "ok" if not result.violations else f"{len(result.violations)} violations, logs are kept in {root}"
        print(
            f"seed {seed}: {result.evidence.deliveries:,} deliveries in {result.seconds:.0f} s: {outcome}", flush=True
        )
        for violation in result.violations[:SHOWN]:
            print(f"  {violation.rule}: {violation.detail}")
        if not result.violations:
            shutil.rmtree(root)
    print(table([COLUMNS, *map(cells, results)]))
    return int(any(result.violations for result in results))


if __name__ == "__main__":
    sys.exit(main())
