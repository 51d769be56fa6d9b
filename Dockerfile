# Two images of one server: `--target cpu` and `--target cuda`.
FROM python:3.12.11-slim-bookworm AS builder
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY cdlm cdlm
COPY model model
COPY scheduler scheduler
COPY server server
COPY training training
RUN pip wheel --no-deps --wheel-dir /wheels .

# torch comes first and by itself: a change of the code then leaves its layer, the largest by far, in the cache.
# TORCH_INDEX names another index, such as a mirror of PyPI.
FROM python:3.12.11-slim-bookworm AS torch-cpu
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY constraints.txt /
RUN python -m venv --without-pip /opt/venv \
    && pip --python /opt/venv/bin/python install --constraint /constraints.txt \
        --index-url "$TORCH_INDEX" torch

# The wheel of PyPI brings the CUDA libraries; of the host it needs the driver and the NVIDIA container toolkit alone.
FROM python:3.12.11-slim-bookworm AS torch-cuda
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
ARG TORCH_INDEX=https://pypi.org/simple
COPY constraints.txt /
RUN python -m venv --without-pip /opt/venv \
    && pip --python /opt/venv/bin/python install --constraint /constraints.txt \
        --index-url "$TORCH_INDEX" torch

FROM torch-cpu AS venv-cpu
COPY --from=builder /wheels /wheels
RUN pip --python /opt/venv/bin/python install --constraint /constraints.txt "$(echo /wheels/*.whl)[tracing]"

FROM torch-cuda AS venv-cuda
COPY --from=builder /wheels /wheels
RUN pip --python /opt/venv/bin/python install --constraint /constraints.txt "$(echo /wheels/*.whl)[tracing]"

FROM python:3.12.11-slim-bookworm AS runtime
# Nothing is written but below /tmp, so that the root file system can be read-only.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    HF_HUB_OFFLINE=1 \
    CDLM_HOST=0.0.0.0 \
    CDLM_PORT=8000
RUN pip uninstall --yes pip \
    && useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin cdlm \
    && mkdir /models
# Whatever the umask of the checkout was.
COPY --chmod=644 docker/healthcheck.py /opt/healthcheck.py
USER 10001:10001
WORKDIR /tmp
# Weights are mounted here, read-only: CDLM_MODEL=/models/NAME. Without it cdlm-nano is served, since nothing is fetched.
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=10s --start-period=10m --retries=3 CMD ["python", "/opt/healthcheck.py"]
ENTRYPOINT ["cdlm", "serve"]

FROM runtime AS cpu
COPY --from=venv-cpu /opt/venv /opt/venv

FROM runtime AS cuda
# Triton builds the launchers of its kernels when it first runs them. The base image's release fixes the versions.
USER 0:0
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
USER 10001:10001
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility TRITON_CACHE_DIR=/tmp/triton
COPY --from=venv-cuda /opt/venv /opt/venv
