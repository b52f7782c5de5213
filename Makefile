# Every command of the project. Each recipe is one line to read; what it needs it installs itself.

.PHONY: demo demo-overlay test lint deny advisories fmt netns test-vm fuzz docs bench release setup plugins ci

# Two containers on a network of their own, by rnet and by the docker client; then the daemon dies.
demo: release
	tests/demo.sh target/release

# Three machines with a network over all of them, as docs/overlay.md has it; namespaces stand for the machines.
demo-overlay: release
	target/release/recipe docs/overlay.md

# All tests. Root is needed for those that make network namespaces and containers.
test: setup plugins
	cargo build --workspace --bins
	cargo nextest run --workspace

# Formatting, lints and documentation, warnings denied; the layers of the crates; the fuzz targets, which are no members
# of the workspace.
lint: setup
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items
	cargo test --quiet --package tidy
	cargo check --quiet --manifest-path tests/fuzz/Cargo.toml --no-default-features --target-dir target

# Licences, sources and bans of the dependencies, by cargo-deny and what deny.toml says. Of the network it needs the
# registry alone, for the crates of other platforms.
deny:
	cargo deny check --hide-inclusion-graph licenses bans sources

# Known holes in the dependencies. The list of RustSec is fetched from where they keep it.
advisories:
	cargo deny check --hide-inclusion-graph advisories

fmt:
	cargo fmt --all

# The tests on real kernels in network namespaces only.
netns: setup
	cargo nextest run --package netns-tests

# The tests and the demo on a stock Debian kernel in an emulated machine: cgroup v2, AppArmor, ipvlan, VLANs, netem.
test-vm:
	tests/vm/run.sh

# Input made up by a machine, a minute for each target of tests/fuzz (or those in TARGETS).
fuzz: setup
	tests/fuzz/run.sh 60 $(TARGETS)

# Writes the generated parts of docs/ anew.
docs:
	cargo build --workspace --bins
	UPDATE=1 cargo test --package netns-tests --test ruleset --test networks --test isolation --test creations

# Measures rnet beside the peers that are installed and prints the table of docs/benchmarks.md.
bench: release
	cargo build --release --package image --example unpack
	benches/run.py target/release

release: setup
	cargo build --release --workspace --bins

# Installs Debian packages that builds and tests need, where they are missing.
setup:
	tests/setup.sh

# Fetches the docker client's plugins that some tests use, for them alone.
plugins: setup
	tests/plugins.sh

ci: lint test
