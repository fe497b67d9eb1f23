#!/bin/sh
# Puts nft in a box: Debian's nft program, the shared libraries it needs and their
# dynamic loader (as ld.so) in one flat directory that runs on any Linux of the
# architecture, whatever C library that has. bin/nft (cmd/nftbox) runs it.
#   [ARCH=arm64] scripts/nftbox.sh OUTPUT-DIR
# OUTPUT-DIR/packages names the packages and versions the files come from,
# OUTPUT-DIR/copyright holds their licences.
# Needs: apt-get, dpkg-deb, readelf. Nothing is taken from the host's own packages.
set -eu
here=$(dirname "$0")
. "$here/arch.sh"
. "$here/deb.sh"

[ $# -eq 1 ] || { echo "usage: $0 OUTPUT-DIR" >&2; exit 2; }
mkdir -p "$(dirname "$1")"
out=$(realpath -m "$1")
tmp=$(mktemp -d "$out.XXXXXX")
trap 'rm -rf "$tmp"' EXIT

fail() {
	echo "$0: $*" >&2
	exit 1
}

apt_for_arch "$tmp/apt"
packages=$(deb_closure nftables)
# shellcheck disable=SC2086
deb_unpack "$tmp" $packages
mkdir -p "$tmp/box/copyright"

# take FILE [AS]: copies a file of any of the packages, and what it says it needs.
take() {
	as=${2:-$1}
	[ ! -e "$tmp/box/$as" ] || return 0
	from=$(find "$tmp/root" \( -path '*/*bin/*' -o -path '*/lib/*' \) -name "$1" | sort | head -n 1)
	[ -n "$from" ] || fail "nothing that nftables depends on has the file $1"
	cp -L --preserve=mode,timestamps "$from" "$tmp/box/$as"

	package=${from#"$tmp/root/"}
	package=${package%%/*}
	cp -L --preserve=timestamps "$tmp/root/$package/usr/share/doc/$package/copyright" "$tmp/box/copyright/$package"

	for needed in $(readelf -dW "$tmp/box/$as" | sed -n 's/.*(NEEDED).*\[\(.*\)\]$/\1/p'); do
		[ "$needed" = "$loader" ] || take "$needed"
	done
}

nft=$(find "$tmp/root/nftables" -type f -name nft)
loader=$(readelf -lW "$nft" | sed -n 's|.*program interpreter: .*/\(.*\)\]$|\1|p')
[ -n "$loader" ] || fail "nft names no dynamic loader"
take "$loader" ld.so
take nft

for package in "$tmp"/box/copyright/*; do
	# shellcheck disable=SC2016
	dpkg-deb -W --showformat='${Package} ${Version} ${Architecture}\n' \
		"$tmp/deb/$(basename "$package")"_*.deb
done >"$tmp/box/packages"

rm -rf "$out"
mv "$tmp/box" "$out"
