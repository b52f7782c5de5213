#!/usr/bin/env bash
# The tests on a stock Debian kernel, with cgroup v2, AppArmor, ipvlan, VLANs, netem and all else that a kernel in the
# cloud may lack. Usage:
#
#     tests/vm/run.sh                   what `make test-vm` runs: tests/vm/suite
#     tests/vm/run.sh --tests FILTER    the tests that nextest finds by this, ignored or not
#     tests/vm/run.sh COMMAND...        anything else, as root on that machine
#
# The machine is emulated by qemu (with the processor's help where that is there). Its root is this machine's, read-only,
# below a layer in memory, so that whatever the tests do is gone with it. Nothing is installed for it but qemu and kmod: the kernel's
# package is unpacked into target/vm. The last line that is printed is the verdict; where the lane cannot run, it says so, and
# that is no failure.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
workspace=$(cd "$here/../.." && pwd)
lane=$workspace/target/vm
limit=${RNET_VM_LIMIT:-2400} # seconds
memory=${RNET_VM_MEMORY:-5G}
packages=(linux-image-amd64 busybox-static)

cannot() { echo "test-vm: NOT RUN: $*"; exit 0; }
fail() { echo "test-vm: FAILED: $*"; exit 1; }

# Downloads packages and unpacks them; the kernel's has its version in its name.
unpack() { # unpack NAME DIRECTORY
    local name=$1 into=$2
    [ ! -e "$into" ] || return 0
    rm -rf "$into.part" && mkdir -p "$into.part/deb"
    (cd "$into.part/deb" && apt-get download -qq "$name") >/dev/null 2>&1 || return 1
    dpkg -x "$into.part"/deb/*.deb "$into.part" && rm -r "$into.part/deb" && mv "$into.part" "$into"
}

# The package that the one without a version in its name stands for.
newest_kernel() {
    apt-cache depends "${packages[0]}" 2>/dev/null | sed -n 's/^  Depends: //p' | head -n 1
}

# What the machine is made of.
fetch() {
    [ "$(uname -m)" = x86_64 ] || cannot "the lane knows machines with x86_64 only"
    command -v apt-get >/dev/null || cannot "it takes its kernel from Debian's packages, and there is no apt-get"
    "$here/../setup.sh" vm || cannot "what it needs could not be installed"
    mkdir -p "$lane"
    if [ ! -e "$lane/kernel" ]; then
        local kernel
        kernel=$(newest_kernel)
        [ -n "$kernel" ] || { apt-get update -qq; kernel=$(newest_kernel); }
        [ -n "$kernel" ] || cannot "apt knows no package ${packages[0]}; try apt-get update"
        unpack "$kernel" "$lane/kernel" || cannot "the package $kernel could not be downloaded"
    fi
    unpack "${packages[1]}" "$lane/busybox" || cannot "the package ${packages[1]} could not be downloaded"
}

# What has to be loaded before the root can be seen.
early_modules() {
    local name
    for name in virtio_pci 9p 9pnet_virtio overlay virtio_rng virtio_console; do
        modprobe --dirname "$lane/kernel" --set-version "$version" --show-depends "$name"
    done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }'
}

make_initramfs() {
    local root=$lane/initramfs module
    rm -rf "$root" && mkdir -p "$root/bin" "$root/modules"
    cp "$lane/busybox/bin/busybox" "$root/bin/"
    install -m 755 "$here/init" "$root/init"
    echo "$lane" >"$root/lane"
    for module in $(early_modules); do
        cp "$module" "$root/modules/" && basename "$module" >>"$root/modules/order"
    done
    (cd "$root" && find . | cpio --quiet -o -H newc | gzip -1) >"$lane/initramfs.gz"
}

# What is to be run, and where it tells of it.
prepare() {
    rm -rf "$lane/out" && mkdir -p "$lane/out"
    install -m 755 "$here/inside" "$lane/out/inside"
    printf '%q ' "$@" >"$lane/out/command"
    {
        printf 'export PATH=%q\n' "$PATH"
        printf 'export HOME=%q\n' "$HOME"
        printf 'export RNET_VM=/run/out\n'
        printf 'export RNET_TEST_PATIENCE=%q\n' "$patience"
        printf 'cd %q\n' "$workspace"
    } >"$lane/out/environment"
}

# Programs and tests are built here and only run there. The programs twice: `suite` lays the optimised ones, which are what
# users run, over those that the tests were built with.
build() {
    local cargo=${CARGO:-cargo} packages=(--package netns-tests --package engine --package shim --package runtime)
    "$cargo" build --quiet --workspace --bins &&
        "$cargo" build --quiet --release --workspace --bins &&
        "$cargo" metadata --format-version 1 >"$lane/out/cargo.json" &&
        "$cargo" nextest list "${packages[@]}" --list-type binaries-only --message-format json >"$lane/out/binaries.json"
}

boot() {
    # A processor without AVX: what programs do with that, emulation does at half the speed.
    local accelerator=(-accel "tcg,thread=multi" -cpu Nehalem)
    [ "$patience" != 1 ] || accelerator=(-accel kvm -cpu host)
    local share="path=/,security_model=passthrough,readonly=on,multidevs=remap"
    local append="console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on apparmor=1 security=apparmor"
    timeout "$limit" qemu-system-x86_64 "${accelerator[@]}" -smp 2 -m "$memory" -display none -monitor none \
        -serial stdio -no-reboot -nic none -device virtio-rng-pci \
        -kernel "$lane/kernel/boot/vmlinuz-$version" -initrd "$lane/initramfs.gz" -append "$append" \
        -fsdev "local,id=root,$share" -device virtio-9p-pci,fsdev=root,mount_tag=root \
        -fsdev "local,id=out,path=$lane/out,security_model=none" -device virtio-9p-pci,fsdev=out,mount_tag=out \
        </dev/null >"$lane/out/console" 2>&1 &
    machine=$!
    wait "$machine" || true
}

[ "$(id -u)" = 0 ] || cannot "the machine sees this one's files as root does: run it as root"
fetch
version=$(basename "$lane"/kernel/lib/modules/*)
[ -e "$lane/kernel/lib/modules/$version/modules.dep" ] || depmod --basedir "$lane/kernel" "$version"
make_initramfs
# An emulated processor is that much slower; the limits of the tests are longer by as much.
patience=8
if grep -qwE 'vmx|svm' /proc/cpuinfo && [ -w /dev/kvm ]; then patience=1; fi
case "${1:-}" in
"") set -- tests/vm/suite ;;
--tests) set -- tests/vm/suite "${2:?which tests?}" ;;
esac
prepare "$@"
[ "$1" != tests/vm/suite ] || build || fail "the tests could not be built"

echo "booting Linux $version (log: $lane/out/log)"
began=$SECONDS
: >"$lane/out/log"
tail --follow --lines=+1 "$lane/out/log" &
follower=$!
machine=
trap 'kill "$follower" $machine 2>/dev/null || true' EXIT
boot
sleep 1 # for the last lines
took="$((SECONDS - began)) s on Linux $version"
code=$(cat "$lane/out/code" 2>/dev/null) || { tail -n 20 "$lane/out/console"; fail "it did not end within $limit s, or never began"; }
[ "$code" = 0 ] || fail "see above ($took)"
echo "test-vm: PASSED ($took)"
