import json
import os
from dataclasses import replace

import pytest
from turnout_cli.installation import install_command
from turnout_server.cli.doctor import page
from turnout_server.cli.doctor.checkup import Checkup, ModelOnDevice, Tried
from turnout_server.cli.doctor.facts import Facts
from turnout_server.cli.doctor.findings import exit_code, judge
from turnout_server.devices import device as devices

from tests.server.cli.doctor.hosts import (
    BROKEN_GPU,
    CPU_RUNTIME,
    CPU_WORKS,
    CUDA_FAILS,
    FILES,
    GPU,
    HOST,
    NVIDIA,
    PLAIN,
    WITH_GPU,
    with_file,
    with_host,
    with_nvidia,
    with_runtime,
    without,
)

BOTH = {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.1"}
DECLARED_FAILS = Tried(replace(devices.cpu(), name="cpu:big", threads=8), "it did not answer", 0.1, declared=True)
ON_ONE_CORE = Tried(replace(devices.cpu(), name="cpu:big", cpus=(min(os.sched_getaffinity(0)),)), "", 0.1, declared=True)
WHEELS = "pip install 'onnxruntime-gpu[cuda,cudnn]==1.31.1'"

LIMITED = Tried(replace(devices.cuda(0, 1024), memory_limit_mb=1024, instances=2), "", 2.5, declared=True)

#: By name: checkup, code and severity, words of the finding, the fix or its beginning, exit status.
HOSTS: dict[str, tuple[Checkup, str, str, str, int]] = {
    "no driver": (PLAIN, "no-gpu ok", "cuda is missing because no NVIDIA driver is loaded", "", 0),
    "no driver, GPU build": (
        with_nvidia(replace(WITH_GPU, devices=(CPU_WORKS,)), loaded=False, gpus=(), device_files=()),
        "no-gpu ok",
        "cuda is missing because no NVIDIA driver is loaded",
        "",
        0,
    ),
    "a limit for each of several sessions": (
        replace(
            WITH_GPU,
            devices=(CPU_WORKS, LIMITED),
            models=(ModelOnDevice("m", "1", "cuda:0", ""), ModelOnDevice("n", "1", "cuda:0", "")),
        ),
        "limit-per-session ok",
        "2 sessions on 'cuda:0' may take 1024 MiB each",
        "",
        0,
    ),
    "driver, CPU build": (
        Checkup(Facts(HOST, CPU_RUNTIME, NVIDIA), (CPU_WORKS,)),
        "cpu-build problem",
        "onnxruntime 1.32.0 is the build for CPUs",
        f"pip uninstall -y onnxruntime && {install_command('gpu')}",
        1,
    ),
    "driver, CPU build, GPUs not wanted": (
        Checkup(Facts(HOST, CPU_RUNTIME, NVIDIA), (CPU_WORKS,), cuda_wanted=False),
        "",
        "",
        "",
        0,
    ),
    "both wheels": (
        with_runtime(replace(WITH_GPU, devices=()), wheels=BOTH),
        "two-runtimes problem",
        "onnxruntime and onnxruntime-gpu are both installed",
        f"pip uninstall -y onnxruntime onnxruntime-gpu && {install_command('gpu')}",
        1,
    ),
    "no wheel": (
        with_runtime(replace(PLAIN, devices=()), wheels={}, problem="No module named 'onnxruntime'"),
        "no-runtime problem",
        "no ONNX Runtime is installed",
        install_command("cpu"),
        1,
    ),
    "broken wheel": (
        with_runtime(replace(PLAIN, devices=()), problem="cannot import name 'capi'"),
        "broken-runtime problem",
        "cannot import name 'capi'",
        "pip install --force-reinstall --no-deps onnxruntime==1.32.0",
        1,
    ),
    "driver updated": (
        with_nvidia(BROKEN_GPU, nvml="Driver/library version mismatch", gpus=()),
        "driver-mismatch problem",
        "Driver/library version mismatch",
        "sudo reboot",
        1,
    ),
    "no cuDNN": (without(BROKEN_GPU, "libcudnn.so.9"), "missing-library problem", "libcudnn.so.9 is missing", WHEELS, 1),
    "no cuBLAS, no runtime": (
        without(BROKEN_GPU, "libcublasLt.so.13", "libcudart.so.13"),
        "missing-library problem",
        "libcudart.so.13, libcublasLt.so.13 are missing",
        WHEELS,
        1,
    ),
    "libraries of CUDA 12": (
        without(BROKEN_GPU, "libcudart.so.13", others=("libcudart.so.12",)),
        "cuda-major-mismatch problem",
        "libcudart.so.13 is missing",
        WHEELS,
        1,
    ),
    "no libcuda": (
        without(BROKEN_GPU, "libcuda.so.1"),
        "missing-library problem",
        "libcuda.so.1 is missing",
        "docker run --gpus all -e NVIDIA_DRIVER_CAPABILITIES=compute,utility",
        1,
    ),
    "no permission": (
        with_file(BROKEN_GPU, "EACCES", group=44),
        "device-file problem",
        "no permission to open /dev/nvidia0",
        'sudo usermod -aG "$(stat -c %G /dev/nvidia0)" "$USER"',
        1,
    ),
    "no permission, owned by root": (
        with_file(BROKEN_GPU, "EACCES"),
        "device-file problem",
        "no permission to open /dev/nvidia0",
        "sudo chmod a+rw /dev/nvidia0",
        1,
    ),
    "kept from a container": (
        with_file(BROKEN_GPU, "EPERM"),
        "device-file problem",
        "no permission to open /dev/nvidia0",
        "docker run --gpus all",
        1,
    ),
    "GPU off the bus": (with_file(BROKEN_GPU, "EIO"), "device-file problem", "/dev/nvidia0 does not open", "sudo dmesg", 1),
    "container without device files": (
        with_nvidia(replace(WITH_GPU, devices=(CPU_WORKS,)), gpus=(), device_files=()),
        "no-device-files problem",
        "/dev/nvidia0 is missing",
        "docker run --gpus all",
        1,
    ),
    "CPU container on a GPU machine": (
        Checkup(Facts(HOST, CPU_RUNTIME, replace(NVIDIA, gpus=(), device_files=())), (CPU_WORKS,)),
        "no-gpu ok",
        "cuda is missing because this container was given no GPU",
        "",
        0,
    ),
    "GPUs hidden": (
        with_nvidia(replace(WITH_GPU, devices=(CPU_WORKS,)), visible="-1"),
        "gpus-hidden warning",
        "CUDA_VISIBLE_DEVICES='-1' hides every GPU",
        "unset CUDA_VISIBLE_DEVICES",
        0,
    ),
    "MIG": (
        with_nvidia(WITH_GPU, gpus=(replace(GPU, mig=True),)),
        "mig warning",
        "GPU 0 is cut into instances (MIG)",
        "export CUDA_VISIBLE_DEVICES=MIG-",
        0,
    ),
    "exclusive": (
        with_nvidia(WITH_GPU, gpus=(replace(GPU, compute_mode="exclusive-process"),)),
        "compute-mode warning",
        "GPU 0 is in compute mode exclusive-process",
        "sudo nvidia-smi -i 0 -c DEFAULT",
        0,
    ),
    "prohibited": (
        with_nvidia(BROKEN_GPU, gpus=(replace(GPU, compute_mode="prohibited"),)),
        "compute-mode problem",
        "GPU 0 is in compute mode prohibited",
        "sudo nvidia-smi -i 0 -c DEFAULT",
        1,
    ),
    "GPU fine": (WITH_GPU, "", "", "", 0),
    "GPU fine in spite of suspicious facts": (
        without(with_nvidia(WITH_GPU, driver="550.54.15", cuda="12.4"), "libcudnn.so.9"),
        "",
        "",
        "",
        0,
    ),
    "GPU fine, no NVML": (
        with_nvidia(WITH_GPU, gpus=(), nvml="nvidia-ml-py is not installed"),
        "no-nvml warning",
        "nvidia-ml-py is not installed",
        "pip install nvidia-ml-py",
        0,
    ),
    "GPU fails for an unknown reason": (BROKEN_GPU, "device-fails problem", "device 'cuda:0' does not work", "sudo dmesg", 1),
    "declared device fails": (
        replace(PLAIN, devices=(CPU_WORKS, DECLARED_FAILS), cuda_wanted=False),
        "device-fails problem",
        "device 'cpu:big' does not work",
        "correct [devices.'cpu:big']",
        1,
    ),
    "two that take turns": (
        replace(PLAIN, devices=(CPU_WORKS, replace(DECLARED_FAILS, problem="")), cuda_wanted=False),
        "shared-place ok",
        "devices 'cpu' and 'cpu:big' share hardware and take turns",
        "",
        0,
    ),
    "two on some of the same cores": (
        replace(PLAIN, devices=(CPU_WORKS, ON_ONE_CORE), cuda_wanted=False),
        "shared-cores warning",
        "devices 'cpu' and 'cpu:big' share the cores",
        "keep them apart",
        0,
    ),
    "quota": (
        with_host(replace(PLAIN, cuda_wanted=False, devices=()), quota_cores=2.0),
        "cpu-quota ok",
        "2 of 8 cores may be busy at once",
        "",
        0,
    ),
    "telemetry": (
        with_runtime(replace(PLAIN, cuda_wanted=False), telemetry_off=False),
        "telemetry-on warning",
        "telemetry is on",
        "export ORT_DISABLE_TELEMETRY=1",
        0,
    ),
}


@pytest.mark.parametrize(("checkup", "kind", "words", "fix", "status"), HOSTS.values(), ids=HOSTS.keys())
def test_each_host_gets_the_right_finding_fix_and_exit_status(
    checkup: Checkup, kind: str, words: str, fix: str, status: int
) -> None:
    findings = judge(checkup)
    assert exit_code(findings) == status
    assert [f"{finding.code} {finding.severity}" for finding in findings] == ([kind] if kind else [])
    for finding in findings:
        assert words in finding.what
        assert finding.fix.startswith(fix)
        assert bool(finding.fix) == (finding.severity != "ok")


@pytest.mark.parametrize("checkup", [row[0] for row in HOSTS.values()], ids=HOSTS.keys())
def test_the_page_fits_its_width_and_has_the_content_of_the_json(checkup: Checkup) -> None:
    findings = judge(checkup)
    text, content = page.as_text(checkup, findings), json.loads(page.as_json(checkup, findings))
    assert max(len(line) for line in text.splitlines() if "fix: " not in line) <= 100
    flat = " ".join(text.split())
    for finding in content["findings"]:
        assert finding["what"] in flat
        assert finding["why"] in flat
        assert finding["fix"] in text
    for device in content["devices"]:
        assert device["device"]["name"] in text
    for library in content["nvidia"]["libraries"]:
        assert library["file"] in text or not content["nvidia"]["loaded"]
    assert content["healthy"] is (exit_code(findings) == 0)
    assert content["host"]["cpu"] in text


@pytest.mark.parametrize(
    ("installed", "driver", "its_cuda", "needed", "branch"),
    [("13.0", "550.54.15", "12.4", 13, 580), ("12.9", "520.61.05", "11.8", 12, 525)],
)
def test_58_a_driver_that_is_too_old_for_cuda_is_a_problem_that_names_the_one_to_install(
    installed: str, driver: str, its_cuda: str, needed: int, branch: int
) -> None:
    host = with_runtime(with_nvidia(BROKEN_GPU, driver=driver, cuda=its_cuda), cuda=installed)
    (finding,) = [finding for finding in judge(host) if finding.code == "driver-too-old"]

    assert finding.severity == "problem"
    assert finding.what == f"driver {driver} supports CUDA up to {its_cuda}, and onnxruntime-gpu 1.31.1 needs {needed}"
    assert finding.why == f"CUDA {needed} begins with driver {branch}"
    assert f"sudo apt-get install -y nvidia-driver-{branch} && sudo reboot" in finding.fix
    assert not [each for each in judge(with_nvidia(host, cuda=installed)) if each.code == "driver-too-old"]


def test_more_threads_than_the_quota_allows_is_a_warning_that_names_the_right_number() -> None:
    busy = Tried(replace(devices.cpu(), threads=8), "", 0.01, declared=True)
    findings = judge(with_host(replace(PLAIN, devices=(busy,)), quota_cores=1.5))
    (finding,) = [finding for finding in findings if finding.severity == "warning"]
    assert finding.fix == "in [devices.'cpu']: threads = 2"


def test_a_failing_gpu_that_another_finding_explains_is_reported_only_if_it_is_declared() -> None:
    explained = without(BROKEN_GPU, "libcudnn.so.9")
    assert [finding.code for finding in judge(explained)] == ["missing-library"]
    declared = replace(explained, devices=(replace(CUDA_FAILS, declared=True),))
    assert {finding.code for finding in judge(declared)} == {"missing-library", "device-fails"}


def test_findings_are_sorted_by_severity() -> None:
    everything = with_runtime(with_host(without(BROKEN_GPU, "libcudnn.so.9"), quota_cores=2.0), telemetry_off=False)
    assert [finding.severity for finding in judge(everything)] == ["problem", "warning", "ok"]


@pytest.mark.parametrize(
    ("row", "codes", "status"),
    [
        (ModelOnDevice("m", "1", "cpu", "", nodes={"CPUExecutionProvider": 3}, load_s=0.1), [], 0),
        (ModelOnDevice("m", "1", "cuda:0", "not allowed", allowed=False), [], 0),
        (ModelOnDevice("m", "1", "cuda:0", "out of memory"), ["model-not-on-device"], 0),
        (ModelOnDevice("m", "1", "", "there is no model.onnx"), ["model-fails"], 1),
    ],
)
def test_a_model_that_runs_nowhere_is_a_problem(row: ModelOnDevice, codes: list[str], status: int) -> None:
    checkup = replace(WITH_GPU, models=(row,))
    findings = judge(checkup)
    assert ([finding.code for finding in findings], exit_code(findings)) == (codes, status)
    assert "MODELS" in page.as_text(checkup, findings)


def test_the_shares_of_nodes_are_shown_by_provider() -> None:
    nodes = {"CUDAExecutionProvider": 9, "CPUExecutionProvider": 1}
    row = ModelOnDevice("m", "1", "cuda:0", "", nodes=nodes, load_s=1.25, parity_error=2e-4, parity_reference="cpu")
    text = page.as_text(replace(WITH_GPU, models=(row,)), [])
    assert "CPU 10%, CUDA 90%" in text
    assert "2.0e-04 (cpu)" in text
    assert "1.2 s" in text


def test_all_device_files_are_shown_with_their_errors() -> None:
    text = page.as_text(with_file(BROKEN_GPU, "EACCES"), [])
    assert all(file.path in text for file in FILES)
    assert "/dev/nvidia0 (EACCES)" in text


@pytest.mark.parametrize(
    ("guarded", "severity", "what"), [(True, "ok", "in a process of its own"), (False, "warning", "can end")]
)
def test_hazardous_models_are_named_with_the_reason(guarded: bool, severity: str, what: str) -> None:
    device = Tried(replace(devices.cpu(), guarded=guarded), "", 0.01)
    row = ModelOnDevice("m", "1", "cpu", "", hazards=("Div 'q' divides integers by a value of the request",))
    found = [f for f in judge(replace(WITH_GPU, devices=(device,), models=(row,))) if f.code == "hazardous-model"]
    assert [(f.severity, f.why) for f in found] == [(severity, row.hazards[0])]
    assert what in found[0].what
