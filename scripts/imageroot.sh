#!/bin/sh
# Makes the root file system of the container image: the kedge file, and around it
# what a machine has and Kedge does not bring: mount, which the kubelet calls, from
# Debian's packages; a shell and its tools for whoever looks inside, from
# busybox-static; and the certificates that registries are known by.
#   [ARCH=arm64] scripts/imageroot.sh KEDGE-FILE VERSION OUTPUT-DIR
# OUTPUT-DIR/usr/share/kedge/packages names the packages and versions; their
# licences stay in usr/share/doc.
# Needs: apt-get, dpkg-deb, ca-certificates.
set -eu
here=$(dirname "$0")
. "$here/arch.sh"
. "$here/deb.sh"

[ $# -eq 3 ] || { echo "usage: $0 KEDGE-FILE VERSION OUTPUT-DIR" >&2; exit 2; }
version=$2
mkdir -p "$(dirname "$3")"
out=$(realpath -m "$3")
tmp=$(mktemp -d "$out.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
root=$tmp/image
mkdir -m 755 "$root"

(
	apt_for_arch "$tmp/apt"
	# shellcheck disable=SC2046
	deb_unpack "$tmp" $(deb_closure mount) busybox-static
)
mkdir -p "$root/usr/share/kedge"
for package in "$tmp"/root/*; do
	cp -a "$package/." "$root/"
	# shellcheck disable=SC2016
	dpkg-deb -W --showformat='${Package} ${Version} ${Architecture}\n' \
		"$tmp/deb/$(basename "$package")"_*.deb
done >"$root/usr/share/kedge/packages"
find "$root/usr/share/doc" ! -type d ! -name copyright -delete
find "$root" -depth -type d \( -name gconv -o -name man -o -name locale -o -name bash-completion -o -name lintian \
	-o -name perl5 -o -name initramfs-tools -o -path "$root/etc" \) -exec rm -rf {} +
find "$root/usr/share/doc" -type d -empty -delete

for tool in '[' ash cat chmod chown cp cut date dd df dmesg du echo env false find free grep gunzip gzip head \
	hostname id ip kill less ln ls lsof mkdir modprobe more mountpoint mv nc netstat nslookup ping ps pwd \
	readlink rm rmdir route sed seq sh sleep sort stat sync tail tar tee test timeout top touch tr true \
	uname uniq uptime vi wc wget which xargs; do
	[ -e "$root/bin/$tool" ] || ln -s busybox "$root/bin/$tool"
done

install -m 755 "$1" "$root/bin/kedge"
for tool in kubectl crictl ctr; do
	ln -s kedge "$root/bin/$tool"
done
mkdir -m 1777 "$root/tmp"
mkdir -p "$root/run" "$root/proc" "$root/sys" "$root/dev" "$root/root" "$root/etc/ssl/certs" "$root/var/log"
ln -s /run "$root/var/run"
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
echo 'root:x:0:' >"$root/etc/group"
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
printf 'ID=kedge\nNAME=Kedge\nVERSION_ID="%s"\nPRETTY_NAME="Kedge %s in a container"\n' "$version" "$version" \
	>"$root/etc/os-release"

rm -rf "$out"
mv "$root" "$out"
