# shellcheck shell=bash disable=SC2034
# IVLP: one configuration for base-to-new and cross-dataset, as published with MaPLe. Few-shot has none
# of its own there; this one also trains on few images a class. Sourced by the protocol's script.
TRAINER=IVLP
default_cfg() { # PROTOCOL DATASET SHOTS
  echo vit_b16_c2_ep5_batch4_2+2ctx
}
