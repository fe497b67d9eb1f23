#!/bin/sh
# Builds containerd-shim-runc-v2 of the containerd version in go.mod, static, with
# the tags that containerd builds it with.
#   [ARCH=arm64] scripts/shim.sh OUTPUT
set -eu
. "$(dirname "$0")/arch.sh"

[ $# -eq 1 ] || { echo "usage: $0 OUTPUT" >&2; exit 2; }

containerd=github.com/containerd/containerd/v2
version=$(go list -m -f '{{.Version}}' $containerd)
export GOOS=linux GOARCH CGO_ENABLED=0
[ -z "${GOARM:-}" ] || export GOARM
go build -trimpath -tags 'no_grpc urfave_cli_no_docs' \
	-ldflags "-s -w -X $containerd/version.Version=$version" \
	-o "$1" $containerd/cmd/containerd-shim-runc-v2
