# What runs in the pods of a Ray cluster: Ray, torch and this project, as requirements-serving.lock pins them.
# `make images` builds it; the context is a folder with the lock file and the wheel.

ARG PYTHON_IMAGE=docker.io/library/python:3.13-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_CERT
# Where torch comes from, if not from PyPI: then neither that nor what it brings along is checked against the lock file.
ARG TORCH_INDEX
RUN python3 -m venv /opt/moe
COPY requirements-serving.lock /build/
RUN if [ -n "${TORCH_INDEX}" ]; then \
        /opt/moe/bin/python -m pip install --no-cache-dir --index-url "${TORCH_INDEX}" \
            "$(sed -n 's/^\(torch==[^ ]*\).*/\1/p' /build/requirements-serving.lock)" \
        && awk '/^[^ ]/ { other = /^(torch|triton|nvidia-.*|cuda-.*)==/ } !other' /build/requirements-serving.lock \
            > /build/rest.lock; \
    else cp /build/requirements-serving.lock /build/rest.lock; fi \
    && /opt/moe/bin/python -m pip install --no-cache-dir --disable-pip-version-check --require-hashes \
        --requirement /build/rest.lock
COPY *.whl /build/
RUN /opt/moe/bin/python -m pip install --no-cache-dir --disable-pip-version-check --no-deps /build/*.whl
ENV NUMBA_CPU_NAME=generic NUMBA_CACHE_DIR=/opt/moe/kernels
RUN /opt/moe/bin/python -c "from moe_placement import dispatch; from moe_serving.engine.lean import kernels; \
from moe_serving.routing import cuts; dispatch.prepare(); kernels.prepare(); cuts.prepare()" && chmod -R a+rX /opt/moe/kernels

FROM ${PYTHON_IMAGE}
COPY --from=build /opt/moe /opt/moe
ENV PATH=/opt/moe/bin:/usr/local/bin:/usr/bin:/bin \
    NUMBA_CPU_NAME=generic \
    NUMBA_CACHE_DIR=/opt/moe/kernels \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS=1 \
    HOME=/tmp
USER 1000:1000
WORKDIR /tmp
