#!/usr/bin/env bash
# Make .venv: a virtual environment with the pinned requirements, and GPAW built in it. Run again, it does
# nothing; a half-made environment is taken up where it was left.
set -euo pipefail
cd "$(dirname "$0")"
python=${PYTHON:-python3}
ready=.venv/.ready
wanted=$(cat requirements.lock pyproject.toml setup-environment.sh | cksum)
if [ -f "$ready" ] && [ "$(cat "$ready")" = "$wanted" ]; then exit 0; fi

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "hullforge needs Python 3.11 or newer; name one: make PYTHON=python3.12 demo" >&2; exit 1; }

# What GPAW and the virtual environment need from the system: a compiler, libxc, a BLAS, and venv itself.
packages="g++ libxc-dev libopenblas-dev python3-venv"
have_system() {
    command -v g++ >/dev/null && echo '#include <xc.h>' | g++ -E -x c++ - >/dev/null 2>&1 \
        && echo 'int main(){}' | g++ -x c++ - -lxc -lopenblas -o /dev/null 2>/dev/null && "$python" -m ensurepip --version >/dev/null 2>&1
}
if ! have_system; then
    install="apt-get update && apt-get install -y $packages"
    if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
        echo "== installing system packages: $packages"
        (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $packages) >/dev/null
    elif command -v apt-get >/dev/null && sudo -n true 2>/dev/null; then
        echo "== installing system packages: $packages"
        (sudo apt-get update -qq && sudo DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $packages) >/dev/null
    else
        echo "hullforge needs system packages to build GPAW. Run this, then make again:" >&2
        echo "    sudo sh -c '$install'" >&2
        exit 1
    fi
fi

[ -x .venv/bin/python ] || "$python" -m venv .venv
pip() { .venv/bin/python -m pip --disable-pip-version-check -qq "$@"; }

# PyTorch first: where there is no GPU, its build for the CPU, since other packages would pull gigabytes of CUDA.
torch=$(grep '^torch==' requirements.lock)
if ! .venv/bin/python -c 'import torch' 2>/dev/null; then
    echo "== installing $torch"
    if command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1; then
        pip install "$torch"
    elif ! pip install --no-index --no-deps "$torch" 2>/dev/null; then   # a wheel that lies on this machine
        pip install uv
        .venv/bin/uv pip install --quiet --python .venv/bin/python --torch-backend=cpu "$torch" || pip install "$torch"
    fi
fi
echo "== installing the pinned requirements and building GPAW (a few minutes)"
grep -v '^gpaw' requirements.lock > .venv/requirements.txt
pip install -r .venv/requirements.txt
grep '^gpaw' requirements.lock > .venv/requirements-gpaw.txt
CC=g++ pip install -r .venv/requirements-gpaw.txt
pip install --no-deps --editable .
printf '%s' "$wanted" > "$ready"
