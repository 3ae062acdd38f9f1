#!/bin/sh
# All that is to be measured on a GPU: correctness, speed, then the studies that are missing. Kept as it comes; called
# again it goes on. VAECF_DATA names the folder of the data sets.
#     VAECF_DATA=~/data benchmarks/gpu.sh              forty minutes at most
#     benchmarks/gpu.sh --minutes 120                  or any other time
#     benchmarks/gpu.sh --rehearse --out /tmp/gpu      the same on a CPU with tiny data, to see that it runs
cd "$(dirname "$0")/.." || exit 1
PYTHON=${PYTHON:-.venv/bin/python}
[ -x "$PYTHON" ] || PYTHON=python3
PYTHONPATH=. exec "$PYTHON" -u benchmarks/gpu.py "$@"
