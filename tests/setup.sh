#!/usr/bin/env bash
# Installs the Debian packages that building, testing and the demo need, if they are missing.
# Usage: tests/setup.sh [vm]    with `vm` also what the machine of tests/vm needs
set -euo pipefail

packages=()
need() { # need COMMAND PACKAGE
    command -v "$1" >/dev/null 2>&1 || packages+=("$2")
}

need cc gcc
need c++ g++
need protoc protobuf-compiler
need crun crun
need runc runc
need nft nftables
need iptables-legacy iptables
need ip iproute2
need docker docker.io
need docker-compose docker-compose
need openssl openssl
need docker-registry docker-registry
need skopeo skopeo
need mkfs.ext4 e2fsprogs
need dnsmasq dnsmasq-base
need etcd etcd-server
need etcdctl etcd-client
need ethtool ethtool
need apparmor_parser apparmor
need xz xz-utils
need busybox busybox-static
need debootstrap debootstrap
if [ "${1:-}" = vm ]; then
    need qemu-system-x86_64 qemu-system-x86
    need depmod kmod
    need cpio cpio
fi
python3 -c "import docker" 2>/dev/null || packages+=(python3-docker)
[ -e /usr/include/google/protobuf/empty.proto ] || packages+=(libprotobuf-dev)
[ -e /usr/lib/x86_64-linux-gnu/libc.a ] || [ "$(uname -m)" != x86_64 ] || packages+=(libc6-dev)

if [ "${#packages[@]}" -gt 0 ]; then
    [ "$(id -u)" = 0 ] || { echo "missing: ${packages[*]}; install them, or run this as root" >&2; exit 1; }
    # A package that brings a daemon must not start it here.
    policy=/usr/sbin/policy-rc.d
    made=
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy" && made=1
    fi
    trap '[ -z "$made" ] || rm -f "$policy"' EXIT
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
fi

cargo nextest --version >/dev/null 2>&1 || cargo install --quiet --locked cargo-nextest
