"""Stand-ins for train.py, and what the tests of sweeps share."""

from pathlib import Path

from anprompt.protocols.methods import find_method
from anprompt.protocols.plan import RunSpec, plan

ROOT = Path(__file__).resolve().parents[2]

# Stands for train.py: notes when it runs, with its folder, environment and arguments.
STAND_IN = """#!/usr/bin/env bash
previous=""
for word in "$@"; do
  [ "$previous" != --output-dir ] || folder="$word"
  previous="$word"
done
run="${folder#"$OUTPUT"/}"
echo "start $run | ${OMP_NUM_THREADS:-} ${CUDA_VISIBLE_DEVICES-none} | $*" >> "$CALLS"
if [ -n "${HANG:-}" ]; then sleep 60; fi
sleep "${PAUSE:-0}"
case "$run" in
  *"${FAIL:-nothing}"*) echo "one line"; echo "the reason" >&2; exit 2 ;;
esac
mkdir -p "$folder"
echo '{"finished": true, "accuracy": 84.2}' > "$folder/results.json"
echo "end $run" >> "$CALLS"
"""
TWELVE = (
    "ZeroshotCLIP,ZeroshotCLIP2,CoOp,CoCoOp,KgCoOp,VPT,IVLP,MaPLe,PromptSRC,MMRL,MMRLpp,ANPrompt"
)
VARIABLES = ("BACKBONE", "CFG", "DATA", "DRY_RUN", "LOADEP", "PLUGIN", "SHOTS", "SOURCE")


def methods(*names: str):
    return [find_method(name) for name in names]


def coop_on_shapes() -> list[RunSpec]:
    return plan("base2new", methods("coop"), ["shapes"], [3])


def parse(noted: list[str]) -> list[tuple[str, str]]:
    """("start" or "end", the run: its protocol, stage, data sets, trainer, seed) of each line."""
    found = []
    for line in noted:
        what, run = line.split(" | ")[0].split(" ", 1)
        *data, trainer, _, seed = run.split("/")
        found.append((what, " ".join([*data[:-1], trainer, seed])))
    return found


def starts(noted: list[str]) -> list[str]:
    return [call for what, call in parse(noted) if what == "start"]
