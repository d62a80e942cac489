"""The command: reads its settings, examines the machine, and prints the page."""

import argparse
import logging
from collections.abc import Sequence
from typing import NoReturn

from turnout_server import settings_sources
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


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raises an error of one line; argparse would add its usage."""
        raise UsageError(f"{message}; see turnout-server doctor --help")


def main(arguments: Sequence[str]) -> int:
    """Prints the page; returns 0 if every device that this machine should have works, and 1 if not.

    Raises:
        UsageError: the arguments or the settings are wrong.
        SystemExit: `--help`.
    """
    flags, as_json = _read(arguments)
    chosen = settings_sources.read_for_doctor(flags)
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


def _read(arguments: Sequence[str]) -> tuple[list[str], bool]:
    """The server's flags among the arguments, and whether to print JSON."""
    parser = _Parser("turnout-server doctor", description="Prints what each device is, what is missing, and how to fix it.")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the page")
    parser.add_argument("--config", metavar="FILE", help="the server's TOML file, for the devices it declares")
    parser.add_argument(
        "--device", metavar="NAME={...}", action="append", default=[], help="also try this device, declared as for the server"
    )
    parser.add_argument("--model-repository", metavar="DIR", help="also load these models on every device")
    parser.add_argument("--model-name", metavar="NAME", help="the model's name, if DIR is a single bare model")
    chosen = vars(parser.parse_args(list(arguments)))
    as_json = chosen.pop("json")
    declared = [f"--device={value}" for value in chosen.pop("device")]
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in chosen.items() if value is not None]
    return declared + flags, as_json


def _providers() -> tuple[str, ...]:
    from turnout_server.devices.sessions import built_in_providers  # noqa: PLC0415, fails where ONNX Runtime is broken

    return built_in_providers()
