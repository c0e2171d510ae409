#!/bin/sh
# Write the lock files from requirements*.txt: exact versions, for Linux and macOS and every Python from 3.11 on, with the
# hashes of all files that the package index has of them. `sh lock.sh` keeps the versions of the present lock files where
# they still fit, `sh lock.sh --upgrade` (`make lock`) takes the newest.
#
#   requirements.lock       what Sightread needs, complete but for the next file
#   requirements-cuda.lock  what torch's CUDA build needs and its CPU build does not
#   requirements-dev.lock   what the checks need on top
#   requirements-ray.lock   what reading on several machines needs on top of the first
#   requirements-serve.lock what `python -m stages.serve` needs on top of requirements.lock
#   requirements-spacy.lock what the spaCy component needs on top of it
#   requirements-datasets.lock  what data sets in Parquet need on top of it
#   requirements-search.lock   what `python -m reporting.search` needs on top of it
#   requirements-onnx.lock  what `python -m ner.light` needs, complete
set -eu
cd "$(dirname "$0")"
command -v uv >/dev/null || { echo "error: uv is not installed; run: pip install uv" >&2; exit 2; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# Without configuration: a machine's own wheels and mirrors do not belong in the lock files.
compile() {
    uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
        --no-emit-package pip "$@" >/dev/null
}
names() { sed -nE 's/^([A-Za-z0-9._-]+)==.*/\1/p' "$1" | sort -u; }
# select 1|0 NAMES FILE: the entries of FILE, each with its hashes, whose names are, or are not, in NAMES.
select_entries() {
    awk -v listed="$1" 'NR == FNR { given[$0]; next }
        /^[A-Za-z0-9]/ { split($0, parts, "=="); shown = ((parts[1] in given) == listed) }
        shown' "$2" "$3"
}
write() {
    { echo "# Exact versions and hashes, made by \`make lock\`. Complete: pip install --no-deps -r $1"; cat; } > "$1"
}

# The present versions, to keep; hashes are asked for again.
cat requirements*.lock 2>/dev/null | sed -E '/^[ #]/d; s/ *\\$//' > "$folder/all"
compile "$@" --output-file "$folder/all" requirements.txt requirements-dev.txt requirements-ray.txt \
    requirements-serve.txt requirements-spacy.txt requirements-datasets.txt requirements-search.txt \
    requirements-onnx.txt
cp "$folder/all" "$folder/core"
compile --output-file "$folder/core" requirements.txt
names "$folder/core" > "$folder/core-names"
grep -E '^(nvidia-|cuda-|triton$)' "$folder/core-names" | grep -vx nvidia-ml-py > "$folder/cuda-names"

# CPU builds of torch, which the index does not list, are as good as its own.
hashes=$(sed -nE 's/^sha256:([0-9a-f]{64}) .*/    --hash=sha256:\1 \\/p' requirements-torch.hashes)
select_entries 0 "$folder/cuda-names" "$folder/core" |
    awk -v hashes="$hashes" '{ print } /^torch==/ { print hashes }' | write requirements.lock
select_entries 1 "$folder/cuda-names" "$folder/core" | write requirements-cuda.lock
# What an extra and the checks both need is in both files.
for extra in dev ray serve spacy datasets search; do
    cp "$folder/all" "$folder/$extra"
    compile --output-file "$folder/$extra" requirements.txt "requirements-$extra.txt"
    select_entries 0 "$folder/core-names" "$folder/$extra" | write "requirements-$extra.lock"
done
cp "$folder/all" "$folder/onnx"
compile --output-file "$folder/onnx" requirements-onnx.txt
write requirements-onnx.lock < "$folder/onnx"
