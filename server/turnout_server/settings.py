"""The server's settings: names, types, defaults and allowed values. `settings_sources` reads them."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from turnout_server.core.device_names import KINDS, UNLABELLED_KINDS, entries_of, is_device_name, kind_of, number_of
from turnout_server.devices import openvino
from turnout_server.devices.device import GPU_INSTANCES, GPU_THREADS, PROVIDERS, Device, default_options
from turnout_server.devices.host import usable_cores, usable_cpus, why_no_client_shm, why_no_isolation, why_no_pinning
from turnout_server.models.control import Mode
from turnout_server.transport import addresses, channel_arguments, selection

PREFIX = "TURNOUT_"
_LIMITS = ("grpc.max_receive_message_length", "grpc.max_send_message_length")

Port = Annotated[int, Field(ge=0, le=65535)]
#: The longest time that can be set: gRPC counts milliseconds in 32 bits, and nothing here waits for 25 days.
MAX_S = 2**31 // 1000
Seconds = Annotated[float, Field(ge=0, le=MAX_S)]


class DeviceSettings(BaseModel):
    """One `[devices.NAME]` table; a key that is left out has the value of an undeclared device."""

    model_config = ConfigDict(extra="forbid")

    provider: str = ""
    library: str = ""
    hardware: Literal["", "cpu", "gpu", "npu"] = ""
    provider_options: dict[str, str | int | float] = {}
    threads: int | None = Field(None, ge=0)
    cpus: str = ""
    instances: int | None = Field(None, ge=1, le=64)
    memory_limit_mb: int = Field(0, ge=0)
    price_per_hour: float | None = Field(None, ge=0)
    idle_w: float | None = Field(None, ge=0)
    busy_w: float | None = Field(None, ge=0)
    isolation: Literal["process", "in-process"] | None = None
    watchdog_s: Seconds = Field(10.0, gt=0)
    tf32: bool = True
    cuda_graph_rows: list[Annotated[int, Field(ge=1)]] | None = None
    disabled: bool = False

    @field_validator("cpus")
    @classmethod
    def _are_cores(cls, value: str) -> str:
        cores_of(value)
        return value

    def device(self, name: str) -> Device:
        """The device that this table declares."""
        kind = kind_of(name)
        provider = self.provider or PROVIDERS[kind]
        plugin = self.library or (openvino.library() if provider == PROVIDERS["openvino"] else "")
        hardware = self.hardware or ("cpu" if plugin and not self.library else "")
        defaults = default_options(provider, number_of(name), self.memory_limit_mb, tf32=self.tf32)
        declared = {key: str(value) for key, value in self.provider_options.items()}
        cores = cores_of(self.cpus)
        on_cuda = provider == PROVIDERS["cuda"] and not self.library
        on_cores = kind == "cpu" or (kind == "openvino" and hardware == "cpu")
        default_threads = len(cores) or (usable_cpus() if on_cores else GPU_THREADS if on_cuda else 0)
        default_isolated = (kind != "cpu" or bool(plugin)) and why_no_isolation() is None
        isolated = default_isolated if self.isolation is None else self.isolation == "process"
        return Device(
            name=name,
            kind=kind,
            provider=provider,
            provider_options=declared if plugin else defaults | declared,
            library=plugin and str(Path(plugin).absolute()),  # ONNX Runtime looks in its own directory
            hardware=hardware,
            threads=default_threads if self.threads is None else self.threads,
            cpus=cores,
            instances=self.instances or (GPU_INSTANCES if on_cuda else 1),
            per_core=self.instances is None and provider == PROVIDERS["cpu"] and not plugin and not isolated,
            memory_limit_mb=self.memory_limit_mb,
            price_per_hour=self.price_per_hour,
            idle_w=self.idle_w,
            busy_w=self.busy_w,
            graph_rows=None if self.cuda_graph_rows is None else tuple(sorted(set(self.cuda_graph_rows))),
            isolated=isolated,
            guarded=self.isolation is None and not default_isolated,
            watchdog_s=self.watchdog_s,
        )

    def rejection(self, name: str) -> str | None:
        """Why this table can't declare a device called `name`; None if it can."""
        kind = kind_of(name)
        bare = name == kind and kind not in UNLABELLED_KINDS and not (self.disabled and kind in KINDS)
        if bare or not is_device_name(name):
            return "a device is called cpu, openvino or <kind>:<label>"
        if kind not in KINDS and not self.provider:
            return f"'{kind}' is none of {', '.join(KINDS)}; a device of another kind needs a provider"
        if self.library and not self.provider:
            return "a library needs a provider: the name of the one in it"
        if self.hardware and not self.device(name).library:
            return "'hardware' is for providers that come in a library"
        if self.idle_w is not None and self.busy_w is not None and self.idle_w > self.busy_w:
            return f"idle_w is {self.idle_w:g} and busy_w {self.busy_w:g}, but a busy device takes no less than an idle one"
        return None if self.disabled else self._without_effect(self.device(name))

    def _without_effect(self, device: Device) -> str | None:
        """Which setting of this table would have no effect on the device; None if each has one."""
        if not self.tf32 and not device.is_cuda:
            return "the setting 'tf32' is for CUDA devices"
        if self.provider_options and device.provider == PROVIDERS["cpu"] and not device.library:
            return f"{device.provider} has no provider_options; there are threads, cpus and instances"
        if self.cuda_graph_rows and not device.is_cuda:
            return "the setting 'cuda_graph_rows' is for CUDA devices"
        if self.cuda_graph_rows and not device.isolated:
            return 'cuda_graph_rows needs isolation = "process": a graph is captured while nothing else uses the GPU'
        if not self.memory_limit_mb or device.is_cuda:
            return None
        if device.kind != "cpu":
            return f"memory_limit_mb is for CPU and CUDA devices; {device.provider} may have an option for it"
        return None if device.isolated else 'memory_limit_mb holds a process of its own only; add isolation = "process"'


def cores_of(text: str) -> tuple[int, ...]:
    """The cores in a list such as `0-3,6`.

    Raises:
        ValueError: it isn't such a list, or names a core that this process may not use.
    """
    cores: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        if not first.isdecimal() or not (last or first).isdecimal():
            raise ValueError(f"'{part}' is not a core or a range of cores, such as 2 or 0-3")
        cores.update(range(int(first), int(last or first) + 1))
    if cores and (reason := why_no_pinning()) is not None:
        raise ValueError(f"{reason}; leave it out")
    if not cores <= usable_cores():
        raise ValueError(f"this process may use the cores {sorted(usable_cores())}")
    return tuple(sorted(cores))


class Settings(BaseModel):
    """Everything that an operator can choose; docs/settings.md has the table."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    config: Path | None = Field(None, description="TOML file with any of these settings")

    model_repository: Path = Field(description="directory of models: <model>/<version>/model.onnx; or one ONNX file")
    model_name: str = Field("", description="the model's name, if the repository is a single model or file")
    model_control_mode: Mode = Field(
        "none", description="load all models at the start, also follow the disk, or load on request"
    )
    load_model: list[str] = Field([], description="models to load at the start in mode explicit; '*' for all")
    repository_poll_s: Seconds = Field(15.0, gt=0, description="seconds between two scans of the disk in mode poll")
    max_loaded_models: int = Field(0, ge=0, description="models loaded at once, the rest on demand; 0 for no limit")
    max_loaded_mb: int = Field(0, ge=0, description="MiB of weights loaded at once, the rest on demand; 0 for no limit")
    follow_links: bool = Field(False, description="read files of models through links that lead out of the model's directory")

    host: str = Field(
        "127.0.0.1", description="address to listen on: 0.0.0.0 or :: for every interface; or unix:/PATH, for gRPC alone"
    )
    grpc_port: Port = Field(8001, description="gRPC port; 0 picks a free one")
    metrics_port: Port = Field(
        8002, description="port of the page at /, /metrics, /healthz, /readyz, /explain; 0 picks a free one"
    )
    metrics_host: str = Field("", description="address of the metrics port, if it isn't that of --host")
    transport: selection.Name = Field("auto", description="gRPC transport; auto takes the fast one where it works")
    grpc_options: dict[str, int | str] = Field({}, description="gRPC channel arguments: grpc.NAME=VALUE, or as JSON")
    max_message_bytes: int = Field(256 * 2**20, gt=0, lt=2**31, description="largest message received or sent")
    server_name: str = Field("turnout", description="the server name in ServerMetadata")
    reflection: bool = Field(True, description="answer reflection requests")
    allow_client_shm: bool = Field(False, description="let clients on this machine pass tensors in shared memory")

    tls_certificate: Path | None = Field(None, description="PEM file with the server's certificate, for TLS on the gRPC port")
    tls_key: Path | None = Field(None, description="PEM file with the key of that certificate")
    tls_client_ca: Path | None = Field(
        None, description="PEM file with the authorities of clients' certificates; others are refused"
    )
    tokens: Path | None = Field(None, description="file of bearer tokens, one a line after its roles: 'infer,read TOKEN'")
    allow_control: bool = Field(False, description="let clients without a token change log and trace settings")

    max_streams: int = Field(100, ge=1, le=10**6, description="calls in progress on a connection")
    max_connection_age_s: Seconds = Field(3600.0, description="seconds until a client has to connect anew; 0 for never")
    max_connection_grace_s: Seconds = Field(3600.0, description="seconds that calls may still take on such a connection")
    max_connection_idle_s: Seconds = Field(600.0, description="seconds until a connection without calls is closed; 0 for never")
    stall_timeout_s: Seconds = Field(120.0, description="seconds for a message to arrive, or to be taken; 0 for any time")
    max_in_flight_mb: int | None = Field(
        None, ge=0, description="MiB of requests and answers held; by default a quarter of the memory"
    )

    devices: dict[str, DeviceSettings] = Field(
        {}, description="a declared device, with the keys of its table in the file: 'cpu:slow={threads = 1}'"
    )
    default_device: str = Field("auto", description="device of requests that name none: auto, cpu, cuda, cuda:0, 'cuda,cpu'")
    objective: Literal["latency", "cost", "energy"] = Field("latency", description="how to choose between several devices")
    ready_when: str = Field("any", description="devices that must work for the server to be ready: any, all, or a name")
    max_queue_size: int = Field(1000, gt=0, description="requests that may wait for one device")
    cache_dir: Path | None = Field(None, description="directory for measured profiles, so that the next start is faster")
    profile_budget_s: Seconds = Field(30.0, description="seconds for measuring models before ready; 0 measures nothing")

    drain_delay_s: Seconds = Field(1.0, description="seconds between 'not ready' and refusing calls, on SIGTERM")
    drain_timeout_s: Seconds = Field(30.0, description="seconds for calls in flight to finish, on SIGTERM")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe level to log")
    trace_file: Path | None = Field(None, description="file for the traces that TraceSetting switches on")
    log_format: Literal["text", "json"] = Field("text", description="text, or a JSON object a line")
    otel: bool = Field(False, description="send OpenTelemetry traces; the OTEL_* variables say where to, and how many")

    @field_validator("model_repository")
    @classmethod
    def _exists(cls, path: Path | None) -> Path | None:
        if path is not None and not path.is_dir() and not path.is_file():
            raise ValueError("there is no such directory; create it, or export a model into it with turnout-export")
        return path

    @field_validator("host")
    @classmethod
    def _is_address(cls, value: str) -> str:
        return addresses.checked_host(value)

    @field_validator("metrics_host")
    @classmethod
    def _is_metrics_address(cls, value: str) -> str:
        if addresses.is_unix(value):
            raise ValueError("the metrics port has no unix socket; give an address, such as 127.0.0.1")
        return value and addresses.checked_host(value)

    @field_validator("allow_client_shm")
    @classmethod
    def _is_possible(cls, value: bool) -> bool:
        if value and (reason := why_no_client_shm()) is not None:
            raise ValueError(reason)
        return value

    @field_validator("devices")
    @classmethod
    def _are_devices(cls, value: dict[str, DeviceSettings]) -> dict[str, DeviceSettings]:
        for name, chosen in value.items():
            if (reason := chosen.rejection(name)) is not None:
                raise ValueError(f"[devices.{name!r}] cannot be declared: {reason}")
        return value

    @field_validator("default_device")
    @classmethod
    def _is_device(cls, value: str, others: ValidationInfo) -> str:
        declared: dict[str, DeviceSettings] = others.data.get("devices", {})
        entries_of(value, {kind_of(name) for name, chosen in declared.items() if not chosen.disabled})
        return value

    @field_validator("grpc_options", mode="before")
    @classmethod
    def _are_channel_arguments(cls, value: Any) -> Any:
        for name, argument in value.items() if isinstance(value, dict) else ():
            if name in _LIMITS:
                raise ValueError(f"'{name}' is set by --max-message-bytes")
            channel_arguments.check(name, argument)
        return value

    @model_validator(mode="after")
    def _is_whole(self) -> "Settings":
        if (self.tls_certificate is None) != (self.tls_key is None):
            missing = "--tls-key" if self.tls_key is None else "--tls-certificate"
            raise ValueError(f"{missing} is missing: TLS needs a certificate and its key")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("--tls-client-ca needs TLS: set --tls-certificate and --tls-key")
        if self.load_model and self.model_control_mode != "explicit":
            raise ValueError(
                f"--load-model needs --model-control-mode=explicit: in mode {self.model_control_mode} every model is loaded"
            )
        if self.grpc_port and self.grpc_port == self.metrics_port and self._on_one_address():
            raise ValueError(f"--grpc-port and --metrics-port are both {self.grpc_port}; choose another for one of them")
        return self

    def _on_one_address(self) -> bool:
        return not addresses.is_unix(self.host) and self.metrics_host in ("", self.host)

    @property
    def monitoring_host(self) -> str:
        """Where the metrics port is: at its own address, else on `host`, or on loopback if that is a unix socket."""
        return self.metrics_host or ("127.0.0.1" if addresses.is_unix(self.host) else self.host)

    def declared_devices(self) -> list[Device]:
        """The devices that are declared and not disabled."""
        return [chosen.device(name) for name, chosen in self.devices.items() if not chosen.disabled]

    def disabled(self) -> set[str]:
        """The names of the devices, and of whole kinds, that are disabled."""
        return {name for name, chosen in self.devices.items() if chosen.disabled}


class DoctorSettings(Settings):
    """The same settings, none of them required."""

    model_repository: Path | None = Field(None, description="also load these models on every device")  # type: ignore[assignment]
