#!/usr/bin/env bash
# The same command on every host of a Cloud TPU slice; jax finds the others in the slice's metadata
# (https://docs.cloud.google.com/tpu/docs/jax-pods).
#
#   export TPU=NAME ZONE=ZONE
#   experiments/launch/tpu_vm.sh install
#   experiments/launch/tpu_vm.sh run experiments.imagenet_vgg10 --workdir /mnt/runs/vgg10 --data folder:/mnt/imagenet
#   experiments/launch/tpu_vm.sh stop
#
# The work directory must lie where all hosts see it (Filestore). `install` copies this commit and needs Python 3.11 or
# newer on the hosts, under the name in PYTHON. `stop` sends SIGTERM: the run saves and ends with code 75, and `run` with
# the same words goes on. Not run yet: it follows the interface that Cloud TPU documents.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${TPU:?the name of the slice}" "${ZONE:?its zone}"

everywhere() { # a command for the shell of every host
  gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$1"
}

action=${1:?install, run or stop}
shift
case "$action" in
  install)
    git archive --output="${TMPDIR:-/tmp}/epjax.tar" HEAD
    gcloud compute tpus tpu-vm scp "${TMPDIR:-/tmp}/epjax.tar" "$TPU": --zone="$ZONE" --worker=all
    everywhere "mkdir -p epjax && tar -xf epjax.tar -C epjax && cd epjax &&
      ${PYTHON:-python3} -m venv .venv && .venv/bin/pip install --quiet -e '.[tpu]'"
    ;;
  run) everywhere "cd epjax && .venv/bin/python -m$(printf ' %q' "$@")" ;;
  stop) everywhere "pkill -TERM -f '[.]venv/bin/python -m experiments'" ;;
  *) echo "the first word must be install, run or stop, but is $action" >&2 && exit 2 ;;
esac
