#!/usr/bin/env bash
# Shows the project at work, with no data and no downloads but Python packages: zero-shot CLIP, CoOp,
# MaPLe and ANPrompt learn half of the classes of Shapes from 16 images each and are tested on both
# halves, on the small CLIP that comes with this repository; then once more under noise in text and
# images.
#
#   bash scripts/demo.sh            three seeds, all kinds of noise
#   bash scripts/demo.sh --quick    one seed, few kinds
#
# Sets the environment up first if needed. Run again, it goes on where it was stopped. Ends in a table,
# also in OUTPUT/results.md, and in a page to look at, OUTPUT/report.html; each run's log is in
# OUTPUT/logs, the figures under noise in OUTPUT/robustness.txt.
#
# Environment: OUTPUT  where results go (default: output_demo in the repository)
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

if asks_help "$@"; then usage; exit 0; fi
seeds=1,2,3
noise=all
for argument in "$@"; do
  case "$argument" in
    --quick)
      seeds=1
      noise=char,embed,gaussian_noise,blur,both
      ;;
    *) die "unknown argument '$argument'; it takes --quick" ;;
  esac
done

ensure_env
set_output demo
# The demo is the same everywhere, whatever a shell has set for other scripts.
unset CFG SHOTS LOADEP
export OUTPUT BACKBONE=small

info "Base to new on Shapes, small CLIP, 16 images a class, seeds $seeds. Results go to $OUTPUT."
# Published settings for all; of CoOp's configurations the one of 50 epochs, where 200 would take as
# long as everything else together.
"$PY" -m anprompt sweep base2new --methods zsclip,coop,maple,anprompt --datasets shapes \
  --seeds "$seeds" --cfg coop=vit_b16_ep50_ctxv1
info ""
"$PY" -m anprompt table "$OUTPUT" --methods ZeroshotCLIP,CoOp,MaPLe,ANPrompt --all-rules \
  --output "$OUTPUT/results.md"
info ""

# A few images, the same for --quick and not, so that one goes on from the other: enough to see what
# noise does, not to tell methods apart.
runs=()
for trainer in ZeroshotCLIP CoOp MaPLe ANPrompt; do
  for folder in "$OUTPUT/base2new/train_base/shapes/shots_16/$trainer"/*; do
    for seed in ${seeds//,/ }; do
      [ ! -f "$folder/seed$seed/results.json" ] || runs+=("$folder/seed$seed")
    done
  done
done
info "The same models under noise, on 72 test images of either half."
# One thread: batches this small gain little from more, and lose much where others use the machine.
OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" \
  "$PY" -m anprompt robustness --model-dir "${runs[@]}" --noise "$noise" \
  --severities 1,3,5 --seeds 1 --images 72 >"$OUTPUT/robustness.txt"
info ""
"$PY" -m anprompt report "$OUTPUT" --output "$OUTPUT/report.html" >&2
info ""
info "The table is in $OUTPUT/results.md, each run in its results.json below $OUTPUT/base2new."
info "Open the report in a browser: $(cd "$OUTPUT" && pwd)/report.html"
