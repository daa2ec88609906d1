#!/usr/bin/env bash
# Installs s2l_ray on one node of a Ray cluster (Ubuntu 24.04). `ray up` copies this script, constraints.txt and the
# folder dist/ with the wheel into one folder, ~/s2l, and runs it on every node.
#
#   node_setup.sh EXTRAS [PIP_PACKAGE...]
#
# EXTRAS: `cpu`; `cpu,sweep` for the head, which controls sweeps; `gpu,target`; or `auto`: `gpu,target` if nvidia-smi
# works, otherwise `cpu`. Loggers such as `wandb` are extras too. faiss-cpu and faiss-gpu provide the same module, so a
# node gets only one of them. Additional packages are for the head: its cloud's SDK.
#
# It installs a wheel rather than a git URL: the wheel is exactly your tree and needs no release, no access to a
# repository from the nodes, and no compiler. It uses a virtual environment because Ubuntu reserves the system's Python.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
extras=${1:?usage: node_setup.sh EXTRAS [PIP_PACKAGE...]}
shift
python=${S2L_PYTHON:-python3.12} # constraints.txt needs 3.11 or newer; all nodes of a cluster need the same version

if [ "$extras" = auto ]; then
  if nvidia-smi >/dev/null 2>&1; then extras=gpu,target; else extras=cpu; fi
fi
has() { case ",$extras," in *",$1,"*) ;; *) return 1 ;; esac; }
if has cpu && has gpu; then echo "node_setup: a node cannot have both extras cpu and gpu: $extras" >&2 && exit 2; fi
if ! has cpu && ! has gpu; then echo "node_setup: extras must include cpu or gpu, got: $extras" >&2 && exit 2; fi

# The newest wheel: after a version change, a node that is kept still has the older one too.
wheel=$(ls -t "$here"/dist/s2l_ray-*.whl 2>/dev/null | head -n 1) || true
if [ -z "$wheel" ]; then
  echo "node_setup: $here/dist contains no s2l_ray wheel, so there is nothing to install; on your machine, in the" \
    "clone, run: rm -rf dist build && pip wheel --no-deps -w dist . && ray up ..." >&2
  exit 2
fi
echo "node_setup: installing $(basename "$wheel")[$extras]"

apt_install() {
  # cloud-init may hold the lock for the first minutes of a node's life.
  sudo apt-get -o DPkg::Lock::Timeout=600 update -q
  sudo DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 install -q -y --no-install-recommends "$@"
}
"$python" -c 'import ensurepip, venv' 2>/dev/null || apt_install "$python-venv"
# DeepSpeed compiles its kernels for offload when they are first used.
if has target && ! { command -v g++ && [ -e /usr/include/libaio.h ]; } >/dev/null; then
  apt_install build-essential libaio-dev "$python-dev"
fi

[ -x "$here/venv/bin/pip" ] || "$python" -m venv "$here/venv"
pip_install() {
  "$here/venv/bin/pip" install --disable-pip-version-check --quiet -c "$here/constraints.txt" "$@"
}
if has cpu; then # PyPI's torch would install gigabytes of CUDA libraries that are useless without a GPU
  torch=$(sed -n 's/^torch==//p' "$here/constraints.txt")
  pip_install --extra-index-url https://download.pytorch.org/whl/cpu "torch==$torch+cpu"
fi
# First only the wheel, forced: a new build of the same version would otherwise count as already installed.
pip_install --no-deps --force-reinstall "$wheel"
pip_install "${wheel}[$extras]" "$@"

for line in "export PATH=\"$here/venv/bin:\$PATH\"" "export RAY_AUTH_MODE=token"; do
  grep -qxF "$line" ~/.bashrc 2>/dev/null || echo "$line" >>~/.bashrc
done
[ ! -f ~/.ray/auth_token ] || chmod 600 ~/.ray/auth_token

# Fail here rather than in the middle of a run: missing drivers, drivers too old for torch's CUDA, both faiss packages.
"$here/venv/bin/python" - "$extras" <<'PYTHON'
import sys

import faiss, ray, s2l_ray, torch

extras = sys.argv[1].split(",")
if "gpu" in extras and not torch.cuda.is_available():
    sys.exit(f"node_setup: torch {torch.__version__} sees no GPU; look at nvidia-smi (driver 580 or newer for CUDA 13)")
if "target" in extras:
    import deepspeed, peft
print(f"node_setup: s2l_ray[{','.join(extras)}], ray {ray.__version__}, torch {torch.__version__}")
PYTHON
