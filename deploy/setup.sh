#!/usr/bin/env bash
# Installs what the tests need: a C compiler with the C library's headers (for the bundled SQLite,
# zstd and aws-lc), git, root certificates where cargo cannot fetch crates without them, and Python with
# the packages of the foreign client and peer (gRPC, cryptography, zstandard), which go into target/python and nowhere else.
# Says what is missing and asks before it installs; CI=true or --yes answers for you.
# Running it again does nothing.
set -euo pipefail

readonly RUST_MINOR_MIN=94
readonly PYTHON=target/python
readonly PYTHON_PACKAGES=(tests/foreign/python/requirements.txt tests/peers/python/requirements.txt)

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

has_venv() { python3 -c 'import ensurepip, venv' 2>/dev/null; }

# The list is copied there last, so that what was interrupted is done again.
has_python_packages() {
  cat "${PYTHON_PACKAGES[@]}" | cmp -s - "$PYTHON/requirements.txt" &&
    "$PYTHON/bin/python" -c 'import grpc, zstandard' 2>/dev/null
}

confirm() {
  [ "$yes" = true ] && return
  [ -t 0 ] || fail "nobody to ask; --yes installs without asking"
  read -r -p "setup: $1? [y/N] " answer || answer=
  [ "$answer" = y ] || [ "$answer" = Y ] || fail "nothing was installed"
}

install_packages() {
  echo "setup: missing: $*"
  local install="apt-get install -y --no-install-recommends $*"
  command -v apt-get >/dev/null || fail "there is no apt-get here; install these with your own package manager"
  [ "$(id -u)" -eq 0 ] || fail "not root; run as root: apt-get update && $install"
  confirm "run \`$install\`"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq </dev/null
  $install </dev/null
  compiles || fail "the C compiler still cannot find stdlib.h"
  has_venv || fail "python3 still cannot make a virtual environment"
}

install_python_packages() {
  echo "setup: missing: the Python packages of ${PYTHON_PACKAGES[*]}, in $PYTHON"
  confirm "fetch them from PyPI"
  rm -rf "$PYTHON"
  python3 -m venv "$PYTHON"
  "$PYTHON/bin/pip" install --quiet --no-deps --only-binary :all: "${PYTHON_PACKAGES[@]/#/--requirement=}" </dev/null
  "$PYTHON/bin/pip" check
  cat "${PYTHON_PACKAGES[@]}" >"$PYTHON/requirements.txt"
}

missing=()
command -v cc >/dev/null || missing+=(gcc)
compiles || missing+=(libc6-dev)
command -v git >/dev/null || missing+=(git)
fetches || missing+=(ca-certificates)
has_venv || missing+=(python3 python3-venv)
if [ ${#missing[@]} -eq 0 ] && has_python_packages; then
  echo "setup: nothing is missing"
  exit 0
fi
[ ${#missing[@]} -eq 0 ] || install_packages "${missing[@]}"
has_python_packages || install_python_packages
