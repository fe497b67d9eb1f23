#!/bin/sh
# layer.sh DIR BASE MIRROR SETUP PACKAGE…: makes DIR/layer.tar, what installing
# Debian packages and then running the shell commands SETUP add to the root file
# system BASE. If there is no BASE, a minimal Debian becomes it. What packages
# leave behind for other images is kept in BASE.apt. It has to run in mount and
# process namespaces of its own.
set -eu
mount --make-rprivate /
dir=$1
base=$2
mirror=$3
setup=$4
shift 4
export DEBIAN_FRONTEND=noninteractive LC_ALL=C

# apt's proxy is debootstrap's too.
eval "$(apt-config shell http_proxy Acquire::http::Proxy)"
[ -z "${http_proxy:-}" ] || export http_proxy

# Each node makes its own devices; the kubelet writes resolv.conf and hostname.
archive() {
	tar --numeric-owner --sort=name -C "$1" -cf "$dir/layer.tar" \
		--exclude='./dev/*' --exclude='./proc/*' --exclude='./sys/*' --exclude=./etc/resolv.conf --exclude=./etc/hostname \
		--exclude='./var/cache/apt/*' --exclude='./var/lib/apt/lists/*' --exclude='./var/log/*.log' --exclude='./var/log/apt/*' \
		--exclude='./usr/share/doc/*' --exclude='./usr/share/man/*' --exclude='./usr/share/locale/*' .
}

if [ ! -d "$base" ]; then
	rm -rf "$base.new"
	debootstrap --variant=minbase bookworm "$base.new" "$mirror"
	printf '#!/bin/sh\nexit 101\n' >"$base.new/usr/sbin/policy-rc.d"
	chmod 755 "$base.new/usr/sbin/policy-rc.d"
	for path in doc man locale; do
		echo "path-exclude=/usr/share/$path/*"
	done >"$base.new/etc/dpkg/dpkg.cfg.d/small"
	archive "$base.new"
	mv "$base.new" "$base"
	exit
fi

mkdir -p "$base.apt/lists/partial" "$base.apt/cache/archives/partial" "$dir/upper" "$dir/work" "$dir/root"
root=$dir/root
mount -t overlay overlay -o "lowerdir=$base,upperdir=$dir/upper,workdir=$dir/work" "$root"
mount --bind "$base.apt/lists" "$root/var/lib/apt/lists"
mount --bind "$base.apt/cache" "$root/var/cache/apt"
mount -t proc proc "$root/proc"
[ -s "$base.apt/updated" ] || { chroot "$root" apt-get update -q && date >"$base.apt/updated"; }
chroot "$root" apt-get install -q -y --no-install-recommends "$@"
chroot "$root" sh -euc "$setup"
umount "$root/proc" "$root/var/cache/apt" "$root/var/lib/apt/lists" "$root"
# A file that was removed is a device to overlayfs, and an empty file to OCI.
find "$dir/upper" -type c | while read -r removed; do
	rm "$removed"
	: >"$(dirname "$removed")/.wh.$(basename "$removed")"
done
archive "$dir/upper"
