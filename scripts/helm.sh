#!/usr/bin/env bash
# HELM on a model of ours, as the challenge's organisers ran it; its environment is made first:
#   bash scripts/helm.sh bundle=outputs/train/<run>/bundle scenario.path=<data in HELM's layout>
#   bash scripts/helm.sh bundle=... scenario=smoke                                two entries that need no data
source "$(dirname "$0")/venv.sh"

# HELM needs older versions of packages of ours, so it lives in an environment of its own.
helm=.venv-helm
if [ ! -f "$helm/installed" ]; then
    echo "Installing HELM into $helm (some minutes, once) ..."
    python -m venv "$helm"
    # Together: alone, HELM's torchvision would move torch to its newest build, several GB of it.
    "$helm/bin/pip" install --quiet --disable-pip-version-check "$(grep '^torch==' constraints.txt)" crfm-helm==0.5.16
    "$helm/bin/pip" uninstall --quiet --yes torchvision # the one that HELM pulls breaks transformers
    touch "$helm/installed"
fi
exec python -m effchal.helm "$@"
