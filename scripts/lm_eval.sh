#!/usr/bin/env bash
# lm-eval's tasks on a model of ours, from a checkout without an environment:
#   bash scripts/lm_eval.sh outputs/train/<run> 'tasks=[hellaswag,arc_challenge,gsm8k,ifeval]'
source "$(dirname "$0")/venv.sh"
exec python -m effchal.lm_eval "$@" # which makes lm-eval's own environment
