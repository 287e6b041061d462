# shellcheck shell=bash disable=SC2034
# PromptSRC: which trainer and configuration a protocol uses. Sourced by the protocol's script.
TRAINER=PromptSRC
default_cfg() { # PROTOCOL DATASET SHOTS (of crossdata: SOURCE)
  case "$1" in
    base2new) echo vit_b16_c2_ep20_batch4_4+4ctx ;;
    crossdata) echo vit_b16_c2_ep20_batch4_4+4ctx_cross_datasets ;;
    fewshot) echo vit_b16_c2_ep50_batch4_4+4ctx_few_shot ;;
  esac
}
