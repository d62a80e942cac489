# Four images from one file: `make image TARGET=cpu|gpu|export|loadtest`, or `docker build --target cpu .`
# BASE may be any image with Python 3.11 or newer and its venv module.
ARG BASE=docker.io/library/python:3.13-slim

# What each image installs, read from pyproject.toml. The step that installs it takes only this file, so that it is repeated
# when a dependency changes, and not when anything else does.
FROM ${BASE} AS requirements
WORKDIR /build
COPY tools/requirements pyproject.toml ./
RUN for extra in cpu gpu export loadtest; do \
        python requirements pyproject.toml "$(test "$extra" = export && echo cpu,export || echo "$extra")" > "$extra.txt" || exit; \
    done

# pip lives in an environment of its own and installs into /opt/turnout, which the images get without it.
FROM ${BASE} AS builder
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PIP_PYTHON=/opt/turnout/bin/python
WORKDIR /build
RUN python -m venv /opt/build && python -m venv --without-pip /opt/turnout
COPY constraints.txt ./

FROM builder AS cpu-dependencies
COPY --from=requirements /build/cpu.txt ./
RUN /opt/build/bin/pip install -c constraints.txt -r cpu.txt

FROM builder AS gpu-dependencies
COPY --from=requirements /build/gpu.txt ./
RUN /opt/build/bin/pip install -c constraints.txt -r gpu.txt

FROM builder AS export-dependencies
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY tools/install-torch tools/
COPY --from=requirements /build/export.txt ./
# The CUDA build, which pip would take otherwise, has 5 GB that an exporter never uses.
RUN tools/install-torch /opt/build/bin/python "${TORCH_INDEX}" && \
    if ! ls -d /opt/turnout/lib/python3*/site-packages/torch-*+cpu.dist-info; then \
        echo "${TORCH_INDEX} has no CPU build of torch; name an index that has: --build-arg TORCH_INDEX=URL" >&2; exit 1; fi && \
    /opt/build/bin/pip install -c constraints.txt -r export.txt

FROM builder AS loadtest-dependencies
COPY --from=requirements /build/loadtest.txt ./
RUN /opt/build/bin/pip install -c constraints.txt -r loadtest.txt

# Turnout itself, laid out like /opt/turnout, so that an image can copy it over its dependencies.
FROM builder AS code
COPY pyproject.toml README.md CHANGELOG.md LICENSE ./
COPY cli cli
COPY proto proto
COPY server server
COPY exporter exporter
COPY loadtests loadtests
RUN /opt/build/bin/pip install --no-deps --prefix /opt/code .

FROM ${BASE} AS image
ENV PATH=/opt/turnout/bin:${PATH} \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ORT_DISABLE_TELEMETRY=1 \
    ORT_TELEMETRY_DISABLED=1
STOPSIGNAL SIGTERM

# The server: listens on every interface of the container, models at /models.
FROM image AS server
ENV TURNOUT_HOST=0.0.0.0 \
    TURNOUT_MODEL_REPOSITORY=/models
WORKDIR /models
EXPOSE 8001 8002
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s CMD ["turnout-server", "health"]
ENTRYPOINT ["turnout-server"]

FROM server AS cpu
COPY --from=cpu-dependencies /opt/turnout /opt/turnout
COPY --from=code /opt/code /opt/turnout
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="turnout" \
      org.opencontainers.image.description="ONNX inference server that lets every request choose its device: CPU" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
USER 10001:10001

FROM server AS gpu
# The driver comes from the host; the libraries of CUDA 13 and cuDNN 9 come with the wheels.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=gpu-dependencies /opt/turnout /opt/turnout
COPY --from=code /opt/code /opt/turnout
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="turnout" \
      org.opencontainers.image.description="ONNX inference server that lets every request choose its device: CPU or NVIDIA GPU" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
USER 10001:10001

FROM image AS export
COPY --from=export-dependencies /opt/turnout /opt/turnout
COPY --from=code /opt/code /opt/turnout
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="turnout-export" \
      org.opencontainers.image.description="Exports PyTorch models to verified ONNX" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
WORKDIR /work
USER 10001:10001
ENTRYPOINT ["turnout-export"]

# Locust with its web page; deploy/compose.yaml runs it.
FROM image AS loadtest
COPY --from=loadtest-dependencies /opt/turnout /opt/turnout
COPY --from=code /opt/code /opt/turnout
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="turnout-loadtest" \
      org.opencontainers.image.description="Locust load tests for servers of the Open Inference Protocol" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
WORKDIR /work
COPY loadtests/locustfile.py ./
USER 10001:10001
EXPOSE 8089
ENTRYPOINT ["locust"]
