#!/bin/sh
# Write requirements.lock and requirements-dev.lock from what a clean environment installs. Called by `make lock`.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/env"
pins() { "$folder/env/bin/python" -m pip freeze | sed -E 's/\+cpu$//' | grep -vE '^(nvidia-|triton==|cuda-)' | sort -f; }
header='# Exact versions, made by `make lock`. On a machine with a GPU, torch brings its own CUDA packages with it.'
"$folder/env/bin/python" -m pip install --quiet -r requirements.txt
{ echo "$header"; pins; } > requirements.lock
pins > "$folder/core"
"$folder/env/bin/python" -m pip install --quiet -r requirements-dev.txt
{ echo "$header"; pins | grep -vxF -f "$folder/core"; } > requirements-dev.lock
