#!/bin/sh
# Builds one freestanding C program, static and a few hundred bytes small.
#   [ARCH=arm64] scripts/freestanding.sh SOURCE OUTPUT
# Needs: gcc of the architecture (gcc, gcc-aarch64-linux-gnu, gcc-arm-linux-gnueabihf).
set -eu
. "$(dirname "$0")/arch.sh"

[ $# -eq 2 ] || { echo "usage: $0 SOURCE OUTPUT" >&2; exit 2; }
mode=
[ "$ARCH" = armv7 ] && mode=-marm

mkdir -p "$(dirname "$2")"
# One segment, no build id, nothing for unwinding: the file is its code.
# shellcheck disable=SC2086
"${CC:-$TRIPLET-gcc}" $mode -std=gnu11 -Os -Wall -Wextra -Werror -Wno-unused-parameter \
	-ffreestanding -fno-pie -fno-stack-protector -fno-asynchronous-unwind-tables \
	-fno-tree-loop-distribute-patterns -fomit-frame-pointer \
	-nostdlib -static -no-pie -s \
	-Wl,--build-id=none -Wl,-z,noseparate-code -Wl,-z,norelro -Wl,-z,noexecstack \
	-o "$2" "$1"
