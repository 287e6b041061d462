#!/usr/bin/env bash
# Checks this project on your GPU, in under 8 minutes: every trainer in every precision against the CPU,
# resuming, and memory and times at the size of a ViT-B/16. Nothing is downloaded but Python packages.
#
#   bash scripts/gpu_check.sh                        tables, and all figures in gpu_check.json
#   bash scripts/gpu_check.sh --device cpu --quick   tries the program itself where there is no GPU
#
# Ends with status 1 if a precision is further from the CPU than it may be.

# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
if asks_help "$@"; then usage; exit 0; fi
ensure_env
cd "$ROOT" || exit 2
exec "$PY" -m benchmarks.gpu_check "$@"
