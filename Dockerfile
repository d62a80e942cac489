# Three images from one file: `docker build --target cpu|gpu|export .`
# BASE may be any image with Python 3.11 or newer.
ARG BASE=docker.io/library/python:3.13-slim

FROM ${BASE} AS base
ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    ORT_DISABLE_TELEMETRY=1 \
    ORT_TELEMETRY_DISABLED=1
RUN python -m venv /opt/turnout && useradd --system --uid 10001 --no-create-home turnout
ENV PATH=/opt/turnout/bin:${PATH}
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY cli cli
COPY proto proto
COPY server server
COPY exporter exporter
COPY loadtests loadtests

# The server: listens on every interface of the container, models at /models.
FROM base AS server
ENV TURNOUT_HOST=0.0.0.0 \
    TURNOUT_MODEL_REPOSITORY=/models
RUN mkdir /models
EXPOSE 8001 8002
STOPSIGNAL SIGTERM
# Not urllib, which would ask a proxy in the environment.
HEALTHCHECK --interval=15s --timeout=3s --start-period=60s \
    CMD ["python", "-c", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8002, 2); c.request('GET', '/readyz'); \
exit(c.getresponse().status != 200)"]
ENTRYPOINT ["turnout-server"]

FROM server AS cpu
RUN pip install -c constraints.txt '.[cpu]'
USER turnout

FROM server AS gpu
# The driver comes from the host; the CUDA and cuDNN libraries come with the wheels.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN pip install -c constraints.txt '.[gpu]'
USER turnout

FROM base AS export
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY tools tools
RUN tools/install-torch python "${TORCH_INDEX}" && pip install -c constraints.txt '.[cpu,export]'
USER turnout
ENTRYPOINT ["turnout-export"]
