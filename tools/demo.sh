#!/usr/bin/env bash
# `make demo`: from nothing to a comparison. Simulates ultrasound clips and MRI as DICOM, trains an ultrasound teacher,
# pre-trains an MRI student on unlabelled volumes, and trains it on labels alone, by unpaired distillation, and by the
# control that has never seen an ultrasound.
set -euo pipefail
cd "$(dirname "$0")/.."

xmkd=".venv/bin/python -m xmkd"
cohort=runs/cohorts/pod_demo
$xmkd simulate experiments/cohorts/pod_demo.yaml --out $cohort
$xmkd fit experiments/teacher_pod.yaml "$@"
# Distillation needs scores of patients whom the scoring model was not fitted on.
$xmkd crossval experiments/teacher_pod.yaml data.folds=3 "data.streams.tvus.where.split=[train,val]" "$@"
$xmkd fit experiments/mae_pod.yaml "$@"
folder() { sed -n "s/^run folder: //p"; }
supervised=$($xmkd fit experiments/distill_pod.yaml method.alpha=0 method.epoch_offset=1 "$@" | tee /dev/stderr | folder)
distilled=$($xmkd fit experiments/distill_pod.yaml "$@" | tee /dev/stderr | folder)
surrogate=$($xmkd fit experiments/distill_pod.yaml method.pairing=surrogate "$@" | tee /dev/stderr | folder)
echo "distilled against labels alone, and against scores drawn from curves fitted to the teacher's:"
$xmkd compare "$distilled" "$supervised" "$surrogate"
