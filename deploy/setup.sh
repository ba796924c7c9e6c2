#!/usr/bin/env bash
# Installs what the tests need: a C compiler with the C library's headers (for the bundled SQLite,
# zstd and aws-lc), git, and root certificates where cargo cannot fetch crates without them.
# Says what is missing and asks before it installs; CI=true or --yes answers for you.
# Running it again does nothing.
set -euo pipefail

readonly RUST_MINOR_MIN=94

fail() {
  echo "setup: $1" >&2
  exit 1
}

yes=${CI:-false}
case "${1:-}" in
  "") ;;
  --yes) yes=true ;;
  *) echo "usage: deploy/setup.sh [--yes]" >&2; exit 64 ;;
esac
cd "$(dirname "$0")/.."

# Rust comes with its own installer, so it is only looked at.
command -v cargo >/dev/null || fail "cargo is missing; install Rust 1.$RUST_MINOR_MIN or newer, https://rustup.rs"
version=$(cargo --version | cut -d' ' -f2)
IFS=. read -r major minor _ <<<"$version"
((major > 1 || minor >= RUST_MINOR_MIN)) || fail "cargo $version is too old; Rust 1.$RUST_MINOR_MIN or newer is needed"
for component in fmt clippy; do
  cargo "$component" --version >/dev/null 2>&1 ||
    fail "cargo $component is missing; with rustup: rustup component add rustfmt clippy"
done

compiles() { echo '#include <stdlib.h>' | cc -E - >/dev/null 2>&1; }

fetches() {
  [ -s /etc/ssl/certs/ca-certificates.crt ] ||
    cargo fetch --locked --quiet --target "$(rustc -vV | sed -n 's/^host: //p')" 2>/dev/null
}

missing=()
command -v cc >/dev/null || missing+=(gcc)
compiles || missing+=(libc6-dev)
command -v git >/dev/null || missing+=(git)
fetches || missing+=(ca-certificates)
if [ ${#missing[@]} -eq 0 ]; then
  echo "setup: nothing is missing"
  exit 0
fi

echo "setup: missing: ${missing[*]}"
install="apt-get install -y --no-install-recommends ${missing[*]}"
command -v apt-get >/dev/null || fail "there is no apt-get here; install these with your own package manager"
[ "$(id -u)" -eq 0 ] || fail "not root; run as root: apt-get update && $install"
if [ "$yes" != true ]; then
  [ -t 0 ] || fail "nobody to ask; --yes installs without asking"
  read -r -p "setup: run \`$install\`? [y/N] " answer || answer=
  [ "$answer" = y ] || [ "$answer" = Y ] || fail "nothing was installed"
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq </dev/null
$install </dev/null
compiles || fail "the C compiler still cannot find stdlib.h"
