#!/bin/bash
# ahmf train on every worker of a TPU VM:  TPU=name ZONE=zone tpu_vm.sh CONFIG --out RUN [settings]
# docs/launching.md says more. Started again, it goes on where it stopped.
set -euo pipefail
: "${TPU:?name of the TPU VM}" "${ZONE:?its zone}"

printf -v train '%q ' ahmf train "$@"
# Detached, as a connection that breaks would take the training with it.
exec gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all \
    --command="nohup $train >>ahmf-train.log 2>&1 </dev/null & echo \$! >ahmf-train.pid"
