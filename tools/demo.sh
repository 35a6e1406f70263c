#!/usr/bin/env bash
# `make demo`: one short teacher, from files to a report. Uses the real ultrasound images where they are.
set -euo pipefail
cd "$(dirname "$0")/.."

data=${XMKD_DATA:-../shared/data}
if [ -d "$data/mmotu_tvus" ]; then
    echo "demo on real data: MMOTU ovarian ultrasound in $data/mmotu_tvus, a short preset"
    experiment=experiments/demo_mmotu.yaml
else
    echo "demo on generated data: MMOTU was not found (XMKD_DATA=$data), so a made-up two-class study is used"
    experiment=experiments/demo_generated.yaml
    [ -f runs/demo_data/toy.csv ] || .venv/bin/python -m xmkd.data.toy runs/demo_data
fi
.venv/bin/python -m xmkd fit "$experiment" "$@"
