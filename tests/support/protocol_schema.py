"""The JSON Schema of att.v1."""

import json
from pathlib import Path

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "att.v1.schema.json").read_text(encoding="utf-8"))
