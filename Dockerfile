# s2l_ray on one machine:
#   docker build -t s2l_ray .
#   docker run --rm --shm-size 4g -v "$PWD:/work" s2l_ray run quickstart
# With GPUs (a driver of release 580 or newer, the NVIDIA container toolkit):
#   docker build -t s2l_ray:gpu --build-arg EXTRAS=gpu,target,sweep,evaluate .
#   docker run --rm --gpus all --shm-size 16g -v "$PWD:/work" s2l_ray:gpu run my.yaml
# The image gets no git history: --build-arg VERSION=0.2.0 says what a release's image is; without it, it calls itself the
# last release.
# For Kubernetes see cluster_configs/kuberay/Dockerfile, whose base is Ray's own image.
FROM python:3.11-slim
ARG EXTRAS=cpu,target,sweep,evaluate
ARG VERSION=
# DeepSpeed and torch.compile compile on the machine; git is what the hub's revisions may need.
RUN apt-get update && apt-get install -y --no-install-recommends g++ git && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/s2l_ray
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY s2l_ray ./s2l_ray
# Without a GPU, PyPI's torch would bring gigabytes of CUDA for nothing.
RUN set -eu; \
    if [ -n "$VERSION" ]; then export SETUPTOOLS_SCM_PRETEND_VERSION_FOR_S2L_RAY="$VERSION"; fi; \
    case ",$EXTRAS," in *,cpu,*) \
      pip install --no-cache-dir -c constraints.txt --extra-index-url https://download.pytorch.org/whl/cpu \
        "torch==$(sed -n 's/^torch==//p' constraints.txt)+cpu" ;; \
    esac; \
    pip install --no-cache-dir -c constraints.txt ".[$EXTRAS]"; \
    s2l env
# Not root: a run's files belong to whoever starts it (docker run --user).
RUN useradd --create-home s2l
USER s2l
WORKDIR /work
ENTRYPOINT ["s2l"]
CMD ["--help"]
