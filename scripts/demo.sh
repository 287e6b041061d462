#!/usr/bin/env bash
# Shows the project at work, with no data and no downloads but Python packages: zero-shot CLIP, CoOp,
# MaPLe and ANPrompt learn half of the classes of Shapes from 16 images each and are tested on both
# halves, on the small CLIP that comes with this repository.
#
#   bash scripts/demo.sh            three seeds
#   bash scripts/demo.sh --quick    one seed
#
# Sets the environment up first if needed. Run again, it goes on where it was stopped. Ends in a table,
# also in OUTPUT/results.md; each run's log is in OUTPUT/logs.
#
# Environment: OUTPUT  where results go (default: output/demo in the repository)
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

if asks_help "$@"; then usage; exit 0; fi
seeds=1,2,3
for argument in "$@"; do
  case "$argument" in
    --quick) seeds=1 ;;
    *) die "unknown argument '$argument'; it takes --quick" ;;
  esac
done

ensure_env
if [ -z "${OUTPUT:-}" ]; then
  OUTPUT="$ROOT/output/demo"
  [ "$PWD" != "$ROOT" ] || OUTPUT=output/demo
fi
# The demo is the same everywhere, whatever a shell has set for other scripts.
unset CFG SHOTS LOADEP
export OUTPUT BACKBONE=small

info "Base to new on Shapes, small CLIP, 16 images a class, seeds $seeds. Results go to $OUTPUT."
# Published settings for all; of CoOp's configurations the one of 50 epochs, where 200 would take as
# long as everything else together.
"$PY" "$ROOT/tools/sweep.py" base2new --methods zsclip,coop,maple,anprompt --datasets shapes \
  --seeds "$seeds" --cfg coop=vit_b16_ep50_ctxv1
info ""
"$PY" "$ROOT/tools/results.py" "$OUTPUT" --methods ZeroshotCLIP,CoOp,MaPLe,ANPrompt --all-rules \
  --output "$OUTPUT/results.md"
info ""
info "The table is in $OUTPUT/results.md, each run in its results.json below $OUTPUT/base2new."
