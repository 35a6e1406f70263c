#!/usr/bin/env bash
# `make demo`: from nothing to a comparison. Simulates ultrasound clips and MRI as DICOM, trains an ultrasound teacher,
# pre-trains an MRI student on unlabelled volumes, and trains it on labels alone, by unpaired distillation, and by the
# control that has never seen an ultrasound. Ultrasound and MRI are trained side by side: networks this small gain more
# from a core each than from two together.
set -euo pipefail
cd "$(dirname "$0")/.."

xmkd=".venv/bin/python -m xmkd"
cohort=runs/cohorts/pod_demo
log=runs/demo.log
export OMP_NUM_THREADS=$((($(getconf _NPROCESSORS_ONLN) + 1) / 2))
stop() { # what still runs beside this script, when it ends early
    local job
    for job in $(jobs -p); do
        pkill -P "$job" || true
        kill "$job" || true
    done
} 2>/dev/null
trap stop EXIT
trap 'exit 130' INT TERM
beside() { # wait for what was started last, and show its end
    wait $! || { tail -n 20 $log >&2; echo "more of it: $log" >&2; exit 1; }
    grep -E "^(val/loss_|test/|oracle/|ceiling/|operating point|run folder)" $log
}
student() { $xmkd fit experiments/distill_pod.yaml trainer.max_epochs=20 "$@"; }
shown() { tee >(cat >&2); } # tee /dev/stderr would empty the file that stderr may be
folder() { sed -n "s/^run folder: //p" | tail -n 1; }

$xmkd simulate experiments/cohorts/pod_demo.yaml --out $cohort

echo "the teacher in two folds; beside it the MRI student is pre-trained ($log)"
$xmkd fit experiments/mae_pod.yaml trainer.max_epochs=40 "$@" > $log 2>&1 &
# Distillation needs scores of patients whom the scoring model was not fitted on.
scores=$($xmkd crossval experiments/teacher_pod.yaml data.folds=2 "data.streams.tvus.where.split=[train,val]" "$@" |
    shown | folder)
echo "beside it: pre-training"
beside

echo "the student is distilled, and then from scores drawn from curves fitted to the teacher's; beside it one is trained"
echo "on labels alone, and a teacher of all patients ($log)"
{
    student method.alpha=0 method.epoch_offset=1 method.teacher=none "$@"
    $xmkd fit experiments/teacher_pod.yaml "$@"
} > $log 2>&1 &
echo "the distilled student:"
distilled=$(student "method.teacher=$scores" "$@" | shown | folder)
echo "the student of scores drawn from curves:"
surrogate=$(student "method.teacher=$scores" method.pairing=surrogate "$@" | shown | folder)
echo "beside it: the student on labels alone, then the teacher"
beside
supervised=$(grep -m 1 "^run folder" $log | folder) # the first of the two

echo "distilled (${distilled##*/}) against labels alone (${supervised##*/}), and against scores drawn from curves"
echo "(${surrogate##*/}):"
$xmkd compare "$distilled" "$supervised" "$surrogate"
