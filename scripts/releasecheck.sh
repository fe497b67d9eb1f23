#!/bin/sh
# Checks the files of a release: sums, sizes, bills of materials, and that each
# kedge file unpacks and runs on its architecture. Those of others run under
# qemu-user, which the kernel is told of in a user namespace that ends with this
# script: the machine itself is not changed.
#   scripts/releasecheck.sh DIST-DIR VERSION ARCH…
# ARCH is amd64, arm64 or armhf.
# Needs: unshare, a kernel from 6.7 with user namespaces; qemu-user-static.
set -eu

[ $# -ge 3 ] || { echo "usage: $0 DIST-DIR VERSION ARCH…" >&2; exit 2; }
# The second time, in namespaces of its own.
if [ "$1" != --inside ]; then
	exec unshare --user --map-root-user --mount --propagation private "$0" --inside "$@"
fi
dist=$2
version=$3
shift 3
limit=95000000

fail() {
	echo "$0: $*" >&2
	exit 1
}

# handle ARCH CPU: has the kernel run programs of ARCH under qemu.
handle() {
	[ "$1" != "$(dpkg --print-architecture)" ] || return 0
	handler=/usr/lib/binfmt.d/qemu-$2.conf
	[ -r "$handler" ] || fail "$handler is missing: install qemu-user-static"
	cat "$handler" >/proc/sys/fs/binfmt_misc/register
}

mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
handle arm64 aarch64
handle armhf arm
data=$(mktemp -d)
trap 'rm -rf "$data"' EXIT

check() {
	file=$dist/kedge-$1
	size=$(stat -c %s "$file")
	[ "$size" -lt $limit ] || fail "$file has $size bytes, the limit is $limit"
	(cd "$dist" && sha256sum --check --quiet "sha256sum-$1.txt") || fail "sha256sum-$1.txt is wrong"
	sum=$(sha256sum "$file" | cut -d ' ' -f 1)
	grep -q '"bomFormat": "CycloneDX"' "$file.cdx.json" || fail "$file.cdx.json is no bill of materials"
	grep -q "\"$sum\"" "$file.cdx.json" || fail "$file.cdx.json is about another file"

	export KEDGE_DATA_DIR="$data/$1"
	got=$("$file" --version 2>"$data/stderr") || fail "$file --version: $(cat "$data/stderr")"
	case $got in
	*"$version"*) ;;
	*) fail "$file --version says $got, not $version" ;;
	esac
	root=$(echo "$KEDGE_DATA_DIR"/data/*)
	for program in "runc --version" "containerd-shim-runc-v2 -v"; do
		# shellcheck disable=SC2086
		"$root"/bin/$program >/dev/null || fail "$file: $program does not run"
	done
	# qemu-user knows no sockets of the packet filter, without which nft ends.
	"$root/bin/nft" --version 2>&1 | grep -q -e '^nftables v' -e 'initialize Netlink socket' || fail "$file: nft does not run"
	"$file" kubectl version --client >/dev/null || fail "$file kubectl does not run"
	# What it finds is about this machine, and under qemu about a part of it.
	"$file" check-config >"$data/findings" 2>"$data/stderr" || [ $? -eq 1 ] || fail "$file check-config: $(cat "$data/stderr")"
	grep -q -i cgroup "$data/findings" || fail "$file check-config finds nothing: $(cat "$data/stderr")"
	printf '%s\t%s.%s MB\t%s\n' "$file" $((size / 1000000)) $((size / 100000 % 10)) "$(echo "$got" | head -n 1)"
}

sh -n "$dist/install.sh" || fail "$dist/install.sh is missing or no script"
for arch in "$@"; do
	check "$arch"
done
