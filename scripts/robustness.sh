#!/usr/bin/env bash
# Puts every model that was trained on base classes below OUTPUT under noise, data set by data set, and
# writes the report.
#
#   bash scripts/robustness.sh [DATASET ...] [-- OPTIONS OF python -m anprompt robustness]
#
#   DATASET  folders of OUTPUT/base2new/train_base: shapes, eurosat, ... (default: all that are there)
#
#   bash scripts/robustness.sh
#   OUTPUT=output_demo bash scripts/robustness.sh -- --images 72     what scripts/demo.sh trained
#   DATA=/path/to/datasets bash scripts/robustness.sh eurosat -- --severities 1,3,5 --seeds 1
#
# Goes on where it was stopped. Figures go to each run's robustness.json, the page to
# OUTPUT/report.html.
#
# Environment: OUTPUT        where the runs are (default: output/ in the repository)
#              DATA          folder that holds the data sets, if it has moved since training
#              SHOTS         which runs (default: 16)
#              DESCRIPTIONS  folder of <data set>.json files {class name: [sentences]} for the noise
#                            kind "description" (default: configs/descriptions, which has Shapes)
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

if asks_help "$@"; then usage; exit 0; fi
datasets=()
while [ $# -gt 0 ] && [ "$1" != "--" ]; do
  datasets+=("$1")
  shift
done
[ $# -eq 0 ] || shift

set_output
trained="$OUTPUT/base2new/train_base"
[ -d "$trained" ] || die "no folder $trained; train first, e.g." \
  "bash scripts/anprompt/reproduce.sh base2new --datasets shapes, or name in OUTPUT where runs are"
if [ ${#datasets[@]} -eq 0 ]; then
  for folder in "$trained"/*/; do datasets+=("$(basename "$folder")"); done
fi
for dataset in "${datasets[@]}"; do
  [ -d "$trained/$dataset" ] || die "no runs of '$dataset' in $trained"
done
ensure_env
for dataset in "${datasets[@]}"; do
  runs="$trained/$dataset/shots_${SHOTS:-16}"
  [ -d "$runs" ] || die "no runs with ${SHOTS:-16} shots in $trained/$dataset; set SHOTS"
  name="$(awk '/^ *NAME:/ { gsub(/"/, ""); print $2; exit }' "$ROOT/configs/datasets/$dataset.yaml")"
  file="${DESCRIPTIONS:-$ROOT/configs/descriptions}/$name.json"
  options=()
  [ ! -f "$file" ] || options+=(--descriptions "$file")
  "$PY" -m anprompt robustness --model-dir "$runs" ${DATA:+--root "$DATA"} \
    ${options[@]+"${options[@]}"} "$@"
done
"$PY" -m anprompt report "$OUTPUT" --output "$OUTPUT/report.html"
