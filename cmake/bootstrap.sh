#!/bin/sh
# Installs what building elcrec needs and this machine lacks. Silent when nothing is missing.
# With --ci also what the checks use besides: clang and its tools, an older GCC, another standard library, 32 bits, 64-bit ARM,
# a compiler cache; with --results also what draws the figures of RESULTS.md.
set -eu

# One preprocessor run names the Debian package of every header that is missing.
missing_headers() {
  "$1" -x c++ -E -P - <<'EOF'
#if !__has_include(<eigen3/Eigen/Core>) && !__has_include(<Eigen/Core>)
libeigen3-dev
#endif
#if !__has_include(<nlohmann/json.hpp>)
nlohmann-json3-dev
#endif
#if !__has_include(<CLI/CLI.hpp>)
libcli11-dev
#endif
#if !__has_include(<doctest/doctest.h>)
doctest-dev
#endif
#if !__has_include(<benchmark/benchmark.h>)
libbenchmark-dev
#endif
EOF
}

has() { command -v "$1" >/dev/null 2>&1; }

libraries="libeigen3-dev nlohmann-json3-dev libcli11-dev doctest-dev libbenchmark-dev"
missing=
has make || missing="$missing make"
has cmake || missing="$missing cmake"
compiler=
for candidate in "${CXX:-c++}" g++ clang++; do
  if has "$candidate"; then
    compiler=$candidate
    break
  fi
done
if [ -n "$compiler" ] && headers=$(missing_headers "$compiler" 2>/dev/null); then
  missing="$missing $headers"
else
  missing="$missing g++ $libraries"
fi
if [ "${1:-}" = --ci ]; then
  has clang++ || has clang++-14 || missing="$missing clang"
  has g++-11 || missing="$missing g++-11"
  has aarch64-linux-gnu-g++ || missing="$missing g++-aarch64-linux-gnu"
  has qemu-aarch64 || missing="$missing qemu-user"
  has clang-format || has clang-format-14 || missing="$missing clang-format"
  has clang-tidy || has clang-tidy-14 || missing="$missing clang-tidy"
  has ccache || missing="$missing ccache"
  # Not g++-multilib, which excludes compilers for other processors: all that lacks without it is a link in /usr/include.
  for package in libc++-dev libc++abi-dev "g++-$(g++ -dumpversion | cut -d. -f1)-multilib"; do
    dpkg -s "$package" >/dev/null 2>&1 || missing="$missing $package"
  done
fi
if [ "${1:-}" = --results ] && ! /usr/bin/python3 -c 'import matplotlib, sklearn' 2>/dev/null; then
  missing="$missing python3-matplotlib python3-sklearn"
fi
missing=$(echo $missing)
[ -n "$missing" ] || exit 0

explain() {
  echo "elcrec: $1. Please install: $missing" >&2
  echo "elcrec: (Debian's names.) If they are there already, in a prefix of their own, use the presets directly:" >&2
  echo "elcrec:   cmake --preset release -DCMAKE_PREFIX_PATH=PREFIX && cmake --build --preset release && ctest --preset release" >&2
  exit 1
}

has apt-get || explain "there is no apt-get here"
sudo=
if [ "$(id -u)" -ne 0 ]; then
  has sudo || explain "installing needs root, and there is no sudo here"
  sudo=sudo
fi
echo "elcrec: installing $missing"
apt() { $sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120 "$@"; }
apt update || echo "elcrec: apt-get update failed; trying with the package lists that are here" >&2
apt install -y --no-install-recommends $missing >/dev/null || explain "apt-get install failed"
