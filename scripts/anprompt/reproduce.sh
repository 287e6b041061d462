#!/usr/bin/env bash
# Computes a table: runs what is missing of a protocol, then prints it.
#
#   bash scripts/anprompt/reproduce.sh PROTOCOL [OPTIONS] [-- KEY VALUE ...]
#
#   PROTOCOL          base2new, crossdata, domaingen or fewshot (docs/PROTOCOLS.md)
#   --methods A,B     folders of scripts/ (default: all)
#   --datasets A,B    files of configs/datasets/ (default: CoOp's eleven); of crossdata and domaingen
#                     those tested on (default: the eleven but the source; the four ImageNet
#                     variants), also written --targets
#   --seeds 1,2,3     default: 1,2,3
#   --shots 1,4       images per class (default: 16; of fewshot 1,2,4,8,16)
#   --source NAME     crossdata, domaingen: the data set trained on (default: imagenet)
#   --jobs N          runs side by side (default: 1 on a GPU; else one a core, at most 4)
#   --cfg M=CONFIG    another configuration for method M (repeatable)
#   KEY VALUE         settings for train.py, for all runs
#
#   DATA=/path/to/datasets bash scripts/anprompt/reproduce.sh base2new --datasets eurosat,dtd
#   DATA=/path/to/datasets bash scripts/anprompt/reproduce.sh crossdata --source caltech101 \
#     --targets eurosat --methods zsclip,coop,anprompt
#
# Interrupted, the same command goes on where it was stopped. A run that fails does not stop the
# others and is listed. The table holds all that OUTPUT has of the protocol, also in
# OUTPUT/PROTOCOL.md; what is missing there is shown as missing. Logs are in OUTPUT/logs.
#
# Environment: DATA      folder that holds the data sets (the data set 'shapes' needs none)
#              OUTPUT    where results go (default: output/ in the repository)
#              BACKBONE  ViT-B/16, RN50, an open_clip tag, a checkpoint's path (default: small, the
#                        CLIP that comes with this repository)
#              DRY_RUN   1: say what is finished and print the commands of the others, run nothing
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

if asks_help "$@"; then usage; exit 0; fi
protocol="${1:-}"
case "$protocol" in
  base2new | crossdata | domaingen | fewshot) shift ;;
  *) die "'$protocol': expected base2new, crossdata, domaingen or fewshot (--help says more)" ;;
esac
set_output
export OUTPUT BACKBONE="${BACKBONE:-small}"
DRY_RUN='' ensure_env # seeing what is finished needs Python as well
announce_backbone

# In the background, so that whatever ends this script ends the runs as well.
"$PY" -m anprompt sweep "$protocol" "$@" &
sweep=$!
trap 'kill -TERM "$sweep" 2>/dev/null || true' INT TERM HUP
status=0
wait "$sweep" || status=$?
while kill -0 "$sweep" 2>/dev/null; do # a signal ended the waiting, not yet the sweep
  status=0
  wait "$sweep" || status=$?
done
trap - INT TERM HUP
# Bad input or an interruption: no table. Failed runs (1) are missing in it.
[ "$status" -le 1 ] || exit "$status"
[ -z "${DRY_RUN:-}" ] || exit "$status"

info ""
"$PY" -m anprompt table "$OUTPUT" --protocol "$protocol" --output "$OUTPUT/$protocol.md"
info ""
info "The table is in $OUTPUT/$protocol.md."
exit "$status"
