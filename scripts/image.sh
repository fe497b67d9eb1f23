#!/bin/sh
# Builds the container image with Buildah, which needs neither Docker nor a daemon.
#   [ARCH=arm64] scripts/image.sh CONTEXT-DIR NAME:TAG OUTPUT
# OUTPUT is an OCI archive: kedge ctr images import, docker load and skopeo take it.
# SOURCE_DATE_EPOCH is what all times in it are set to.
# Needs: root, buildah. The Dockerfile runs nothing, so any architecture will do.
set -eu
. "$(dirname "$0")/arch.sh"

[ $# -eq 3 ] || { echo "usage: $0 CONTEXT-DIR NAME:TAG OUTPUT" >&2; exit 2; }
dockerfile=$(dirname "$0")/../Dockerfile
mkdir -p "$(dirname "$3")"
tmp=$(mktemp -d "$(realpath -m "$3").XXXXXX")
trap 'rm -rf "$tmp"' EXIT

# Nothing of the machine's own storage and configuration of containers is used.
buildah() {
	command buildah --root "$tmp/root" --runroot "$tmp/run" --storage-driver vfs "$@"
}
buildah build --quiet --isolation chroot --format oci --layers=false --timestamp "${SOURCE_DATE_EPOCH:?}" \
	--platform "linux/$GOARCH${GOARM:+/v$GOARM}" --build-arg VERSION="${2##*:}" \
	--tag "$2" --file "$dockerfile" "$1" >/dev/null
buildah push --quiet "$2" "oci-archive:$tmp/archive:$2"
mv "$tmp/archive" "$3"
