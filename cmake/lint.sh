#!/bin/sh
# lint.sh BUILD JOBS: the format of every file and what clang-tidy finds in a few sources that include every header and
# instantiate whole models. BUILD is configured. Any finding is an error.
set -eu
build=$1
jobs=$2

# The first that is there: formats differ between versions.
tool() {
  for name in "$1-14" "$1"; do
    if command -v "$name" >/dev/null 2>&1; then
      echo "$name"
      return
    fi
  done
  echo "elcrec: found no $1, expected it on the PATH. On Debian or Ubuntu: apt-get install $1" >&2
  exit 1
}
format=$(tool clang-format)
tidy=$(tool clang-tidy)

git ls-files '*.hpp' '*.cpp' '*.cu' | xargs "$format" --dry-run -Werror
echo "$("$format" --version): no finding"

printf '%s\n' "$build/tests/headers/all.cpp" "$build/tests/headers/cuda_all.cpp" examples/custom_model.cpp examples/elcrec.cpp \
  benchmarks/experiments/elcrec_experiment.cpp |
  xargs -P "$jobs" -n 1 "$tidy" -p "$build" --quiet --warnings-as-errors='*' 2>/dev/null
echo "clang-tidy: no finding"
