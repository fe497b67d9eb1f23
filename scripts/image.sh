#!/bin/sh
# Builds the container image with BuildKit, which is started for it and ended
# after it; no Docker is needed.
#   [ARCH=arm64] scripts/image.sh BUILDKITD BUILDCTL RUNC CONTEXT-DIR NAME:TAG OUTPUT
# OUTPUT is an OCI archive: kedge ctr images import, docker load and skopeo take it.
# SOURCE_DATE_EPOCH is what all times in it are set to.
# Needs: root, for mounts. The Dockerfile runs nothing, so any architecture will do.
set -eu
. "$(dirname "$0")/arch.sh"

[ $# -eq 6 ] || { echo "usage: $0 BUILDKITD BUILDCTL RUNC CONTEXT-DIR NAME:TAG OUTPUT" >&2; exit 2; }
: "${SOURCE_DATE_EPOCH:?}"
tmp=$(mktemp -d)
daemon=
finish() {
	if [ -n "$daemon" ] && kill "$daemon" 2>/dev/null; then
		wait "$daemon" || :
	fi
	rm -rf "$tmp"
}
trap finish EXIT

address=unix://$tmp/socket
"$1" --addr "$address" --root "$tmp/state" --containerd-worker=false \
	--oci-worker-binary "$(realpath "$3")" --oci-worker-net host --oci-worker-snapshotter native \
	>"$tmp/log" 2>&1 &
daemon=$!
tries=0
until "$2" --addr "$address" debug workers >/dev/null 2>&1; do
	tries=$((tries + 1))
	if [ $tries -gt 120 ] || ! kill -0 "$daemon" 2>/dev/null; then
		echo "$0: buildkitd did not start within a minute:" >&2
		tail -n 5 "$tmp/log" >&2
		exit 1
	fi
	sleep 0.5
done

mkdir -p "$(dirname "$6")"
"$2" --addr "$address" build --progress plain --frontend dockerfile.v0 \
	--local context="$4" --local dockerfile="$(dirname "$0")/.." \
	--opt platform="linux/$GOARCH${GOARM:+/v$GOARM}" \
	--opt build-arg:VERSION="${5##*:}" --opt build-arg:SOURCE_DATE_EPOCH="$SOURCE_DATE_EPOCH" \
	--output "type=oci,name=$5,dest=$6.new,rewrite-timestamp=true"
mv "$6.new" "$6"
