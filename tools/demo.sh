#!/usr/bin/env bash
# `make demo`: from nothing to a report. Simulates ultrasound clips as DICOM, trains the teacher, evaluates it.
set -euo pipefail
cd "$(dirname "$0")/.."

xmkd=".venv/bin/python -m xmkd"
$xmkd simulate experiments/cohorts/pod_demo.yaml --out runs/cohorts/pod_demo --only tvus
$xmkd fit experiments/teacher_pod.yaml "$@"
