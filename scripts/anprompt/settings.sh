# shellcheck shell=bash disable=SC2034
# ANPrompt: its configurations are named as MMRL's. Sourced by the protocol's script.
# shellcheck source=scripts/mmrl/settings.sh
source "$ROOT/scripts/mmrl/settings.sh"
TRAINER=ANPrompt
