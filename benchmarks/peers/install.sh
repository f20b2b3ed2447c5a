#!/bin/sh
# Installs the peers from PyPI into the virtual environment ~/.cache/elcrec/peers (under XDG_CACHE_HOME if that is set),
# and from Debian those that PyPI does not give. What is missing in the end is said, and no failure.
#   install.sh                       all of them
#   install.sh numpy safetensors     these packages of PyPI's, and nothing else
set -u

environment=${XDG_CACHE_HOME:-$HOME/.cache}/elcrec/peers
python=$environment/bin/python
sudo=
[ "$(id -u)" -eq 0 ] || sudo=sudo

say() { echo "peers: $1" >&2; }
apt() { $sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120 "$@"; }
debian() { apt update && apt install -y --no-install-recommends "$@" >/dev/null; }
has() { "$1" -c "import $2" >/dev/null 2>&1; }

# pypi MODULE PACKAGE...: false if the module cannot be imported in the end.
pypi() {
  has "$python" "$1" && return
  [ -x "$python" ] || return
  module=$1
  shift
  say "installing $* from PyPI into $environment"
  "$python" -m pip install --quiet "$@" && has "$python" "$module"
}

# torch.compile compiles against Python.h.
/usr/bin/python3 -c '
import ensurepip, os, sys, sysconfig, venv
sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' 2>/dev/null ||
  debian python3-venv python3-dev || say "python3-venv and python3-dev are missing"
[ -x "$python" ] || /usr/bin/python3 -m venv "$environment" || say "there is no virtual environment in $environment"

if [ $# -gt 0 ]; then
  for package in "$@"; do
    pypi "$package" "$package" || say "$package is missing: PyPI did not give it"
  done
  exit 0
fi

# PyPI's PyTorch for x86 is the one for CUDA. It loads most of CUDA's libraries on any machine, but none of these.
unused="triton nvidia-cusolver nvidia-nvtx nvidia-cuda-cccl cuda-bindings cuda-pathfinder cuda-toolkit"
if pypi torch torch numpy; then
  "$python" -m pip uninstall --quiet --yes $unused 2>/dev/null
elif ! has /usr/bin/python3 torch; then
  say "PyPI gives no PyTorch; installing Debian's"
  debian python3-torch libopenblas0-openmp python3-numpy python3-onnx || say "PyTorch is missing"
  # PyTorch and Faiss call whatever libblas.so.3 is: the OpenMP build of OpenBLAS shares its threads with PyTorch's own
  # OpenMP loops, the pthread build would fight them.
  architecture=$(dpkg-architecture -qDEB_HOST_MULTIARCH 2>/dev/null || echo "$(uname -m)-linux-gnu")
  for library in blas lapack; do
    $sudo update-alternatives --set "lib$library.so.3-$architecture" \
      "/usr/lib/$architecture/openblas-openmp/lib$library.so.3"
  done
fi
pypi onnxscript onnx onnxscript || say "onnxscript is missing: PyPI's PyTorch cannot export the model for ONNX Runtime"
pypi onnxruntime onnxruntime || say "ONNX Runtime is missing: PyPI did not give it, and Debian has none"
if ! pypi faiss faiss-cpu && ! has /usr/bin/python3 faiss; then
  say "PyPI gives no Faiss; installing Debian's"
  debian python3-faiss libopenblas0-openmp || say "Faiss is missing"
fi
pypi usearch usearch || say "usearch is missing: PyPI did not give it, and Debian has none"
pypi safetensors safetensors || say "safetensors is missing: PyPI did not give it"
