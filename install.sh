#!/bin/sh
# Install what the lock files pin into the environment of the Python named (default: python). pip refuses files whose
# hashes are not in them. Called by the Makefile; by hand, in an active environment: sh install.sh
set -eu
cd "$(dirname "$0")"
python=${1:-python}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# Packages that exist as source alone are built in isolation, with the build tools that they name.
export PIP_USE_PEP517=1
pip() { "$python" -m pip --disable-pip-version-check "$@"; }
installed() { "$python" -c "from importlib.metadata import requires; print(requires('torch'))" 2>/dev/null; }

# Given hashes, pip prefers a file of the index to a wheel of the machine's own (find-links), so torch's is chosen without
# them and checked afterwards. A torch that is installed already, a CPU build say, stays.
if ! installed >/dev/null; then
    sed -n '/^torch==/,/[^\\]$/p' requirements.lock > "$folder/torch.lock"
    pip download --quiet --no-deps --dest "$folder" "$(sed -nE 's/^(torch==[^ ]+).*/\1/p' "$folder/torch.lock")"
    pip install --quiet --no-deps --no-index --find-links "$folder" --requirement "$folder/torch.lock"
fi
pip install --quiet --no-deps --requirement requirements.lock
if installed | grep -q nvidia; then
    pip install --quiet --no-deps --requirement requirements-cuda.lock
fi
