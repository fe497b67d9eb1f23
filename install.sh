#!/bin/sh
# install.sh: gets Kedge, checks it, and has it install itself as a service.
#
#   curl -sfL ADDRESS/install.sh | sh -                              a server
#   curl -sfL ADDRESS/install.sh | KEDGE_URL=https://SERVER:6443 KEDGE_TOKEN=K10… sh -
#                                                                    an agent
#   curl -sfL ADDRESS/install.sh | sh -s - --disable ingress         with options
#
# Without a network: put kedge (or kedge-amd64, kedge-arm64, kedge-armhf) beside
# this file and run it.
#
# Variables, all of them optional:
#   INSTALL_KEDGE_VERSION        the version, such as v1.36.3+kedge1
#   INSTALL_KEDGE_CHANNEL        the channel whose version to take (stable)
#   INSTALL_KEDGE_COMMIT         the commit whose build to take
#   INSTALL_KEDGE_URL            the address of a directory that holds kedge-ARCH
#                                and sha256sum-ARCH.txt
#   INSTALL_KEDGE_MIRROR_URL     a mirror of the project's page, with its releases
#   INSTALL_KEDGE_PUBLIC_KEY     a file with the public key that the checksums are
#                                signed with
#   INSTALL_KEDGE_SKIP_DOWNLOAD  true: kedge is in its place already
#   INSTALL_KEDGE_EXEC           the role and its options, with quotes where needed
#   INSTALL_KEDGE_BIN_DIR, _BIN_DIR_READ_ONLY, _SYSTEMD_DIR, _NAME, _TYPE, _SYMLINK,
#   _SKIP_ENABLE, _SKIP_START, _FORCE_RESTART, _TIMEOUT
#                                see kedge install --help
# KEDGE_… is kept for the service.
set -eu

PROJECT=https://github.com/kedge-k8s/kedge
TRIES=3

say() { echo "install.sh: $*" >&2; }
fail() {
	say "$*"
	exit 1
}

# translate_k3s gives k3s's variables Kedge's names, unless those are set too.
translate_k3s() {
	for name in $(env | sed -n 's/^\(\(INSTALL_\)\{0,1\}K3S_[A-Z0-9_]*\)=.*/\1/p'); do
		new=$(echo "$name" | sed 's/K3S_/KEDGE_/')
		if eval "[ -n \"\${$new:-}\" ]"; then
			continue
		fi
		say "$name is of k3s; taking it for $new"
		eval "export $new=\"\$$name\""
	done
}

find_arch() {
	case $(uname -m) in
	x86_64 | amd64) ARCH=amd64 ;;
	aarch64 | arm64) ARCH=arm64 ;;
	armv7* | armv8l) ARCH=armhf ;;
	*) fail "there is no Kedge for the architecture $(uname -m): it is for amd64, arm64 and armv7" ;;
	esac
	# A 32-bit system on a 64-bit kernel.
	if [ "$ARCH" = arm64 ] && [ "$(getconf LONG_BIT 2>/dev/null || echo 64)" = 32 ]; then
		ARCH=armhf
	fi
}

# fetch URL FILE downloads to a file. The file is whole, or not there. A download
# that stands still for a minute is tried again.
fetch() {
	try=1
	while :; do
		$GET "$2" "$1" && return
		rm -f "$2"
		[ "$try" -lt "$TRIES" ] || return 1
		sleep "$try"
		try=$((try + 1))
	done
}

# find_downloader sets GET to a command that takes a file and a URL.
find_downloader() {
	if command -v curl >/dev/null; then
		GET="curl -sfL --connect-timeout 20 --speed-limit 1000 --speed-time 60 -o"
	elif command -v wget >/dev/null; then
		GET="wget -q -O"
		# Not every busybox has it.
		case $(wget --help 2>&1) in
		*-T*) GET="wget -q -T 60 -t 1 -O" ;;
		esac
	else
		fail "neither curl nor wget is here: install one, or put kedge beside this file"
	fi
}

# find_url sets URL to the directory of the release.
find_url() {
	page=${INSTALL_KEDGE_MIRROR_URL:-$PROJECT}
	page=${page%/}
	if [ -n "${INSTALL_KEDGE_URL:-}" ]; then
		URL=${INSTALL_KEDGE_URL%/}
	elif [ -n "${INSTALL_KEDGE_COMMIT:-}" ]; then
		URL=$page/releases/download/commit-$INSTALL_KEDGE_COMMIT
	elif [ -n "${INSTALL_KEDGE_VERSION:-}" ]; then
		URL=$page/releases/download/$(echo "$INSTALL_KEDGE_VERSION" | sed 's/+/%2B/g')
	elif [ "${INSTALL_KEDGE_CHANNEL:-stable}" = stable ]; then
		URL=$page/releases/latest/download
	else
		fetch "$page/releases/download/channels/$INSTALL_KEDGE_CHANNEL" "$WORK/channel" ||
			fail "the channel $INSTALL_KEDGE_CHANNEL is not at $page"
		URL=$page/releases/download/$(head -n 1 "$WORK/channel" | sed 's/+/%2B/g')
	fi
}

sum_of() { sha256sum "$1" | cut -d ' ' -f 1; }

# download gets the program to the file $WORK/kedge, unless the one in place is
# what would come.
download() {
	find_downloader
	find_url
	name=kedge-$ARCH
	fetch "$URL/sha256sum-$ARCH.txt" "$WORK/sums" || fail "$URL/sha256sum-$ARCH.txt can't be had; is that the address of a release? INSTALL_KEDGE_URL names another"
	if [ -n "${INSTALL_KEDGE_PUBLIC_KEY:-}" ]; then
		fetch "$URL/sha256sum-$ARCH.txt.sig" "$WORK/sums.sig" || fail "the checksums at $URL are not signed"
		openssl dgst -sha256 -verify "$INSTALL_KEDGE_PUBLIC_KEY" -signature "$WORK/sums.sig" "$WORK/sums" >/dev/null ||
			fail "the checksums at $URL are not signed by the key in $INSTALL_KEDGE_PUBLIC_KEY"
	fi
	expected=$(sed -n "s/^\([0-9a-f]\{64\}\)[ *]*\(.*\/\)\{0,1\}$name\$/\1/p" "$WORK/sums" | head -n 1)
	[ -n "$expected" ] || fail "$URL/sha256sum-$ARCH.txt names no $name"
	if [ -f "$TARGET" ] && [ "$(sum_of "$TARGET")" = "$expected" ]; then
		say "$TARGET is that version already"
		return
	fi
	say "getting $URL/$name"
	fetch "$URL/$name" "$WORK/kedge" || fail "$URL/$name can't be had"
	got=$(sum_of "$WORK/kedge")
	[ "$got" = "$expected" ] || fail "$URL/$name is damaged: its SHA-256 is $got, and should be $expected; nothing was changed"
}

# beside prints the file that lies beside this script, if it was run as a file.
beside() {
	[ -f "$0" ] || return 0
	here=$(cd "$(dirname "$0")" && pwd)
	for file in "$here/kedge-$ARCH" "$here/kedge"; do
		if [ -f "$file" ] && [ "$file" != "$TARGET" ]; then
			echo "$file"
			return
		fi
	done
}

# quoted prints the words of a text, each of them in quotes. Only blanks, quotes and
# backslashes mean something in the text; no variable or command does.
quoted() {
	words=$(printf '%s\n' "$1" | xargs -r printf '%s\n') || return
	[ -z "$words" ] || printf '%s\n' "$words" | sed "s/'/'\\\\''/g; s/^/'/; s/\$/'/" | tr '\n' ' '
}

main() {
	translate_k3s
	[ "$(id -u)" = 0 ] || fail "this needs root: curl … | sudo sh -"
	find_arch
	BIN=${INSTALL_KEDGE_BIN_DIR:-/usr/local/bin}
	if [ -z "${INSTALL_KEDGE_BIN_DIR:-}" ] && [ "${INSTALL_KEDGE_BIN_DIR_READ_ONLY:-}" != true ]; then
		if ! mkdir -p "$BIN" 2>/dev/null || ! [ -w "$BIN" ]; then
			BIN=/opt/bin
		fi
		export INSTALL_KEDGE_BIN_DIR="$BIN"
	fi
	TARGET=$BIN/kedge
	PROGRAM=$TARGET
	if [ "${INSTALL_KEDGE_SKIP_DOWNLOAD:-}" != true ] && [ "${INSTALL_KEDGE_BIN_DIR_READ_ONLY:-}" != true ]; then
		mkdir -p "$BIN"
		# Here, as programs can be run from here.
		WORK=$(mktemp -d "$BIN/.kedge.XXXXXX")
		trap 'rm -rf "$WORK"' EXIT
		trap 'exit 1' HUP INT TERM
		local_file=$(beside)
		if [ -n "$local_file" ]; then
			say "taking $local_file"
			cp "$local_file" "$WORK/kedge"
		else
			download
		fi
		if [ -f "$WORK/kedge" ]; then
			chmod 755 "$WORK/kedge"
			PROGRAM=$WORK/kedge
		fi
	fi
	[ -x "$PROGRAM" ] || fail "there is no $PROGRAM"
	if [ -n "${INSTALL_KEDGE_EXEC:-}" ]; then
		words=$(quoted "$INSTALL_KEDGE_EXEC") || fail "INSTALL_KEDGE_EXEC is no list of words"
		eval "set -- $words \"\$@\""
	fi
	# It puts itself in place of the program there, once it has checked all else.
	"$PROGRAM" install "$@"
}

# All of it is here before any of it is run.
main "$@"
