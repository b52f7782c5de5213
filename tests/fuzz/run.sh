#!/usr/bin/env bash
# Runs fuzz targets for a while each: run.sh SECONDS [TARGET…]; all of them where none is named.
# What is found to be new goes to target/fuzz/corpus; the corpora here are what a run begins with.
set -euo pipefail
cd "$(dirname "$0")/../.."

cargo fuzz --version >/dev/null 2>&1 || cargo install --quiet --locked cargo-fuzz
seconds=$1
shift
[ "$#" -gt 0 ] || set -- $(sed -n 's/^path = "targets\/\(.*\)\.rs"$/\1/p' tests/fuzz/Cargo.toml)

export CARGO_TARGET_DIR=$PWD/target/fuzz
for target in "$@"; do
    found=target/fuzz/corpus/$target
    mkdir -p "$found"
    # Without a sanitizer any toolchain will do, and unsafe code is not what is looked at.
    cargo fuzz run --fuzz-dir tests/fuzz --sanitizer none "$target" "$found" "tests/fuzz/corpus/$target" -- \
        -max_total_time="$seconds" -rss_limit_mb=1024 -timeout=10 -print_final_stats=1 -verbosity=0
done
