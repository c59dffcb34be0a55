# Sourced: HELM in an environment of its own, because it needs older versions of packages of ours.
helm=.venv-helm
if [ ! -f "$helm/installed" ]; then
    echo "Installing HELM into $helm (some minutes, once) ..."
    python3 -m venv "$helm"
    # Together: alone, HELM's torchvision would move torch to its newest build, several GB of it.
    "$helm/bin/pip" install --quiet --disable-pip-version-check "$(grep '^torch==' constraints.txt)" crfm-helm==0.5.16
    "$helm/bin/pip" uninstall --quiet --yes torchvision # the one that HELM pulls breaks transformers
    touch "$helm/installed"
fi
