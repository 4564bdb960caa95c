#!/usr/bin/env bash
# Fill every row of benchmarks/README.md that is open on a GPU: within ten minutes on one card, smallest first.
#
#   benchmarks/gpu.sh [FOLDER]            JSON by row into FOLDER (results/gpu); cut off, run it again: it goes on
#   POLICY=CHECKPOINT benchmarks/gpu.sh   rollouts of this policy (its closing tags are single tokens), not the demo's
#   SMOKE=1 benchmarks/gpu.sh FOLDER      the same commands on the CPU in their smallest size
#
# A row has a time limit, and no row ends the script. One whose JSON exists is not run again. Seconds add up to 590.
#
# Behind them, where QUESTIONS, EVAL_QUESTIONS and CORPUS name your files (several by spaces) and MODEL a model's folder:
# the comparison of recipes/compare_multihop_smollm2.yaml, at most 12 minutes, with a summary after each seed.
set -u
cd "$(dirname "$0")/.."
folder=${1:-results/gpu}
python=${PYTHON:-python}
size=(--device "${DEVICE:-cuda}")
[ -n "${SMOKE:-}" ] && size=(--device cpu --smoke)
mkdir -p "$folder"
exec 9>"$folder/lock"
flock 9 # a row that a killed call left behind ends first

row() { # NAME SECONDS SCRIPT ARGUMENTS...
    local name=$1 seconds=$2 script=$3
    shift 3
    if [ -s "$folder/$name.json" ]; then
        echo "$name: there already"
        return
    fi
    [ -n "${SMOKE:-}" ] && seconds=$((20 * seconds)) # a shared CPU may take its time
    echo "$name: at most $seconds s"
    if timeout --foreground -k 20 "$seconds" "$python" "benchmarks/$script.py" "${size[@]}" "$@" --json "$folder/$name.part" \
        >"$folder/$name.log" 2>&1; then
        mv "$folder/$name.part" "$folder/$name.json"
    else
        echo "$name: failed ($?), see $folder/$name.log"
    fi
}

gain=(gain_cost --repeats 5)
row loss_cost 30 loss_cost
row prefix_cost 40 prefix_cost --repeats 5
row gain_smollm2 40 "${gain[@]}" --model smollm2
row gain_sliding 40 "${gain[@]}" --model sliding
row gain_hybrid 50 "${gain[@]}" --model hybrid
row gain_convolutions 40 "${gain[@]}" --model convolutions
row gain_2200 40 "${gain[@]}" --model qwen3-4b --size 2200,4,30,8
row gain_4000 50 "${gain[@]}" --model qwen3-4b --size 4000,6,30,8
row gain_8000 70 "${gain[@]}" --model qwen3-4b --size 8000,6,30,8
if [ -n "${SMOKE:-}" ] || "$python" -c 'import flash_attn' 2>/dev/null; then
    flash=flash_attention_2
    [ -n "${SMOKE:-}" ] && flash=stand-in
    row gain_flash 50 "${gain[@]}" --model smollm2 --attention "$flash"
fi
row rollouts 60 rollout_speed --rollouts 256 ${POLICY:+--policy "$POLICY"}
row step 80 step_cost --repeats 3
if [ -n "${QUESTIONS:-}" ]; then
    # shellcheck disable=SC2086
    row real_questions 720 real_questions ${MODEL:+--model "$MODEL"} \
        --questions $QUESTIONS --eval_questions $EVAL_QUESTIONS --corpus "$CORPUS"
elif [ -n "${SMOKE:-}" ]; then
    row real_questions 720 real_questions
fi

