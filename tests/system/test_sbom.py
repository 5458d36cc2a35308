"""The bill of materials: what an image installs, by name and version."""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_sbom(tmp_path):
    """``make sbom`` names each pinned package of an image with its version, and nothing else."""
    copied = tmp_path / "checkout"
    copied.mkdir()
    for name in ("Makefile", "requirements-serve.lock"):
        (copied / name).write_bytes((ROOT / name).read_bytes())
    programs = Path(sys.executable).parent
    make = ["make", "--directory", str(copied), "--assume-old", ".venv/.dev-installed", f"BIN={programs}", "sbom"]
    subprocess.run(make, check=True, capture_output=True)
    bill = json.loads((copied / "dist" / "att-server.cdx.json").read_text())
    found = {(part["name"], part["version"]) for part in bill["components"]}
    assert found == set(
        re.findall(r"^([a-z0-9._-]+)==([^\s;]+)", (copied / "requirements-serve.lock").read_text(), re.MULTILINE)
    )
