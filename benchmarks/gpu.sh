#!/usr/bin/env bash
# Every benchmark line that wants a GPU, in one call under ten minutes.
#
#   benchmarks/gpu.sh                          one GPU; needs Python ≥ 3.11, torch, torchvision, numpy, pillow, safetensors
#   REFERENCE=DIR benchmarks/gpu.sh            with the public code from a checkout in DIR beside ours
#   DEVICE=cpu SIZE=tiny benchmarks/gpu.sh     the same lines at a size that a CPU does in a minute (what the test runs)
#
# A line that fails does not stop the ones after it; the call then ends with 1. Tables go to the standard output and,
# with OUT=DIR, as JSON to DIR.
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3} DEVICE=${DEVICE:-cuda} SIZE=${SIZE:-full} REFERENCE=${REFERENCE:-} OUT=${OUT:-}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True
failed=0

line() { # TITLE LIMIT_SECONDS COMMAND…
    printf '\n## %s\n\n' "$1"
    local limit=$2 started=$SECONDS; shift 2
    timeout "$limit" "$@" || { printf '\nFAILED (%s): %s\n' "$?" "$*"; failed=1; }
    printf '\n(%d s)\n' "$((SECONDS - started))"
}

step() { # NAME ARGUMENTS…
    local name=$1; shift
    local common=(--device "$DEVICE" ${OUT:+--json "$OUT/$name.json"})
    if [ "$SIZE" = tiny ]; then
        # Later options win: the sizes shrink. Compiling takes longer than all else at this size, then starting Python.
        set -- "${@/#compile/used}" --model tiny --image 112 --local 0 --batch 2 --locals 2 --prototypes 64 --hidden 32 --steps 1 --warmup 1 \
            --no-compile --threads 1 --together
    fi
    "$PYTHON" benchmarks/train_step.py "${common[@]}" "$@"
}

[ -n "$OUT" ] && mkdir -p "$OUT"
export -f step; export PYTHON DEVICE SIZE OUT
peer=(); [ -n "$REFERENCE" ] && peer=(--reference "$REFERENCE,$PYTHON")
need=sdpa attention=()
[ "$DEVICE" != cpu ] && need=sdpa,varlen
[ "$SIZE" = tiny ] && attention=(--batch 1 --heads 1 --repeats 1)

line "Device" 30 "$PYTHON" -c "import torch; print(torch.__version__, torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU')"
line "Packed attention: equality and time" 80 "$PYTHON" benchmarks/attention.py --device "$DEVICE" --need "$need" "${attention[@]}"
line "ViT-L/16 recipe (targets: 300, then 386 images/s)" 95 bash -c 'step large "$@"' - \
    --model large --patch 16 --local 96 --batch 64 --drop 0.3 --rows compile
line "ViT-L/16, iBOT-style and each technique (targets: 2.5 times the images/s, a third of the memory)" 185 \
    bash -c 'step techniques "$@"' - --model large --patch 16 --local 96 --batch 32 --drop 0.3 --steps 10
line "ViT-S/14 and the public code (target: 1.5 times)" 95 bash -c 'step small "$@"' - \
    --model small --batch 64 --rows compile "${peer[@]}"
line "ViT-B/14 and the public code (target: 1.5 times)" 95 bash -c 'step base "$@"' - \
    --model base --batch 64 --rows compile "${peer[@]}"
# What others add runs where its file is there: each takes --device.
for extra in embedding exact_knn; do
    [ -f "benchmarks/$extra.py" ] && line "$extra" 60 "$PYTHON" "benchmarks/$extra.py" --device "$DEVICE"
done
[ -n "${LEARNS:-}" ] && line "Does it learn" 700 "$PYTHON" benchmarks/learns.py --minutes "$LEARNS" --device "$DEVICE"
printf '\n%d s in all\n' "$SECONDS"
exit "$failed"
