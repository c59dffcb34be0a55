#!/usr/bin/env bash
# Pictures of the report of some runs: light.png, dark.png and narrow.png.
#   bash scripts/screenshots.sh experiments/report/runs experiments/report
set -euo pipefail
cd "$(dirname "$0")/.."
runs=${1:-experiments/report/runs} into=${2:-experiments/report}
browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome) ||
    { echo "no Chromium here" >&2; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python -m effchal report "$runs" --output "$work/report.html"

picture() { # name, window, colour scheme (0 = dark, 1 = light)
    timeout 120 "$browser" --headless=new --no-sandbox --disable-gpu --hide-scrollbars \
        --user-data-dir="$work/profile" --virtual-time-budget=10000 --window-size="$2" \
        --blink-settings=preferredColorScheme="$3" --screenshot="$work/$1.png" \
        "file://$work/report.html" 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
    mv "$work/$1.png" "$into/$1.png"
    echo "$into/$1.png"
}
picture light 1280,1900 1
picture dark 1280,1900 0
picture narrow 360,1900 1
