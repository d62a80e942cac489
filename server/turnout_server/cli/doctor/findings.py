"""Judges the facts and the test runs: what is wrong, and how to fix it. Reads nothing from the machine.

Test runs count more than facts: if every GPU works, no fact about a GPU is a problem.
"""

from collections.abc import Iterator

from turnout_server.cli.doctor.checkup import Checkup, Finding, ModelOnDevice, Tried
from turnout_server.cli.doctor.facts import Facts
from turnout_server.cli.doctor.gpufindings import ASK_KERNEL, of_missing_gpus, of_working_gpus
from turnout_server.devices import openvino
from turnout_server.devices.places import places_of, shared_cores


def judge(checkup: Checkup) -> list[Finding]:
    """Every finding, the worst first."""
    found = [
        *_of_runtime(checkup.facts),
        *_of_cores(checkup),
        *_of_places(checkup),
        *_of_limits(checkup),
        *_of_plugins(checkup),
    ]
    if checkup.startable:
        of_gpus = list(_of_gpus(checkup))
        explained = any(finding.severity == "problem" for finding in of_gpus)
        found += [*of_gpus, *(finding for tried in checkup.devices for finding in _of_device(tried, explained))]
    found += [finding for row in checkup.models if row.problem and row.allowed for finding in _of_model(row)]
    found += _of_hazards(checkup)
    return sorted(found, key=lambda finding: ("problem", "warning", "ok").index(finding.severity))


def exit_code(findings: list[Finding]) -> int:
    """1 if there is a problem, else 0."""
    return int(any(finding.severity == "problem" for finding in findings))


def _of_gpus(checkup: Checkup) -> Iterator[Finding]:
    gpus = [tried for tried in checkup.devices if tried.device.kind == "cuda"]
    if gpus and not any(tried.problem for tried in gpus):
        yield from of_working_gpus(checkup.facts)
    elif checkup.cuda_wanted:
        yield from of_missing_gpus(checkup)


def _of_runtime(facts: Facts) -> Iterator[Finding]:
    runtime = facts.runtime
    extra = "gpu" if facts.nvidia.present else "cpu"
    install = facts.install[extra]
    if not runtime.wheels:
        yield Finding("problem", "no-runtime", "no ONNX Runtime is installed", "the server cannot start without it", install)
    elif len(runtime.wheels) > 1:
        why = "they overwrite each other's files, and the last one installed silently wins; the server refuses to start"
        fix = f"pip uninstall -y {' '.join(runtime.wheels)} && {install}"
        yield Finding("problem", "two-runtimes", f"{' and '.join(runtime.wheels)} are both installed", why, fix)
    elif runtime.problem:
        wheel, version = next(iter(runtime.wheels.items()))
        why = "its files are damaged, for example by uninstalling another ONNX Runtime wheel, or are for another system"
        fix = f"pip install --force-reinstall --no-deps {wheel}=={version}"
        yield Finding("problem", "broken-runtime", f"ONNX Runtime cannot be imported: {runtime.problem}", why, fix)
    if not runtime.telemetry_off:
        why = "ONNX Runtime reports usage over the network unless ORT_DISABLE_TELEMETRY is 1"
        yield Finding("warning", "telemetry-on", "ONNX Runtime's telemetry is on", why, "export ORT_DISABLE_TELEMETRY=1")


def _of_cores(checkup: Checkup) -> Iterator[Finding]:
    host = checkup.facts.host
    quota = host.quota_cores
    if quota is None or quota >= len(host.affinity):
        return
    what = f"{quota:g} of {len(host.affinity)} cores may be busy at once: that is the control group's quota"
    yield Finding("ok", "cpu-quota", what, "undeclared CPU devices keep to it")
    for tried in checkup.devices:
        device = tried.device
        if device.kind == "cpu" and device.threads > host.usable_cores:
            why = "threads beyond the quota are stopped for the rest of each period, in the middle of a run"
            what = f"device '{device.name}' has {device.threads} threads where the quota is {quota:g} cores"
            yield Finding(
                "warning", "more-threads-than-quota", what, why, f"in [devices.'{device.name}']: threads = {host.usable_cores}"
            )


def _of_places(checkup: Checkup) -> Iterator[Finding]:
    """Which devices take turns, and which should but don't."""
    working = [tried.device for tried in checkup.devices if not tried.problem]
    for place in places_of(working):
        if len(place.devices) > 1:
            names = " and ".join(f"'{device.name}'" for device in place.devices)
            why = "together they would slow each other down; a request waits once, and then runs where it was sent"
            yield Finding("ok", "shared-place", f"devices {names} share hardware and take turns on it", why)
    for one, other, cores in shared_cores(working):
        what = f"devices '{one.name}' and '{other.name}' share the cores {list(cores)}"
        why = "the profile of each is wrong while the other is busy"
        fix = "keep them apart with cpus in their tables, or add disabled = true to one"
        yield Finding("warning", "shared-cores", what, why, fix)


def _of_plugins(checkup: Checkup) -> Iterator[Finding]:
    """Plug-in providers that are installed for nothing."""
    libraries = " ".join(tried.device.library for tried in checkup.devices)
    for plugin, version in checkup.facts.runtime.plugins.items():
        if plugin.replace("-", "_") not in libraries:
            why = "a plug-in provider is used by devices that name its library"
            fix = f"declare a device with it (docs/devices.md, Plug-in providers), or: pip uninstall {plugin}"
            yield Finding("warning", "unused-plugin", f"{plugin} {version} is installed, and no device uses it", why, fix)


def _of_limits(checkup: Checkup) -> Iterator[Finding]:
    """What a GPU's memory limit adds up to: ONNX Runtime applies it to each session separately."""
    for device in [tried.device for tried in checkup.devices if tried.device.is_cuda and tried.device.memory_limit_mb]:
        sessions = sum(row.device == device.name and not row.problem for row in checkup.models)
        if sessions > 1:
            what = f"{sessions} sessions on '{device.name}' may take {device.memory_limit_mb} MiB each, besides what CUDA needs"
            why = "memory_limit_mb limits the tensors of each model separately, and likewise its weights"
            yield Finding("ok", "limit-per-session", what, why)


def _of_device(tried: Tried, explained: bool) -> Iterator[Finding]:
    """A device that fails, unless another finding explains it and it isn't declared."""
    if not tried.problem or (explained and not tried.declared):
        return
    name = tried.device.name
    if openvino.is_plugin(tried.device) and not tried.declared:
        fix = (
            "nothing, if this machine has no hardware by Intel; [devices.openvino] disabled = true keeps the server from trying"
        )
        yield Finding("warning", "device-fails", f"device '{name}' does not work", tried.problem, fix)
        return
    fix = f"correct [devices.'{name}'] in the --config file, or add disabled = true to it" if tried.declared else ASK_KERNEL
    yield Finding("problem", "device-fails", f"device '{name}' does not work", tried.problem, fix)


def _of_hazards(checkup: Checkup) -> Iterator[Finding]:
    """Models that a value of a request could end, or occupy for ever, and whether the server is safe from them."""
    devices = {tried.device.name: tried.device for tried in checkup.devices}
    for row in checkup.models:
        if row.hazards and (device := devices.get(row.device)) is not None:
            name = f"model '{row.model}' version {row.version}"
            if device.isolated or device.guarded:
                what = f"{name} runs in a process of its own on '{row.device}'"
                yield Finding("ok", "hazardous-model", what, row.hazards[0])
            else:
                what = f"{name} can end or stop the server, where it runs on '{row.device}'"
                fix = f"leave out isolation in [devices.'{row.device}']: such models then run in a process of their own"
                yield Finding("warning", "hazardous-model", what, row.hazards[0], fix)


def _of_model(row: ModelOnDevice) -> Iterator[Finding]:
    name = f"model '{row.model}'" + (f" version {row.version}" if row.version else "")
    if row.precision:
        fix = f"mend its file, or leave it out of turnout.variants.{row.device.partition(':')[0]} in config.pbtxt"
        what = f"{name} is not served in {row.precision} on '{row.device}'"
        yield Finding("warning", "variant-not-on-device", what, row.problem, fix)
    elif row.device:
        fix = "name the devices that it does run on in its config.pbtxt, as turnout.devices under parameters"
        yield Finding("warning", "model-not-on-device", f"{name} does not run on '{row.device}'", row.problem, fix)
    else:
        fix = "correct its files as the reason says, or move its directory out of the repository"
        yield Finding("problem", "model-fails", f"{name} does not load", row.problem, fix)
