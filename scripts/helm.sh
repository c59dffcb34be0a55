#!/usr/bin/env bash
# HELM on a model of ours, as the challenge's organisers ran it; its environment is made first:
#   bash scripts/helm.sh bundle=outputs/train/<run>/bundle scenario.path=<data in HELM's layout>
#   bash scripts/helm.sh bundle=... scenario=smoke                                two entries that need no data
source "$(dirname "$0")/venv.sh"
source scripts/helm_venv.sh
exec python -m effchal.helm "$@"
