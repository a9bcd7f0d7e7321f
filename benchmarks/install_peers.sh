#!/bin/sh
# Installs the pickers that `make bench` compares with: RELION (its Laplacian of Gaussian) and Topaz.
# RELION is Debian's package and wants root; Topaz goes into .venv-topaz, away from frazil's own packages.
# Without them `make bench` measures all the rest and says what is missing.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
TORCH=${TORCH:-2.13.0}
TOPAZ=${TOPAZ:-0.3.20}

echo "== RELION: Debian's package relion"
if command -v relion_autopick >/dev/null; then
    echo "installed: $(command -v relion_autopick)"
elif [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq && apt-get install -y -qq --no-install-recommends relion
else
    echo "missing: have an administrator run 'apt-get install relion', or put RELION's own programs on the PATH" >&2
fi

echo "== Topaz $TOPAZ with torch $TORCH on the CPU, in .venv-topaz"
if ! .venv-topaz/bin/topaz --version >/dev/null 2>&1; then
    "$PYTHON" -m venv --clear .venv-topaz
    # torch first: its CPU build, where one can be had under this version, keeps gigabytes of CUDA away.
    .venv-topaz/bin/python -m pip install --quiet "torch==$TORCH"
    echo "torch==$TORCH" > .venv-topaz/constraints.txt
    .venv-topaz/bin/python -m pip install --quiet --constraint .venv-topaz/constraints.txt "topaz-em==$TOPAZ"
    if ! .venv-topaz/bin/python -c 'import torchvision' 2>/dev/null; then
        # PyPI's torchvision is built for CUDA's torch and does not load beside the CPU's. Topaz turns images with it
        # when it trains, and never when it picks: an empty stand-in lets it start.
        .venv-topaz/bin/python -m pip uninstall --quiet --yes torchvision
        packages=$(.venv-topaz/bin/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
        mkdir -p "$packages/torchvision/transforms"
        touch "$packages/torchvision/__init__.py" "$packages/torchvision/transforms/__init__.py"
        echo 'def rotate(*_): raise NotImplementedError("a stand-in: this Topaz only picks")' \
            > "$packages/torchvision/transforms/functional.py"
    fi
fi
.venv-topaz/bin/topaz --version
echo "== now: make bench"
