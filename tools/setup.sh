#!/usr/bin/env bash
# One environment for everything: `make setup` calls this, and every other target depends on it.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
venv=.venv
stamp=$venv/.ready
inputs="setup.cfg pyproject.toml constraints.txt tools/setup.sh tools/torchvision_ops/torchvision_ops_shim.py"

fresh() { # the stamp is newer than all that went into it
    local f
    [ -e "$stamp" ] || return 1
    for f in $inputs; do [ "$f" -nt "$stamp" ] && return 1; done
    return 0
}
fresh && exit 0

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "xmkd needs Python 3.11 or newer; name one with PYTHON=..., for example: make setup PYTHON=python3.12" >&2
    exit 2
}
echo "setting up $venv (two to four minutes the first time)"
[ -x $venv/bin/python ] || "$python" -m venv $venv
$venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]' \
    2> >(grep -v "is ignored: it is neither a file nor a directory" >&2)
if ! $venv/bin/python -c 'import torchvision' 2>/dev/null; then
    echo "torchvision's build does not match torch's: installing the operator shim (tools/torchvision_ops)"
    $venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps ./tools/torchvision_ops \
        2> >(grep -v "is ignored: it is neither a file nor a directory" >&2)
fi
$venv/bin/python -c 'import torch, torchvision, lightning, timm, monai'
touch "$stamp"
echo "ready: torch $($venv/bin/python -c 'import torch; print(torch.__version__)')"
