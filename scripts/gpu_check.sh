#!/usr/bin/env bash
# The evidence that only a GPU can give, in one go and at most eight minutes:
#
#     scripts/gpu_check.sh OUT [WHEELS]
#
# Runs the GPU tests, the benchmark and a slice of a ResNet-50 sweep with the Python at hand, and
# leaves gpu_check.json, a montage and an archive of the logs in OUT. Needs no network and installs
# nothing but the wheels found in WHEELS, into a temporary folder; prints which packages are missing.
# Wheels are made elsewhere, on a machine with the same version of Python (antlr4 has none by itself):
#
#     pip wheel -w WHEELS antlr4-python3-runtime==4.9.3
#     pip download -d WHEELS --no-deps hydra-core omegaconf pyyaml h5py tqdm safetensors jinja2 \
#         markupsafe pytest iniconfig pluggy packaging
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out="${1:?usage: scripts/gpu_check.sh OUT [WHEELS]}"
python="${PYTHON:-python3}"
packages="$(mktemp -d)"
trap 'rm -rf "$packages"' EXIT
if [[ -n "${2:-}" ]]; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --target "$packages" "$2"/*.whl
fi
export PYTHONPATH="$PWD/pipeline:$PWD:$packages${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
"$python" scripts/gpu_check.py "$out"
