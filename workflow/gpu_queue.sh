#!/usr/bin/env bash
# The queue on a GPU machine that has no network.
#   workflow/gpu_queue.sh wheels              where there is a network: packages into wheels/ (3 GB)
#   workflow/gpu_queue.sh run 600 [options]   on the GPU machine: work through the queue for 600 s
# NODULEBOOK_DATA is the folder of the CT data, NODULEBOOK_RUNS the folder of runs to go on in.
set -euo pipefail
cd "$(dirname "$0")/.."
case "${1:-}" in
wheels)
  grep -oE '^[A-Za-z0-9._-]+==[^ ;\\]+' requirements.txt >wheels-pins.txt
  python -m pip download -q -d wheels -c wheels-pins.txt "jax[cuda12]" setuptools wheel .
  ;;
run)
  shift
  if [ ! -x .gpu/bin/nodulebook ]; then
    python3 -m venv .gpu
    .gpu/bin/python -m pip install -q --no-index --find-links wheels "jax[cuda12]" setuptools wheel
    .gpu/bin/python -m pip install -q --no-index --find-links wheels --no-build-isolation -e .
  fi
  export KERAS_BACKEND=jax XLA_FLAGS=--xla_gpu_deterministic_ops=true
  export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-.gpu/compiled}"
  exec .gpu/bin/nodulebook queue --precision tensorfloat32 --seconds "$@"
  ;;
*)
  sed -n '2,5p' "$0" && exit 2
  ;;
esac
