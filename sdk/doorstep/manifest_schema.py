"""The JSON Schema (2020-12) of a manifest, from the dataclasses: `python -m doorstep.manifest_schema FILE [--check]`.

Needs pydantic, a development tool; no device does.
"""

import argparse
import json
import sys
from pathlib import Path

from doorstep.manifest import Manifest


def schema() -> str:
    """Return the schema as text."""
    from pydantic import TypeAdapter

    plain = {"$schema": "https://json-schema.org/draft/2020-12/schema", **TypeAdapter(Manifest).json_schema()}
    return json.dumps(plain, indent=2, sort_keys=True) + "\n"


def main() -> int:
    """Write the schema, or compare it with the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    if not arguments.check:
        arguments.file.write_text(schema(), encoding="utf-8")
        return 0
    if arguments.file.is_file() and arguments.file.read_text(encoding="utf-8") == schema():
        return 0
    sys.stderr.write(f"{arguments.file} is not what the code says; run: make schema\n")
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
