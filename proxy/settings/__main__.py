"""Prints the JSON Schema of the configuration file: `python -m proxy.settings > config/schema.json`."""

from __future__ import annotations

import json
import sys

from proxy.settings.file import Settings


def schema_text() -> str:
    """Return the schema as it is kept in `config/schema.json`."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | Settings.model_json_schema()
    return json.dumps(schema | {"title": "lesson-proxy configuration"}, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(schema_text())
