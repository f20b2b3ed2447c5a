#!/bin/sh
# Installs the peers: PyTorch, OpenBLAS, Faiss and ONNX from Debian, ONNX Runtime for Node.js from npm into build/peers.
set -eu

peers=$(cd "$(dirname "$0")/../.." && pwd)/build/peers
sudo=
[ "$(id -u)" -eq 0 ] || sudo=sudo

apt() { $sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120 "$@"; }
apt update || echo "peers: apt-get update failed; trying with the package lists that are here" >&2
apt install -y --no-install-recommends python3-torch libopenblas0-openmp python3-numpy python3-onnx python3-faiss

# PyTorch and Faiss call whatever libblas.so.3 is: the OpenMP build of OpenBLAS shares its threads with PyTorch's own
# OpenMP loops, the pthread build would fight them.
architecture=$(dpkg-architecture -qDEB_HOST_MULTIARCH 2>/dev/null || echo "$(uname -m)-linux-gnu")
for library in blas lapack; do
  $sudo update-alternatives --set "lib$library.so.3-$architecture" \
    "/usr/lib/$architecture/openblas-openmp/lib$library.so.3"
done

if ! command -v npm >/dev/null 2>&1; then
  echo "peers: no npm (Node.js 20 or later); ONNX Runtime is left out" >&2
  exit 0
fi
mkdir -p "$peers"
[ -f "$peers/package.json" ] || echo '{"private": true}' >"$peers/package.json"
# The CPU library is inside the npm package; its post-install script would download CUDA's.
npm install --prefix "$peers" --ignore-scripts --no-audit --no-fund onnxruntime-node@1.30.0
