#!/usr/bin/env bash
# Installs s2l_ray on one node of a Ray cluster (Ubuntu 24.04). `ray up` copies this script, constraints.txt and the
# folder dist/ with the wheel into one folder, ~/s2l, and runs it on every node.
#
#   node_setup.sh EXTRAS [PIP_PACKAGE...]
#
# EXTRAS: `cpu`; `cpu,sweep` for the head, where sweeps are steered; `gpu,target`; or `auto`: `gpu,target` where
# nvidia-smi works, else `cpu`. Loggers, say `wandb`, are extras, too. faiss-cpu and faiss-gpu provide one module, so a
# node has one of the two. More packages are for the head: its cloud's SDK.
#
# A wheel, not a git URL: it is exactly the tree that you have, needs no release, no access to a repository from the
# nodes, and no compiler. A virtual environment, not the system's Python, which Ubuntu keeps for itself.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
extras=${1:?usage: node_setup.sh EXTRAS [PIP_PACKAGE...]}
shift
python=${S2L_PYTHON:-python3.12} # constraints.txt needs 3.11 or newer; all nodes of a cluster must have the same

if [ "$extras" = auto ]; then
  if nvidia-smi >/dev/null 2>&1; then extras=gpu,target; else extras=cpu; fi
fi
has() { case ",$extras," in *",$1,"*) ;; *) return 1 ;; esac; }
if has cpu && has gpu; then echo "node_setup: extras cpu and gpu exclude each other: $extras" >&2 && exit 2; fi
if ! has cpu && ! has gpu; then echo "node_setup: extras must hold cpu or gpu, not: $extras" >&2 && exit 2; fi

# The newest: after a change of version a node that stays still has the older wheel beside it.
wheel=$(ls -t "$here"/dist/s2l_ray-*.whl 2>/dev/null | head -n 1) || true
if [ -z "$wheel" ]; then
  echo "node_setup: $here/dist holds no wheel of s2l_ray; on your machine, in the clone:" \
    "rm -rf dist build && pip wheel --no-deps -w dist . && ray up ..." >&2
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
if has cpu; then # PyPI's torch brings gigabytes of CUDA that a node without a GPU has no use for
  torch=$(sed -n 's/^torch==//p' "$here/constraints.txt")
  pip_install --extra-index-url https://download.pytorch.org/whl/cpu "torch==$torch+cpu"
fi
# First the wheel alone, by force: a new build of the same version would otherwise count as installed.
pip_install --no-deps --force-reinstall "$wheel"
pip_install "${wheel}[$extras]" "$@"

for line in "export PATH=\"$here/venv/bin:\$PATH\"" "export RAY_AUTH_MODE=token"; do
  grep -qxF "$line" ~/.bashrc 2>/dev/null || echo "$line" >>~/.bashrc
done
[ ! -f ~/.ray/auth_token ] || chmod 600 ~/.ray/auth_token

# Better here than in the middle of a run: missing drivers, a driver older than torch's CUDA, both faiss at once.
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
