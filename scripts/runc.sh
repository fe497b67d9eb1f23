#!/bin/sh
# Builds runc of the version in go.mod: static, with seccomp.
#   [ARCH=arm64] scripts/runc.sh OUTPUT
# Needs: gcc and pkg-config, libseccomp-dev for the build machine's architecture;
# for another one the cross gcc (gcc-aarch64-linux-gnu, gcc-arm-linux-gnueabihf),
# libseccomp is then fetched. runc stamps its version itself. OUTPUT.packages names
# the Debian packages that are linked into it, and into all that is built with cgo.
set -eu
here=$(dirname "$0")
. "$here/arch.sh"
. "$here/deb.sh"

[ $# -eq 1 ] || { echo "usage: $0 OUTPUT" >&2; exit 2; }

mkdir -p "$(dirname "$1")"
# shellcheck disable=SC2016
format='${Package} ${Version} ${Architecture}\n'
libc=libc6-dev
if [ "$DEB_ARCH" != "$(dpkg --print-architecture)" ]; then
	libc=libc6-dev-$DEB_ARCH-cross
	tmp=$(mktemp -d)
	trap 'rm -rf "$tmp"' EXIT
	(
		apt_for_arch "$tmp/apt"
		deb_unpack "$tmp" libseccomp-dev
	)
	usr=$tmp/root/libseccomp-dev/usr
	export PKG_CONFIG_LIBDIR="$usr/lib/$TRIPLET/pkgconfig"
	# Go keeps what a package was built with, flags too, so none may name a directory
	# that goes: the compiler alone knows it.
	mkdir "$tmp/bin"
	cat >"$tmp/bin/$TRIPLET-seccomp-gcc" <<-END
		#!/bin/sh
		exec ${CC:-$TRIPLET-gcc} -I$usr/include "\$@" -L$usr/lib/$TRIPLET
	END
	chmod 755 "$tmp/bin/$TRIPLET-seccomp-gcc"
	export PATH="$tmp/bin:$PATH"
	CC=$TRIPLET-seccomp-gcc
	dpkg-deb -W --showformat="$format" "$tmp"/deb/libseccomp-dev_*.deb >"$1.packages"
else
	dpkg-query -W -f "$format" libseccomp-dev >"$1.packages"
fi
dpkg-query -W -f "$format" "$libc" >>"$1.packages"

export GOOS=linux GOARCH CGO_ENABLED=1 CC="${CC:-$TRIPLET-gcc}"
[ -z "${GOARM:-}" ] || export GOARM
go build -trimpath -tags 'seccomp netgo osusergo urfave_cli_no_docs' \
	-ldflags '-s -w -linkmode external -extldflags -static' \
	-o "$1" github.com/opencontainers/runc
