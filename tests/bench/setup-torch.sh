#!/bin/sh
# Makes a Python environment with PyTorch for the bench and the fixtures; ptc itself never needs it.
#
#   setup-torch.sh DIR [WHEEL]
#
# First PyTorch from the Python index (or the given wheel file), else Debian's python3-torch. The index's
# wheel is a CUDA build; on a machine with a CUDA toolkit only the libraries that the toolkit lacks are
# installed, otherwise all of them (several GB). On exit DIR/bin/torch-python runs Python with the library
# path that this PyTorch needs; the last line printed says which PyTorch it is.
set -eu

DIR=${1:?usage: setup-torch.sh DIR [WHEEL]}
TORCH=${2:-torch}
CUDA_LIB=${CUDA_HOME:-/usr/local/cuda}/lib64
DEBIAN_BLAS=/usr/lib/$(uname -m)-linux-gnu/openblas-openmp # the default, -pthread, is 3 times slower under PyTorch

SMOKE='import torch; x = torch.ones(8, 8); assert (x @ x).sum().item() == 512'
REPORT='import torch; print("PyTorch", torch.__version__, "threads", torch.get_num_threads())'

# wrapper PYTHON LIBRARY_PATH: writes DIR/bin/torch-python
wrapper()
{
    mkdir -p "$DIR/bin"
    {
        echo '#!/bin/sh'
        [ -z "$2" ] || echo "LD_LIBRARY_PATH=$2\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH} export LD_LIBRARY_PATH"
        echo "exec $1 \"\$@\""
    } >"$DIR/bin/torch-python"
    chmod +x "$DIR/bin/torch-python"
}

works()
{
    "$DIR/bin/torch-python" -c "$SMOKE" 2>"$DIR/import-error.txt"
}

from_index()
{
    PYTHON=${PYTHON:-python3}
    "$PYTHON" -m venv "$DIR" || return 1
    pip="$DIR/bin/pip --disable-pip-version-check -q"
    $pip install --no-deps "$TORCH" || return 1
    $pip install --no-warn-conflicts numpy typing_extensions sympy networkx jinja2 filelock fsspec setuptools || return 1
    DIR=$(cd "$DIR" && pwd)

    wrapper "$DIR/bin/python" ""
    works && return 0

    # A CUDA build: its own pinned versions of what toolkits do not have or have too old.
    pinned=$("$DIR/bin/python" -c '
import importlib.metadata as m, re
for r in m.requires("torch") or []:
    hit = re.match(r"(nvidia-(nccl|cusparselt|nvshmem)-\w+==[\w.]+)", r)
    if hit: print(hit.group(1))') || return 1
    # shellcheck disable=SC2086
    $pip install --no-deps $pinned nvidia-cufile || return 1
    wrapper "$DIR/bin/python" "$CUDA_LIB"
    works && return 0

    $pip install "$TORCH" || return 1
    wrapper "$DIR/bin/python" ""
    works
}

from_debian()
{
    rm -rf "$DIR" && mkdir -p "$DIR" || return 1
    DIR=$(cd "$DIR" && pwd)
    if ! /usr/bin/python3 -c 'import torch' 2>/dev/null; then
        echo "installing Debian's python3-torch" >&2
        apt-get install -y -q --no-install-recommends python3-torch python3-numpy libopenblas0-openmp >&2 || return 1
    fi
    wrapper /usr/bin/python3 "$DEBIAN_BLAS"
    works
}

if [ "${TORCH_FROM:-index}" = index ] && from_index; then
    echo "source: Python index"
elif from_debian; then
    echo "source: Debian python3-torch"
else
    echo "no PyTorch: see $DIR/import-error.txt" >&2
    exit 1
fi
rm -f "$DIR/import-error.txt"
"$DIR/bin/torch-python" -c "$REPORT"
