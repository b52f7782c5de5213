#!/usr/bin/env bash
# Fetches the docker client's plugins, buildx and compose, of the Debian release whose versions the tables in
# engine/tests/clients/trace are about. They go to target/tools and not to where the machine's own client looks:
# with buildx installed its `docker build` would be another command.
set -euo pipefail

plugins=$(realpath -m "$(dirname "$0")/../target/tools/cli-plugins")
if [ -x "$plugins/docker-buildx" ] && [ -x "$plugins/docker-compose" ]; then
    exit
fi
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
mkdir -p "$place/lists/partial" "$place/archives/partial" "$place/parts"
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -v security | head -1)
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" >"$place/sources"
of_trixie() {
    apt-get -qq -o APT::Sandbox::User=root -o Dir::State::Lists="$place/lists" -o Dir::Cache="$place" \
        -o Dir::Etc::SourceList="$place/sources" -o Dir::Etc::SourceParts="$place/parts" "$@"
}
of_trixie update
(cd "$place" && of_trixie download docker-buildx docker-compose)
for package in "$place"/*.deb; do dpkg-deb -x "$package" "$place/files"; done
mkdir -p "$plugins"
# By another name first: one that was cut short is not taken for one.
for plugin in docker-compose docker-buildx; do
    cp "$place/files/usr/libexec/docker/cli-plugins/$plugin" "$plugins/.$plugin"
    mv "$plugins/.$plugin" "$plugins/$plugin"
done
