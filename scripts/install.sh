#!/usr/bin/env bash
# Install the pinned packages into .venv, and nothing else.
source "$(dirname "$0")/venv.sh"
echo "Installed. To have the command effchal in this shell:"
echo "  export PATH=\"$PWD/$VENV/bin:\$PATH\""
