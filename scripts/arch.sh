# Sourced by the scripts beside it: turns ARCH (amd64, arm64 or armv7; the build
# machine's own when unset) into the names that Go, Debian and its compilers use.
# shellcheck shell=sh disable=SC2034
case ${ARCH:=$(dpkg --print-architecture)} in
amd64) GOARCH=amd64 DEB_ARCH=amd64 TRIPLET=x86_64-linux-gnu ;;
arm64) GOARCH=arm64 DEB_ARCH=arm64 TRIPLET=aarch64-linux-gnu ;;
armv7 | armhf) ARCH=armv7 GOARCH=arm GOARM=7 DEB_ARCH=armhf TRIPLET=arm-linux-gnueabihf ;;
*)
	echo "ARCH=$ARCH: want amd64, arm64 or armv7" >&2
	exit 2
	;;
esac
