#!/bin/sh
# Installs what the tests of this crate use beyond Rust, without root: NVRTC, into the folder given
# (default: ~/.cache/aril/nvrtc). Prints the LD_LIBRARY_PATH to set. A C++ compiler for the CPU shim
# must be there already; tests whose tool is missing skip themselves and say so.
set -eu
folder=${1:-"${HOME}/.cache/aril/nvrtc"}
library="$folder/nvidia/cu13/lib"
if [ ! -e "$library/libnvrtc.so.13" ]; then
  python3 -m pip install --quiet --no-deps --target "$folder" nvidia-cuda-nvrtc==13.0.88 >&2
fi
echo "$library"
