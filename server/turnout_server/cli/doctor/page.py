"""The page as text and as JSON, both from the same facts, devices, models and findings."""

import importlib.metadata
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from turnout_server.cli.doctor.checkup import Checkup, Finding, ModelOnDevice, Tried
from turnout_server.cli.doctor.facts import Host, Runtime
from turnout_server.cli.doctor.findings import exit_code
from turnout_server.cli.doctor.nvidia import Gpu, Nvidia
from turnout_server.cli.textpage import line, table, wrapped

_GIB = 2**30


def as_json(checkup: Checkup, findings: Sequence[Finding]) -> str:
    """The page as a JSON object; the keys of facts end in their unit."""
    content = {
        "schema_version": 1,
        "turnout_version": importlib.metadata.version("turnout"),
        "healthy": not exit_code(list(findings)),
        **asdict(checkup.facts),
        "devices": [asdict(tried) for tried in checkup.devices],
        "models": [asdict(row) for row in checkup.models],
        "findings": [asdict(finding) for finding in findings],
    }
    return json.dumps(content, indent=2)


def as_text(checkup: Checkup, findings: Sequence[Finding]) -> str:
    """The page, for a terminal of 100 columns."""
    facts = checkup.facts
    sections = {
        "HOST": _host(facts.host),
        "ONNX RUNTIME": _runtime(facts.runtime),
        "NVIDIA": _nvidia(facts.nvidia),
        "DEVICES": _devices(checkup),
        "MODELS": _models(checkup.models),
        "FINDINGS": _findings(findings),
    }
    blocks = [f"{title}\n" + "\n".join(lines) for title, content in sections.items() if (lines := list(content))]
    return "\n\n".join([_verdict(findings), *blocks])


def _verdict(findings: Sequence[Finding]) -> str:
    counts = Counter(finding.severity for finding in findings)
    counted = [_count(counts[severity], severity) for severity in ("problem", "warning") if counts[severity]]
    state = [] if counts["problem"] else ["every device that this machine should have works"]
    fixes = [f"{', '.join(counted)}, and the fix at the end"] if counted else []
    return f"Turnout {importlib.metadata.version('turnout')}: {'; '.join(state + fixes)}"


def _host(host: Host) -> Iterator[str]:
    quota = "none" if host.quota_cores is None else f"{host.quota_cores:g} cores"
    limit = "none" if host.memory_limit_bytes is None else _gib(host.memory_limit_bytes)
    yield line("cpu", host.cpu)
    yield line("cores", f"{host.usable_cores} usable of {host.cores} (affinity {_ranges(host.affinity)}, cgroup quota {quota})")
    yield line("memory", f"{_gib(host.memory_bytes)} (cgroup limit {limit})")


def _runtime(runtime: Runtime) -> Iterator[str]:
    built = f", built for CUDA {runtime.cuda} and cuDNN 9" if runtime.cuda else ""
    yield line("installed", (runtime.name or "nothing") + built)
    if runtime.providers:
        yield line("providers", f"{', '.join(runtime.providers)} (compiled in)")
    if runtime.plugins:
        yield line("plug-ins", ", ".join(f"{name} {version}" for name, version in runtime.plugins.items()))
    yield line("telemetry", "off" if runtime.telemetry_off else "on")


def _nvidia(nvidia: Nvidia) -> Iterator[str]:
    if not nvidia.loaded:
        yield line("driver", "none is loaded")
        return
    yield line("driver", f"{nvidia.driver or 'of unknown version'}, for CUDA up to {nvidia.cuda or 'an unknown version'}")
    for gpu in nvidia.gpus:
        yield line(f"GPU {gpu.number}", _gpu(gpu))
    if nvidia.nvml:
        yield line("NVML", nvidia.nvml)
    if nvidia.visible is not None:
        yield line("visible", f"CUDA_VISIBLE_DEVICES='{nvidia.visible}'")
    files = [f"{file.path}" + (f" ({file.problem})" if file.problem else "") for file in nvidia.device_files]
    yield line("device files", ", ".join(files) or "none")
    for library in nvidia.libraries:
        instead = f" (there is {', '.join(library.others)})" if library.others else ""
        yield line(library.file, library.found or f"MISSING{instead}")


def _gpu(gpu: Gpu) -> str:
    memory = "memory unknown" if gpu.memory_bytes is None else _gib(gpu.memory_bytes)
    return f"{gpu.name}, {memory}, MIG {'on' if gpu.mig else 'off'}, compute mode {gpu.compute_mode}"


def _devices(checkup: Checkup) -> Iterator[str]:
    if not checkup.startable:
        yield "  none was tried: the server does not start with this installation"
        return
    header = ("name", "provider", "threads", "cores", "instances", "isolation", "test run")
    yield from table(header, [_device(tried) for tried in checkup.devices])


def _device(tried: Tried) -> tuple[str, ...]:
    device = tried.device
    return (
        device.name,
        _short(device.provider),
        str(device.threads or "-"),
        _ranges(device.cpus) or "any",
        str(device.instances),
        "process" if device.isolated else "in-process",
        "FAILS" if tried.problem else f"ok, {_time(tried.start_s)}",
    )


def _models(models: Sequence[ModelOnDevice]) -> Iterator[str]:
    if models:
        yield from table(("model", "version", "device", "nodes", "parity error", "load"), [_model(row) for row in models])


def _model(row: ModelOnDevice) -> tuple[str, ...]:
    nodes = sum(row.nodes.values())
    shares = ", ".join(f"{_short(provider)} {count / nodes:.0%}" for provider, count in sorted(row.nodes.items()))
    parity = "-" if row.parity_error is None else f"{row.parity_error:.1e} ({row.parity_reference})"
    loads = _time(row.load_s) if not row.problem else "FAILS" if row.allowed else "not allowed"
    return (
        row.model,
        row.version or "-",
        " ".join(filter(None, (row.device or "all", row.precision))),
        shares or "-",
        parity,
        loads,
    )


def _findings(findings: Sequence[Finding]) -> Iterator[str]:
    for finding in findings:
        yield from wrapped(f"  {finding.severity:8} {finding.what}", 11)
        if finding.why:
            yield from wrapped(f"{'':11}{finding.why}", 11)
        if finding.fix:  # never wrapped, so that it can be copied
            yield f"{'':11}fix: {finding.fix}"
    if not findings:
        yield "  none"


def _short(provider: str) -> str:
    return provider.removesuffix("ExecutionProvider")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number > 1 else ''}"


def _time(duration_s: float) -> str:
    return f"{duration_s:.1f} s" if duration_s >= 1 else f"{duration_s * 1000:.0f} ms"


def _gib(count_bytes: int) -> str:
    return f"{count_bytes / _GIB:.1f} GiB"


def _ranges(cores: Sequence[int]) -> str:
    """`0-3,6` for 0, 1, 2, 3 and 6."""
    runs: list[list[int]] = []
    for core in cores:
        if runs and core == runs[-1][-1] + 1:
            runs[-1].append(core)
        else:
            runs.append([core])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
