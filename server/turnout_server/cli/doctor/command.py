"""The command: reads its settings, examines the machine, and prints the page."""

import logging
from typing import Any

import click
from turnout_cli.family import SETTINGS

from turnout_server import settings_sources
from turnout_server.cli import flags
from turnout_server.cli.doctor import facts, findings, page
from turnout_server.cli.doctor.checkup import Checkup
from turnout_server.cli.doctor.facts import Facts, Machine
from turnout_server.cli.textpage import stdout_to_stderr
from turnout_server.core.errors import ServingError
from turnout_server.devices import openvino
from turnout_server.devices.device import Device, cpu, cuda
from turnout_server.devices.discovery import missing_for_cuda
from turnout_server.settings import DoctorSettings
from turnout_server.settings_sources import UsageError

#: The settings that bear on what is tried.
_READ = ("config", "model_repository", "model_name", "devices")
_EPILOG = "Exit status: 0 if every device that this machine should have works, 1 if not, 2 if the arguments are wrong."


@click.command(
    "doctor",
    cls=flags.SettingsCommand,
    params=[
        click.Option(["as_json", "--json"], is_flag=True, help="print JSON instead of the page"),
        *flags.options(DoctorSettings, leave_out=set(DoctorSettings.model_fields) - set(_READ)),
    ],
    context_settings=SETTINGS,
    short_help="Print what works on this machine, and the fixes.",
    epilog=_EPILOG,
)
def doctor(as_json: bool, **parameters: Any) -> int:
    """Print what each device of this machine is, what is missing, and how to fix it."""
    chosen = settings_sources.read(flags.given(parameters), DoctorSettings)
    logging.getLogger("turnout_server").addHandler(logging.NullHandler())  # the page has the reasons
    with stdout_to_stderr():
        checkup = examine(chosen, Machine(_providers))
    found = findings.judge(checkup)
    print(page.as_json(checkup, found) if as_json else page.as_text(checkup, found))
    return findings.exit_code(found)


def examine(chosen: DoctorSettings, machine: Machine) -> Checkup:
    """Reads the machine, and tries the devices and models that a server with these settings would have."""
    read = facts.read(machine)
    disabled = chosen.disabled()
    declared = chosen.declared_devices()
    wanted = "cuda" not in disabled or any(device.kind == "cuda" for device in declared)
    if not read.runtime.usable:
        return Checkup(read, cuda_wanted=wanted)
    from turnout_server.cli.doctor.trial import Trial  # noqa: PLC0415, fails where ONNX Runtime is broken

    if missing_for_cuda(read.runtime.providers, machine.root) is not None:
        disabled = disabled | {"cuda"}
    trial = Trial(_candidates(declared, disabled, read))
    try:
        models = trial.models(chosen) if chosen.model_repository else ()
    except ServingError as error:
        raise UsageError(str(error)) from None
    finally:
        trial.stop()
    return Checkup(read, trial.tried, models, wanted)


def _candidates(declared: list[Device], disabled: set[str], read: Facts) -> list[tuple[Device, bool]]:
    """The devices to try, and whether each is declared: the declared ones, and those that a server would discover."""
    gpus = [] if "cuda" in disabled else [cuda(number) for number in range(read.nvidia.count)]
    plugged_in = [openvino.openvino(plugin)] if (plugin := openvino.library()) else []
    known = {device.name for device in declared} | disabled
    found = [device for device in (cpu(), *plugged_in, *gpus) if device.name not in known]
    tried = [(device, True) for device in declared] + [(device, False) for device in found]
    return [(openvino.configured(device, None), is_declared) for device, is_declared in tried]


def _providers() -> tuple[str, ...]:
    from turnout_server.devices.sessions import built_in_providers  # noqa: PLC0415, fails where ONNX Runtime is broken

    return built_in_providers()
