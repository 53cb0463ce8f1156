# The operator: its packages as requirements-operator.lock pins them, this project, and the solver's compiled kernels.
# `make images` builds it; the context is a folder with the lock file and the wheel.

# Any image with one of the Pythons of pyproject.toml as python3, and its module venv.
ARG PYTHON_IMAGE=docker.io/library/python:3.13-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
# pip's own settings, where packages do not come from PyPI; nothing of them is in the image.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_CERT
RUN python3 -m venv /opt/moe
COPY requirements-operator.lock /build/
RUN /opt/moe/bin/python -m pip install --no-cache-dir --disable-pip-version-check --require-hashes \
        --requirement /build/requirements-operator.lock
COPY *.whl /build/
RUN /opt/moe/bin/python -m pip install --no-cache-dir --disable-pip-version-check --no-deps /build/*.whl
# For any processor of the architecture, and where every user can read them: the root of a pod is read-only.
ENV NUMBA_CPU_NAME=generic NUMBA_CACHE_DIR=/opt/moe/kernels
RUN /opt/moe/bin/python -c "from moe_placement import dispatch; from moe_placement.solver.solver import compile_kernels; \
compile_kernels(); dispatch.prepare()" \
    && chmod -R a+rX /opt/moe/kernels \
    && /opt/moe/bin/python -m pip uninstall --yes --quiet pip \
    && find /opt/moe -path '*/tests/*' -name '*.py*' -delete

FROM ${PYTHON_IMAGE}
COPY --from=build /opt/moe /opt/moe
ENV PATH=/opt/moe/bin:/usr/local/bin:/usr/bin:/bin \
    NUMBA_CPU_NAME=generic \
    NUMBA_CACHE_DIR=/opt/moe/kernels \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp
USER 65532:65532
WORKDIR /tmp
ENTRYPOINT ["moe-operator"]
