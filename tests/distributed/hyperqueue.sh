#!/usr/bin/env bash
# A sweep on two HyperQueue workers, one of them lost midway: the merged bytes must be those of a run on
# one machine.
#
#   tests/distributed/hyperqueue.sh [path of servesim]
#
# Needs Python with the PyPI package hyperqueue (in PYTHON) and unshare, else it says so and passes.
# HyperQueue's server listens on all addresses, so all of it runs in a network namespace that has
# nothing but a loopback of its own.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
servesim=$(realpath "${1:-$here/../../target/release/servesim}")
python=${PYTHON:-python3}
if ! "$python" -c 'import hyperqueue' 2>/dev/null || ! unshare -rn true 2>/dev/null; then
  echo "skipped: needs the Python package hyperqueue and unprivileged network namespaces"
  exit 0
fi
if [ "${IN_NAMESPACE:-}" != yes ]; then
  IN_NAMESPACE=yes exec unshare -rn "$0" "$servesim"
fi
ip link set lo up

place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cat >"$place/sweep.toml" <<'TOML'
name = "two workers"
base = "redhat/llama-2-7b-g5.2xlarge"
[axes]
model.name = ["llama-2-7b", "llama-2-13b"]
workload.closed-loop.clients = [5, 10, 20, 40]
workload.seed = { from = 1, to = 150, step = 1 }
TOML
shards=8
cd "$place"

echo "== one machine"
"$servesim" sweep sweep.toml --out whole | sed -n 1p

echo "== $shards shards as tasks of HyperQueue"
"$python" "$here/hyperqueue_tasks.py" "$servesim" "$place" "$shards"

echo "== merge"
"$servesim" sweep merge shards/* --out merged | sed -n 1p
for file in points.csv report.json; do
  cmp "whole/$file" "merged/$file"
  echo "$file: $(wc -c <"merged/$file") bytes, the same as on one machine"
done
echo passed
