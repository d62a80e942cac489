# Turnout's commands. CI runs the same ones; `make help` lists them.
PYTHON ?= python3
# The ONNX Runtime build to install: gpu where an NVIDIA driver is loaded, else cpu. DEVICE=cpu|gpu overrides.
DEVICE ?= $(if $(wildcard /proc/driver/nvidia/version),gpu,cpu)
BIN := .venv/bin
INSTALLED := .venv/.installed-$(DEVICE)
PIP := -m pip --disable-pip-version-check

.PHONY: help install demo test gpu-test gpu-report bench bench-devices bench-routing soak bench-peers lint format proto image clean

help:  ## list these targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(INSTALLED)  ## make .venv with everything (DEVICE=cpu|gpu)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Turnout needs Python 3.11 or newer; this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@if [ "$(DEVICE)" = cpu ]; then $(BIN)/python $(PIP) uninstall -q -y onnxruntime-gpu; else $(BIN)/python $(PIP) uninstall -q -y onnxruntime; fi 2>/dev/null || true
	$(BIN)/python $(PIP) install -c constraints.txt -e '.[$(DEVICE),test]'
	@rm -f .venv/.installed-* && touch $@

demo: install  ## train, export, serve, load-test and report, on every device there is (5 minutes)
	$(BIN)/python examples/demo.py

test: install .venv-proto/.installed .venv-kserve/.installed .venv-perf/.installed  ## run the test suite
	$(BIN)/python -m pytest

# These two install nothing, because a machine that is lent with its GPU may have no network (docs/operations.md, "A GPU for ten
# minutes"). RUN is any Python that has what they need on its path.
RUN ?= $(BIN)/python
GPU_RESULTS := docs/results/gpu
MEASURED ?= digits-cnn digits-lstm resnet50

gpu-test:  ## on a machine with a GPU: doctor and tests/gpu, into docs/results/gpu (installs nothing)
	@mkdir -p $(GPU_RESULTS)
	@$(RUN) -m turnout_server doctor > $(GPU_RESULTS)/doctor.txt; status=$$?; cat $(GPU_RESULTS)/doctor.txt; exit $$status
	@$(RUN) -m pytest tests/gpu -q -rA -p no:randomly > $(GPU_RESULTS)/tests.txt 2>&1; status=$$?; \
		grep -vE '^(PASSED|SKIPPED)' $(GPU_RESULTS)/tests.txt | tail -n 40; exit $$status

gpu-report:  ## on a machine with a GPU: load tests on CPU and GPU, and their report, into docs/results/gpu (installs nothing)
	@mkdir -p $(GPU_RESULTS) reports
	@$(RUN) -m turnout_server --model-repository models 2> reports/gpu-server.log & server=$$!; trap "kill $$server" EXIT; \
		$(RUN) -m turnout_loadtests compare $(MEASURED) --output $(GPU_RESULTS)

bench: install  ## measure Turnout beside other servers (needs h2load: Debian's nghttp2-client)
	$(BIN)/python -m benchmarks $(BENCH)

bench-devices: install  ## what `auto` gains from two CPU devices, and what a killed one costs
	$(BIN)/python -m benchmarks.devices $(BENCH)

bench-routing: install  ## simulate ways to choose a device, Turnout's among them (5 minutes)
	$(BIN)/python -m simulation $(ROUTING)

soak: install  ## what a million requests do to the server's memory (needs h2load)
	$(BIN)/python -m benchmarks.soak $(SOAK)

bench-peers: .venv-peer-mlserver/.installed .venv-peer-kserve/.installed  ## environments of MLServer and KServe

.venv-peer-mlserver/.installed: PEER := mlserver==1.7.1
.venv-peer-kserve/.installed: PEER := kserve==0.21.0
.venv-peer-%/.installed: Makefile
	@test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python $(PIP) install -q $(PEER) onnxruntime==1.32.0
	@touch $@

lint: install  ## ruff and mypy (strict), source and tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The code generator lives in an environment of its own; see proto/generate.py for why.
.venv-proto/.installed: Makefile
	@test -x .venv-proto/bin/python || $(PYTHON) -m venv .venv-proto
	.venv-proto/bin/python $(PIP) install -q grpcio-tools==1.85.1
	@touch $@

# Clients that tests use as they come, each with what it was built against.
.venv-kserve/.installed: Makefile
	@test -x .venv-kserve/bin/python || $(PYTHON) -m venv .venv-kserve
	.venv-kserve/bin/python $(PIP) install -q kserve==0.21.0 grpcio==1.85.1 protobuf==6.33.6
	@touch $@

# This release of tritonclient carries perf_analyzer. It needs Debian's libb64 besides; where that can't be had, its tests are
# skipped and say so.
.venv-perf/.installed: Makefile
	@test -x .venv-perf/bin/python || $(PYTHON) -m venv .venv-perf
	.venv-perf/bin/python $(PIP) install -q --no-deps tritonclient==2.46.0 nvidia-cuda-runtime-cu12==12.9.79
	-@cd .venv-perf && { apt-get download -qq libb64-0d || { apt-get update -qq && apt-get download -qq libb64-0d; }; } \
		&& dpkg -x libb64-0d_*.deb . && rm -f libb64-0d_*.deb
	@touch $@

proto: .venv-proto/.installed  ## rebuild the descriptor set and stubs from proto/*.proto
	.venv-proto/bin/python proto/generate.py proto/turnout_proto

IMAGE_TOOL ?= docker
image:  ## build the container image (TARGET=cpu|gpu|export)
	$(IMAGE_TOOL) build --target $(or $(TARGET),cpu) -t turnout:$(or $(TARGET),cpu) .

clean:  ## remove environments and what the demo made
	rm -rf .venv .venv-proto .venv-kserve .venv-perf .venv-peer-* models reports
