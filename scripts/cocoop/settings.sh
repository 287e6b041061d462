# shellcheck shell=bash disable=SC2034
# CoCoOp: one configuration for base-to-new and cross-dataset, as published. Few-shot has none of its
# own there; this one also trains on few images a class. Sourced by the protocol's script.
TRAINER=CoCoOp
default_cfg() { # PROTOCOL DATASET SHOTS
  echo vit_b16_c4_ep10_batch1_ctxv1
}
