#!/bin/sh
# install.sh cpu|cuda: what a container needs for a run. With cpu torch comes without CUDA, which is gigabytes smaller.
set -eu
cd "$(dirname "$0")"
case "$1" in
    cpu) set -- --extra-index-url https://download.pytorch.org/whl/cpu ;;
    cuda) set -- ;;
    *) echo "install.sh: DEVICE is $1; it must be cpu or cuda" >&2 && exit 1 ;;
esac
apt-get update
apt-get install -y --no-install-recommends git  # with which results record the commit they were made with
rm -rf /var/lib/apt/lists/*
git config --system --add safe.directory '*'
grep -v '^-e ' requirements.txt >pins.txt
python -m pip install --no-cache-dir "$@" -r pins.txt
