#!/usr/bin/env bash
# Ablations of ANPrompt, base-to-new: the whole method, then one change at a time.
#
#   bash scripts/anprompt/ablations.sh [DATASET [SEEDS [NAME ...]]]
#
#   DATASET  a file of configs/datasets/ (default: shapes, which needs no data)
#   SEEDS    default: 1,2,3
#   NAME     files of configs/trainers/ANPrompt/ablations (default: all of them)
#
# A finished run is skipped, an interrupted one goes on where it stopped. Ends in a table, also in
# OUTPUT/ablations.md; python -m anprompt robustness --model-dir OUTPUT/base2new/train_base/DATASET then puts all
# of them under noise.
#
# Environment: DATA, BACKBONE, SHOTS as scripts/anprompt/base2new_train.sh; OUTPUT (default:
# output_ablations in the repository); DRY_RUN=1 prints the commands and runs nothing
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

if asks_help "$@"; then usage; exit 0; fi
folder="$ROOT/configs/trainers/ANPrompt/ablations"
dataset="${1:-shapes}" seeds="${2:-1,2,3}"
[ $# -lt 2 ] || shift
[ $# -eq 0 ] || shift
names=("$@")
if [ ${#names[@]} -eq 0 ]; then
  for file in "$folder"/*.yaml; do names+=("$(basename "$file" .yaml)"); done
fi
for name in "${names[@]}"; do
  [ -f "$folder/$name.yaml" ] || die "no ablation '$name'; there are:" \
    "$(cd "$folder" && printf '%s ' *.yaml | sed 's/\.yaml//g')"
done

need_data "$dataset"
DRY_RUN='' ensure_env # seeing what is finished needs Python as well
set_output ablations
export OUTPUT
unset CFG
for config in vit_b16 "${names[@]/#/ablations/}"; do
  info "== ${config#ablations/}"
  "$PY" -m anprompt sweep base2new --methods anprompt --datasets "$dataset" \
    --seeds "$seeds" --cfg "anprompt=$config"
done
[ -z "${DRY_RUN:-}" ] || exit 0
info ""
"$PY" -m anprompt table "$OUTPUT" --output "$OUTPUT/ablations.md"
info ""
info "The table is in $OUTPUT/ablations.md."
