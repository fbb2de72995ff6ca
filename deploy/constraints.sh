#!/bin/sh
# Writes constraints.txt: the newest versions that pyproject.toml allows, extras included, as pip
# resolves them on the oldest Python that is supported. Nothing is installed or compiled.
# Read the difference, then `make lint test`; the next setup of every checkout installs it.
set -eu

cd -- "$(dirname -- "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"${PYTHON:-python3.11}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --dry-run --ignore-installed \
    --report "$work/report.json" -e '.[dev,hf,otel]'
"$work/venv/bin/python" - "$work/report.json" >"$work/constraints.txt" <<'PYTHON'
import json
import sys

print("# Every version of an installation. Made by `make constraints`; not edited by hand.")
with open(sys.argv[1]) as report:
    found = [item["metadata"] for item in json.load(report)["install"]]
pins = {item["name"].lower().replace("_", "-"): item["version"] for item in found}
del pins["rayhost"]
for name in sorted(pins):
    print(f"{name}=={pins[name]}")
PYTHON
mv "$work/constraints.txt" constraints.txt
