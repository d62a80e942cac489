"""A loaded version of a model: what it takes and gives, and where it runs, in each precision that it has."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from turnout_server.core.errors import FailedPrecondition, ServingError
from turnout_server.core.model_config import ModelConfiguration
from turnout_server.core.signatures import Signature
from turnout_server.models.deployments import Deployment

#: Different `device` values that are remembered for each model.
LAST_ROUTES = 64


@dataclass(frozen=True, eq=False)
class ModelVersion:
    """A loaded version.

    Attributes:
        deployments: by the names of the devices that it runs on.
        unavailable: why it doesn't run on the others.
        variants: the same of its files in other precisions, by precision. Only requests that ask for one get it.
        last_routes: the device chosen last, by what was asked for.
    """

    name: str
    version: int
    configuration: ModelConfiguration
    signature: Signature
    deployments: Mapping[str, Deployment]
    unavailable: Mapping[str, ServingError]
    variants: Mapping[str, "ModelVersion"] = field(default_factory=dict)
    last_routes: dict[str, str] = field(default_factory=dict)

    @property
    def batchable(self) -> bool:
        """Whether requests may be batched on any of its devices."""
        return any(deployment.batchable for deployment in self.deployments.values())

    def on(self, device: str) -> list[Deployment]:
        """What it has on a device: its deployment there, then those in other precisions."""
        versions = (self, *self.variants.values())
        return [version.deployments[device] for version in versions if device in version.deployments]

    def in_precision(self, precision: str) -> "ModelVersion":
        """The version on the devices that have a file of this precision; as it is if that is empty.

        Raises:
            FailedPrecondition: no device has one; the text says what there is.
        """
        if not precision:
            return self
        if (version := self._by_precision.get(precision)) is None:
            raise FailedPrecondition(f"model '{self.name}' has no {precision} file: {self._has()}")
        return version

    def remember(self, requested: str, device: str) -> None:
        """The device chosen last for what was asked for; forgets all when clients find ever new words for it."""
        if len(self.last_routes) >= LAST_ROUTES:
            self.last_routes.clear()
        self.last_routes[requested] = device

    @cached_property
    def _by_precision(self) -> dict[str, "ModelVersion"]:
        own = (deployment.precision for deployment in self.deployments.values())
        return {precision: self._of(precision) for precision in dict.fromkeys((*own, *self.variants))}

    def _of(self, precision: str) -> "ModelVersion":
        """The version on the devices that have a file of a precision that some have."""
        deployments: dict[str, Deployment] = {}
        unavailable: dict[str, ServingError] = {}
        failures = self.variants[precision].unavailable if precision in self.variants else {}
        for device in (*self.deployments, *self.unavailable):
            if fitting := [each for each in self.on(device) if each.precision == precision]:
                deployments[device] = fitting[0]
            elif reason := failures.get(device) or self.unavailable.get(device):
                unavailable[device] = reason
            else:
                unavailable[device] = FailedPrecondition(
                    f"model '{self.name}' has no {precision} file for device '{device}': {self._has()}"
                )
        if deployments == self.deployments:
            return self
        return ModelVersion(self.name, self.version, self.configuration, self.signature, deployments, unavailable)

    def _has(self) -> str:
        devices = (*self.deployments, *self.unavailable)
        there = [(device, ", ".join(each.precision for each in self.on(device))) for device in devices]
        listed = "; ".join(f"{precisions} on '{device}'" for device, precisions in there if precisions)
        return f"there is {listed} (turnout.variants in config.pbtxt lists others)"
