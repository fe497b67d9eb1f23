#!/bin/sh
# image.sh DIR MIRROR <authorized_keys: makes the disk of the tests' machines in
# DIR, an empty directory: disk.raw, vmlinuz, initrd, and sshd's key host.pub.
# It has to run in a mount namespace of its own.
set -eu
dir=$1
mirror=$2
root=$dir/root
export DEBIAN_FRONTEND=noninteractive LC_ALL=C

# file NAME: writes standard input to a file of the disk.
file() {
	mkdir -p "$root/$(dirname "$1")"
	cat >"$root/$1"
}

# The initrd holds what the disk needs, and nothing of other machines. This has to
# be there when the kernel's package is configured.
file etc/initramfs-tools/conf.d/modules <<'END'
MODULES=list
END
file etc/initramfs-tools/hooks/virtio <<'END'
#!/bin/sh
[ "$1" != prereqs ] || exit 0
. /usr/share/initramfs-tools/hook-functions
manual_add_modules virtio_pci virtio_blk ext4
END
chmod 755 "$root/etc/initramfs-tools/hooks/virtio"

# apt's proxy is debootstrap's too.
eval "$(apt-config shell http_proxy Acquire::http::Proxy)"
[ -z "${http_proxy:-}" ] || export http_proxy
debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,udev,openssh-server,linux-image-cloud-amd64,iproute2,iputils-ping,procps,kmod,ca-certificates \
	bookworm "$root" "$mirror"

file etc/fstab <<'END'
/dev/vda / ext4 errors=remount-ro,x-systemd.growfs 0 1
END
file etc/hostname <<'END'
machine
END
file etc/hosts <<'END'
127.0.0.1 localhost
::1 localhost
END
# QEMU's user-mode network, as its DHCP server would tell it.
file etc/systemd/network/eth0.network <<'END'
[Match]
Name=eth0
[Network]
Address=10.0.2.15/24
Gateway=10.0.2.2
END
rm -f "$root/etc/resolv.conf"
file etc/resolv.conf <<'END'
nameserver 10.0.2.3
END
file etc/ssh/sshd_config.d/tests.conf <<'END'
MaxSessions 100
UseDNS no
END
install -d -m 700 "$root/root/.ssh"
file root/.ssh/authorized_keys

# The generator configures the network after the kernel's argument ip=.
systemctl --root="$root" --quiet enable systemd-networkd.service systemd-network-generator.service
# What starts by itself, some time, would disturb a test.
systemctl --root="$root" --quiet mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
	e2scrub_all.timer e2scrub_reap.service fstrim.timer
# Each machine makes its own at its first boot.
: >"$root/etc/machine-id"
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/doc/*

cp "$root"/boot/vmlinuz-* "$dir/vmlinuz"
cp "$root"/boot/initrd.img-* "$dir/initrd"
cp "$root/etc/ssh/ssh_host_ed25519_key.pub" "$dir/host.pub"
mke2fs -q -t ext4 -d "$root" "$dir/disk.raw" 4G
rm -rf "$root"
