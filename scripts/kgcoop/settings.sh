# shellcheck shell=bash disable=SC2034
# KgCoOp: one configuration for all protocols, as published. Sourced by the protocol's script.
TRAINER=KgCoOp
default_cfg() { # PROTOCOL DATASET SHOTS
  echo vit_b16_ep100_ctxv1
}
