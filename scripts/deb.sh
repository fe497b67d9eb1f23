# Sourced by the scripts beside it, after arch.sh: Debian packages of DEB_ARCH,
# unpacked without installing them. The host's package state is not changed;
# packages of a foreign architecture come through package lists of their own.
# shellcheck shell=sh

# apt_for_arch DIR: makes apt speak of DEB_ARCH, with its state in DIR.
apt_for_arch() {
	[ "$DEB_ARCH" != "$(dpkg --print-architecture)" ] || return 0
	mkdir -p "$1/lists/partial" "$1/cache"
	: >"$1/status"
	cat >"$1/apt.conf" <<-END
		APT::Architecture "$DEB_ARCH";
		APT::Architectures { "$DEB_ARCH"; };
		Dir::State "$1";
		Dir::State::status "$1/status";
		Dir::Cache "$1/cache";
	END
	export APT_CONFIG="$1/apt.conf"
	# One list that a mirror is just changing leaves the others usable; a package
	# that is in none is missed below.
	apt_quiet get update || echo "warning: not all package lists of $DEB_ARCH could be had: its packages may not be the newest" >&2
}

# apt_quiet TOOL ARGS…: apt-TOOL, which may write where root keeps its files.
apt_quiet() {
	tool=$1
	shift
	"apt-$tool" -qq -o APT::Sandbox::User=root -o Acquire::Retries=3 "$@"
}

# deb_closure PACKAGE: the package and all that it depends on.
deb_closure() {
	apt_quiet cache depends --recurse --no-recommends --no-suggests --no-conflicts \
		--no-breaks --no-replaces --no-enhances "$1" | sed -n 's/^\([a-z0-9][^ :]*\).*/\1/p' | sort -u
}

# deb_unpack DIR PACKAGE…: downloads to DIR/deb, unpacks to DIR/root/PACKAGE.
deb_unpack() {
	dir=$1
	shift
	mkdir -p "$dir/deb" "$dir/root"
	(cd "$dir/deb" && apt_quiet get download "$@")
	for deb in "$dir"/deb/*.deb; do
		dpkg-deb -x "$deb" "$dir/root/$(dpkg-deb -f "$deb" Package)"
	done
}
