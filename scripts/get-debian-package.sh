#!/usr/bin/env bash
# Unpacks one Debian package into a directory, for tests that need a program this machine's own release does not carry.
#
#   scripts/get-debian-package.sh SUITE PACKAGE DEST        e.g. get-debian-package.sh bullseye consul ~/.cache/hms-gateway/consul
#
# It uses the archive that this machine is set up for, with another suite, in a private apt root: the system's package lists, its
# installed packages and its settings are only read. Signatures are checked with the distribution's keyring. Nothing of the package is
# run or configured, and its dependencies are not fetched.
set -euo pipefail

if [ $# -ne 3 ]; then
    echo "usage: $0 SUITE PACKAGE DEST" >&2
    exit 2
fi
suite=$1 package=$2 destination=$3
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

fail() {
    echo "$0: $*" >&2
    exit 1
}

command -v apt-get > /dev/null && command -v dpkg-deb > /dev/null || fail "needs apt-get and dpkg-deb (a Debian system)"
[ -r "$keyring" ] || fail "needs $keyring (package debian-archive-keyring)"

# The archive proper, not its security updates, however many files and formats the sources are spread over.
archive=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Component: main' | grep --invert-match security | sort --unique | head --lines 1) || true
[ -n "$archive" ] || fail "no Debian archive is set up here, or its lists are missing: run apt-get update"

root=$(mktemp --directory)
trap 'rm --recursive --force "$root"' EXIT
mkdir --parents "$root"/{lists/partial,cache/archives/partial,download}
echo "deb [signed-by=$keyring] $archive $suite main" > "$root/sources.list"

private_apt_get() {
    apt-get --quiet --quiet \
        --option Dir::Etc::SourceList="$root/sources.list" --option Dir::Etc::SourceParts=/dev/null \
        --option Dir::Etc::Preferences=/dev/null --option Dir::Etc::PreferencesParts=/dev/null \
        --option Dir::State::Lists="$root/lists" --option Dir::State::Status=/dev/null --option Dir::Cache="$root/cache" \
        --option APT::Sandbox::User="$(id --user --name)" \
        --option Acquire::Check-Valid-Until=false --option Acquire::Languages=none --option Acquire::Retries=3 "$@"
}

private_apt_get update
(cd "$root/download" && private_apt_get download "$package")

# Unpack beside the destination and move into place, so that a half-unpacked package is never taken for a whole one.
mkdir --parents "$(dirname "$destination")"
unpacked=$(mktemp --directory "$(dirname "$destination")/.unpack-XXXXXX")
dpkg-deb --extract "$root/download/"*.deb "$unpacked"
chmod 755 "$unpacked"
rm --recursive --force "$destination"
mv "$unpacked" "$destination"
