#!/usr/bin/env bash
# Build both images from an empty cache with buildah, and run them. As root; 10 to 20 minutes on 2 cores.
#   bash scripts/check_images.sh                                 on a base image made by debootstrap
#   BASE_IMAGE=python:3.11-slim bash scripts/check_images.sh     on one of a registry
#   BUILDAH_ISOLATION=chroot bash scripts/check_images.sh        inside a container
# Prints a table of every check; the exit status is 1 if one failed. All that it makes lies in a
# temporary folder below TMPDIR (10 GB) and is removed. Where pip finds packages on this machine
# (pip config list), the builds find them, too.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"
export MODEL=outputs/models/smollm2_135m # of experiment=quickstart
for program in buildah hadolint ip python3 unshare; do
    command -v "$program" >/dev/null || { echo "error: no $program here" >&2; exit 2; }
done
[ "$(id -u)" = 0 ] || { echo "error: not root; put sudo or buildah unshare before it" >&2; exit 2; }
[ -f "$MODEL/config.json" ] || { echo "error: no $MODEL; run python scripts/fetch.py smollm2_135m" >&2; exit 2; }
source scripts/helm_venv.sh
export HELM_PYTHON="$PWD/$helm/bin/python"

WORK=$(mktemp -d)
export WORK BUILDAH="buildah --root $WORK/storage --runroot $WORK/run"
clean_up() {
    $BUILDAH rm --all >/dev/null || true
    $BUILDAH rmi --all --force >/dev/null || true
    umount "$WORK/storage/overlay" 2>/dev/null || true
    rm -rf --one-file-system "$WORK"
}
trap clean_up EXIT

row() { # check, result, seconds since SECONDS was set to 0
    printf '| %s | %s | %s |\n' "$1" "$2" "$SECONDS s"
}

failed() { # check, log
    row "$1" "**failed**"
    tail -n 20 "$2" >&2
    exit 1
}

# pip's settings of this machine as a file, and the options that mount it and what it names.
mapfile -t mounts < <(python3 - "$WORK/pip.conf" <<'PYTHON'
import ast, pathlib, subprocess, sys
listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True)
settings = {}
for line in listed.stdout.splitlines():
    name, _, value = line.partition("=")
    settings.setdefault(name.rpartition(".")[2], ast.literal_eval(value))
lines = [f"{name} = {value}\n" for name, value in settings.items()]
pathlib.Path(sys.argv[1]).write_text("".join(["[global]\n", *lines]))
print(f"--volume={sys.argv[1]}:/etc/pip.conf:ro")
for word in " ".join(settings.values()).split():
    path = pathlib.Path(word.removeprefix("file://"))
    if path.is_absolute() and path.exists():
        path = path.parent if path.name == "simple" else path  # an index links to files beside it
        print(f"--volume={path}:{path}:ro")
PYTHON
)

build() { # image, context, Dockerfile, more options; leaves the log in $WORK/<image>.log
    local image=$1 context=$2 dockerfile=$3
    shift 3
    $BUILDAH build --layers --format docker "${mounts[@]}" --build-arg BASE_IMAGE="$BASE_IMAGE" --tag "localhost/$image" \
        --file "$context/$dockerfile" "$@" "$context" >"$WORK/$image.log" 2>&1
}

size() {
    $BUILDAH images --format '{{.Size}}' "localhost/$1"
}

SECONDS=0
echo "$(buildah --version), $(nproc --all) cores, OMP_NUM_THREADS=${OMP_NUM_THREADS:-}, $(date -I)"
echo
echo "| check | result | time |"
echo "|---|---|---|"
hadolint Dockerfile.serve Dockerfile.train
row "hadolint on both Dockerfiles" "clean"

if [ -z "${BASE_IMAGE:-}" ]; then
    SECONDS=0
    suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates "$suite" "$WORK/base" \
        >"$WORK/base.log" 2>&1 || failed "base image by debootstrap" "$WORK/base.log"
    printf 'FROM scratch\nADD base /\n' >"$WORK/Dockerfile"
    $BUILDAH build --quiet --tag localhost/base --file "$WORK/Dockerfile" "$WORK" >"$WORK/base.log" 2>&1 \
        || failed "base image by debootstrap" "$WORK/base.log"
    rm -rf "$WORK/base"
    BASE_IMAGE=localhost/base
    row "base image by debootstrap ($suite)" "$(size base)"
fi

for name in train serve; do
    SECONDS=0
    build "effchal-$name" . "Dockerfile.$name" || failed "build of effchal-$name" "$WORK/effchal-$name.log"
    row "build of effchal-$name" "$(size "effchal-$name")"
done

# The containers run in a network of their own: port 80 is free there as in Docker, and no hub is near.
checks() {
    unshare --net bash -c 'ip link set lo up; echo 0 >/proc/sys/net/ipv4/ip_unprivileged_port_start; exec "$@"' \
        checks python3 scripts/image_checks.py "$1"
}
checks train
checks serve

# A folder to hand in: the Dockerfile, the code, a bundle and its base model.
handed=$WORK/handed
mkdir "$handed"
cp -r .dockerignore Dockerfile.serve LICENSE-* README.md conf constraints.txt effchal pyproject.toml "$handed"
cp -r "$WORK/train/killed/bundle" "$handed/bundle"
cp -rL "$MODEL" "$handed/base_model"
bake() {
    SECONDS=0
    build "effchal-baked" "$handed" Dockerfile.serve --build-arg BUNDLE=bundle --build-arg BASE_MODEL=base_model
}
refused() { # check
    if bake; then
        failed "$1" "$WORK/effchal-baked.log"
    fi
    row "$1" "the build fails: $(grep -m 1 '^error: ' "$WORK/effchal-baked.log")"
}
adapter=$handed/bundle/adapter/adapter_model.safetensors
printf 'x' | dd of="$adapter" bs=1 seek=1000 conv=notrunc status=none
refused "bundle with a changed byte"
cp "$WORK/train/killed/bundle/adapter/adapter_model.safetensors" "$adapter"
echo >>"$handed/base_model/config.json"
refused "another base model"
cp "$MODEL/config.json" "$handed/base_model/config.json"
bake || failed "build with bundle and base model" "$WORK/effchal-baked.log"
row "build with bundle and base model, layers of the others reused" "$(size effchal-baked)"
checks baked
