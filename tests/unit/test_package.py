"""The distribution: its name in every text, and what its locks pin."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
OLD_NAME = re.compile(r"""pip install (?:-\S+ )*['"]?att(?![\w/.-])""")


def test_old_name():
    """The test below finds the old name, and takes the new one and paths for what they are."""
    assert all(map(OLD_NAME.search, ("pip install att", "run pip install 'att[redis]' or", "pip install -U att==0.1")))
    assert not any(
        map(OLD_NAME.search, ("pip install 'att-server[redis]'", "pip install ./att", "pip install x/att/y"))
    )


def test_every_text_names_the_distribution():
    """`att` on the package index is another program: nobody is told to install it."""
    texts = [path for place in ("att", "deploy", "docs") for path in (ROOT / place).rglob("*") if path.is_file()]
    texts += [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "Dockerfile", "Makefile", "setup.py")]
    assert [path for path in texts if OLD_NAME.search(path.read_text(encoding="utf-8", errors="replace"))] == []


def test_the_locks_pin_everything_with_hashes():
    """What make installs from, for the benchmarks too, names one version of each, and what it must hash to."""
    pins = set()
    for name in ("requirements.lock", "requirements-bench.lock"):
        lock = (ROOT / name).read_text()
        found = re.findall(r"^([a-z0-9-]+)==[^ ]+.* \\$", lock, re.MULTILINE)
        assert len(found) > 20
        assert lock.count("--hash=sha256:") >= len(found)
        pins |= set(found)
    declared = re.findall(r'"([A-Za-z0-9-]+)(?:\[binary\])?>=', (ROOT / "setup.py").read_text())
    assert {name.lower() for name in declared} <= pins
