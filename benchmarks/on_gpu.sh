#!/usr/bin/env bash
# What a GPU has to tell, in at most eight minutes: is every map what it is on the CPU, and what does it cost?
#
#     bash benchmarks/on_gpu.sh [--cpu] [--minutes M] [--out FOLDER]
#
# Runs with the interpreter of the project's environment, else with $PYTHON or python3. The results go into FOLDER, else
# into $OUT, else into benchmarks/results, as on_gpu.json. What could not be run is printed, with the reason. Beside torch,
# torchvision and Lightning the project needs a few small packages: where they are missing and there is no index, bring
# their wheels along and name the folder in WHEELS.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${PYTHON:-}" ]; then
    if [ -x .venv/bin/python ]; then PYTHON=.venv/bin/python; else PYTHON=python3; fi
fi
if [ -n "${WHEELS:-}" ]; then
    packages="$(mktemp -d)"
    "$PYTHON" -m benchmarks.on_gpu --missing |
        xargs -r "$PYTHON" -m pip install --quiet --no-index --find-links "$WHEELS" --target "$packages"
    export PYTHONPATH="$packages${PYTHONPATH:+:$PYTHONPATH}"
fi
exec "$PYTHON" -m benchmarks.on_gpu "$@"
