# shellcheck shell=bash disable=SC2034
# Zero-shot CLIP with a prompt ensemble: nothing is learned, so all parts of a protocol
# are evaluations and one seed says all. Upstream gives it CoOp's configurations. Sourced by the
# protocol's script.
TRAINER=ZeroshotCLIP2
CONFIGS=CoOp
LEARNS=no
default_cfg() { # PROTOCOL DATASET SHOTS
  echo vit_b16
}
