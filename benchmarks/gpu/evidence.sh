#!/bin/bash
# What a GPU has to show, in two commands of at most 5 and 4 minutes, the most important first:
#
#     OUT=FOLDER bash benchmarks/gpu/evidence.sh 1     # the machine, the claims, the cost beside hand-written AMP, pytest -m gpu
#     OUT=FOLDER bash benchmarks/gpu/evidence.sh 2     # GPT-2 124M, eager and compiled, and ResNet-50 in every precision
#
# Each stage has a time-out of its own, and writes its results as they come. `SMALL=1` runs the same stages on a CPU in
# small sizes: it shows that this file works. `.whl/` may hold wheels of what the machine lacks.
set -u
cd "$(dirname "$0")/../.." || exit 2
: "${OUT:?name the folder for the results}"
mkdir -p "$OUT"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export PYTHONPATH=$PWD/src PYTHONUNBUFFERED=1 XDG_CACHE_HOME=$scratch/cache
PYTHON=${PYTHON:-python3}
if [ -d .whl ]; then
  "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$scratch/site" .whl/*.whl
  PYTHONPATH=$PYTHONPATH:$scratch/site
fi

stage() { # NAME SECONDS COMMAND...
  local limit=$2
  [ -n "${SMALL:-}" ] && limit=$((6 * $2)) # a CPU may be a slow one
  echo "== $1 ($SECONDS s)"
  timeout "$limit" "${@:3}" 2>&1 | tail -60
  echo "== $1: exit code ${PIPESTATUS[0]}"
}

gallery() { # FILE SECONDS CASE
  stage "$3" "$2" "$PYTHON" benchmarks/gallery.py --only "$3" --seeds 1 --out "$scratch/$1" --json "$OUT/$1.json" \
    --markdown "$OUT/$1.md" ${SMALL:+--steps 12}
}

case "$1" in
1)
  stage "the machine" 60 "$PYTHON" -m halfstep info
  stage claims 130 "$PYTHON" benchmarks/gpu/claims.py --json "$OUT/claims.json" ${SMALL:+--only import}
  if [ -n "${SMALL:-}" ]; then
    stage "beside hand-written AMP" 170 "$PYTHON" benchmarks/beside_amp.py --pairs 1 --steps 1 --json "$OUT/beside_amp.json"
  else
    stage "beside hand-written AMP" 170 "$PYTHON" benchmarks/beside_amp.py --device cuda --seconds 140 \
      --json "$OUT/beside_amp.json"
    stage "pytest -m gpu" 60 "$PYTHON" -m pytest -m gpu -q -rA -p no:cacheprovider -o addopts= -o filterwarnings=default \
      tests/pytorch
  fi
  ;;
2)
  if [ -n "${SMALL:-}" ]; then
    gallery small 200 "Small ResNet, hand-written bf16"
  else
    gallery gpt2 90 "GPT-2 124M, all"
    gallery compiled 80 "GPT-2 124M compiled, all"
    gallery resnet 70 "ResNet-50, all"
  fi
  ;;
*)
  echo "evidence.sh was given ${1:-nothing}; it takes 1 or 2" >&2
  exit 2
  ;;
esac | tee "$OUT/evidence$1.log"
