"""Places: hardware that devices share and take turns on. Pure functions.

Two providers on the same cores, or on one GPU, slow each other down when they run at once, and what was measured of either is
wrong then. Devices that would do that share a place, with one queue for all of them; a device with hardware of its own has a
place of its own.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from turnout_server.devices.device import PROVIDERS, Device
from turnout_server.devices.host import usable_cores, usable_cpus


@dataclass(frozen=True)
class Place:
    """Hardware with one queue.

    Attributes:
        devices: those that run here.
        instances: runs in progress at once.
        cores: how many runs may be in progress instead if each is on one core; 0 for none.
        cpus: the cores that the devices were kept to; empty for any, and for other hardware.
    """

    devices: tuple[Device, ...]
    instances: int
    cores: int
    cpus: tuple[int, ...]


def places_of(devices: Sequence[Device]) -> list[Place]:
    """The places of a server's devices.

    Devices on exactly the same cores share a place, unless all their threads fit there at once. So do devices on one GPU.
    """
    by_hardware: dict[Hashable, list[Device]] = {}
    for device in devices:
        by_hardware.setdefault(_hardware(device), []).append(device)
    places: list[Place] = []
    for sharing in by_hardware.values():
        groups = [[device] for device in sharing] if _fit(sharing) else [sharing]
        places += map(_place, groups)
    return places


def shared_cores(devices: Sequence[Device]) -> Iterator[tuple[Device, Device, tuple[int, ...]]]:
    """Every two devices that may run on the same cores although they have different places, and which cores those are.

    What was measured of either alone is wrong while the other is busy.
    """
    for one, other in combinations([device for device in devices if on_cores(device)], 2):
        common = _cores_of(one) & _cores_of(other)
        if common and one.cpus != other.cpus:
            yield one, other, tuple(sorted(common))


def on_cores(device: Device) -> bool:
    """Whether a device computes on the machine's CPU."""
    return device.provider == PROVIDERS["cpu"] or device.hardware == "cpu"


def _place(devices: Sequence[Device]) -> Place:
    """The place of devices that share hardware."""
    cores = max((device.threads for device in devices if device.per_core), default=0)
    return Place(tuple(devices), max(device.instances for device in devices), cores, devices[0].cpus)


def _hardware(device: Device) -> Hashable:
    """What a device computes on, equal for devices that share it; a device of an unknown kind has hardware of its own."""
    if on_cores(device):
        return "cores", device.cpus
    if device.provider in (PROVIDERS["cuda"], PROVIDERS["tensorrt"]):
        return "gpu", device.provider_options.get("device_id", "0")
    return device.name


def _fit(devices: Sequence[Device]) -> bool:
    """Whether all instances of devices on the same cores have cores enough at once."""
    if len(devices) == 1:
        return True
    if not on_cores(devices[0]):
        return False
    cores = len(devices[0].cpus) or usable_cpus()
    return sum(device.instances * (device.threads or cores) for device in devices) <= cores


def _cores_of(device: Device) -> set[int]:
    """The cores that a device's runs may use."""
    return set(device.cpus or usable_cores())
