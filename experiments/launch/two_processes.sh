#!/usr/bin/env bash
# One run in two processes on this machine, each with four CPU devices: what many hosts do, in small.
#
#   experiments/launch/two_processes.sh experiments.imagenet_vgg10 --workdir runs/two
#
# Ctrl-C or SIGTERM reaches both, which save and end with code 75; the same command goes on.
# PYTHON, PORT and XLA_FLAGS may be set.
set -u
cd "$(dirname "$0")/../.."
export JAX_PLATFORMS=cpu XLA_FLAGS="${XLA_FLAGS:---xla_force_host_platform_device_count=4}"

pids=()
for id in 0 1; do
  "${PYTHON:-.venv/bin/python}" -m "$@" \
    --coordinator "localhost:${PORT:-8476}" --num-processes 2 --process-id "$id" &
  pids+=($!)
done
trap 'kill -TERM "${pids[@]}" 2>/dev/null' INT TERM

code=0
for pid in "${pids[@]}"; do
  wait "$pid" || code=$?
  while kill -0 "$pid" 2>/dev/null; do # a signal ends `wait` before the process
    wait "$pid"
    code=$?
  done
done
exit "$code"
