# shellcheck shell=bash disable=SC2034
# MaPLe: which trainer and configuration a protocol uses. Sourced by the protocol's script.
# Its repository has no few-shot configuration; the base-to-new one also trains on few images a class.
TRAINER=MaPLe
default_cfg() { # PROTOCOL DATASET SHOTS (of crossdata: SOURCE)
  case "$1" in
    base2new | fewshot) echo vit_b16_c2_ep5_batch4_2ctx ;;
    crossdata) echo vit_b16_c2_ep5_batch4_2ctx_cross_datasets ;;
  esac
}
