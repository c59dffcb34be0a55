#!/usr/bin/env bash
# HELM's own client against a server of ours, as the challenge's organisers ran it:
#   bash scripts/helm.sh bundle=outputs/train/<run>/bundle                        the challenge's scenarios
#   bash scripts/helm.sh bundle=... scenario=smoke                                two that need no data
#   bash scripts/helm.sh bundle=... scenario.path=<data in HELM's layout> 'scenario.entries=[gsm,"mmlu:subject=anatomy"]'
# scenario.* says what HELM runs; every other argument goes to python -m effchal.serve.
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

scenario=() server=()
for argument in "$@"; do
    case "$argument" in
    scenario*) scenario+=("$argument") ;;
    *) server+=("$argument") ;;
    esac
done
out="outputs/helm/$(date +%Y-%m-%d_%H-%M-%S)"
mkdir -p "$out"
python - "${scenario[@]}" >"$out/entries.txt" <<'PYTHON'
import sys

from effchal.cli import compose_config
from effchal.config import ConfigError

try:
    scenario = compose_config(sys.argv[1:]).scenario
except ConfigError as error:
    sys.exit(f"error: {error}")
print(scenario.max_instances, scenario.path or "", sep="\t")
print(*scenario.entries, sep="\n")
PYTHON
IFS=$'\t' read -r max_instances data <"$out/entries.txt" || true
entries=()
while read -r entry; do # HELM separates a run's name from its first argument by ":", others by ","
    case "$entry" in
    *:*) entries+=("$entry,model=neurips/local") ;;
    *) entries+=("$entry:model=neurips/local") ;;
    esac
done < <(tail -n +2 "$out/entries.txt")
if [ -n "$data" ]; then
    cp -r --no-preserve=mode "$data" "$out/scenarios" # a copy: HELM writes lock files beside the data
fi

port=$(python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
python -m effchal.serve "${server[@]}" serve.port="$port" "hydra.run.dir='$out'" >"$out/server.log" 2>&1 &
server_pid=$!
trap 'kill $server_pid 2>/dev/null || true; wait $server_pid 2>/dev/null || true' EXIT
python scripts/wait_ready.py "http://127.0.0.1:$port" 1200 $server_pid || { cat "$out/server.log" >&2; exit 1; }

# Unset, HELM would post to "None/process".
export HELM_HTTP_MODEL_BASE_URL="http://127.0.0.1:$port"
echo "HELM runs ${#entries[@]} entries, $max_instances instances each; its log: $out/helm.log"
"$helm/bin/helm-run" --run-entries "${entries[@]}" --suite effchal --max-eval-instances "$max_instances" \
    --num-threads 4 --output-path "$out" --local-path "$out/prod_env" >"$out/helm.log" 2>&1 || { tail -n 30 "$out/helm.log" >&2; exit 1; }
"$helm/bin/helm-summarize" --suite effchal --output-path "$out" >>"$out/helm.log" 2>&1
python scripts/helm_scores.py "$out"
