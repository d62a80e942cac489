"""Builds the messages about models: metadata, effective configuration, statistics and repository index."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from turnout_proto import inference_pb2 as pb
from turnout_proto import model_config_pb2 as mc

from turnout_server.core.device_names import GPU_KINDS, kind_of
from turnout_server.core.metrics import Batches, Series
from turnout_server.core.model_config import ModelConfiguration, QueuePolicy
from turnout_server.core.signatures import TensorSpec
from turnout_server.models.deployments import Deployment
from turnout_server.models.model_version import ModelVersion
from turnout_server.models.repository import IndexEntry

PLATFORM = "onnxruntime_onnx"
BACKEND = "onnxruntime"


def metadata(model: ModelVersion, versions: Iterable[int]) -> pb.ModelMetadataResponse:
    """The response of ModelMetadata."""
    return pb.ModelMetadataResponse(
        name=model.name,
        versions=map(str, versions),
        platform=PLATFORM,
        inputs=map(_tensor, model.signature.inputs),
        outputs=map(_tensor, model.signature.outputs),
    )


def configuration(model: ModelVersion) -> mc.ModelConfig:
    """The effective configuration: the file's settings, and derived values for those that it doesn't set."""
    config, batch = model.configuration, model.signature.max_batch_size
    message = mc.ModelConfig(
        name=model.name,
        platform=PLATFORM,
        backend=BACKEND,
        max_batch_size=batch,
        version_policy=_version_policy(config),
        default_model_filename=config.files[""],
        instance_group=[_instance_group(config, device) for device in model.deployments],
    )
    for spec in model.signature.inputs:
        message.input.append(mc.ModelInput(**_declared(spec, batch), optional=spec.optional))
    for spec in model.signature.outputs:
        message.output.append(mc.ModelOutput(**_declared(spec, batch)))
    if model.batchable:
        message.dynamic_batching.CopyFrom(_dynamic_batching(config))
    for key, value in (_parameters(config) | _reports(model)).items():
        message.parameters[key].string_value = value
    return message


def statistics(model: ModelVersion, by_device: Mapping[str, Series]) -> pb.ModelStatistics:
    """A model version's entry in ModelStatistics; durations are sums over requests, in nanoseconds, as in Triton."""
    total = Series()
    for series in by_device.values():
        total.add(series)
    message = pb.ModelStatistics(
        name=model.name,
        version=str(model.version),
        last_inference=int(total.last_s * 1000),
        inference_count=total.rows,
        execution_count=total.executions,
        inference_stats=pb.InferStatistics(
            success=_duration(total.answered, total.request_s.total),
            fail=_duration(sum(total.failures.values()), total.failed_s),
            queue=_duration(total.answered, total.queue_s.total),
            compute_input=_duration(total.answered, total.input_s),
            compute_infer=_duration(total.answered, total.compute_s.total),
            compute_output=_duration(total.answered, total.output_s),
        ),
        batch_stats=[_batch(rows, batches) for rows, batches in sorted(total.batches.items())],
    )
    for device in by_device.keys() & model.deployments.keys():
        series = by_device[device]
        message.response_stats[device].CopyFrom(_response_statistics(series))
    return message


def index(entries: Iterable[IndexEntry]) -> pb.RepositoryIndexResponse:
    """The response of RepositoryIndex."""
    entry_class = pb.RepositoryIndexResponse.ModelIndex
    return pb.RepositoryIndexResponse(
        models=[entry_class(name=e.name, version=e.version, state=e.state, reason=e.reason) for e in entries]
    )


def _tensor(spec: TensorSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype.name, shape=spec.shape)


def _declared(spec: TensorSpec, batch: int) -> dict[str, Any]:
    """The fields that inputs and outputs share; `dims` are without the batch dimension."""
    start = 1 if batch else 0
    fields: dict[str, Any] = {
        "name": spec.name,
        "data_type": mc.DataType.Value(spec.datatype.config),
        "dims": spec.shape[start:],
    }
    if spec.graph_shape is not None:
        fields["reshape"] = mc.ModelTensorReshape(shape=spec.graph_shape[start:])
    return fields


def _version_policy(config: ModelConfiguration) -> mc.ModelVersionPolicy:
    if config.versions is None:
        return mc.ModelVersionPolicy(all=mc.ModelVersionPolicy.All())
    if isinstance(config.versions, int):
        return mc.ModelVersionPolicy(latest=mc.ModelVersionPolicy.Latest(num_versions=config.versions))
    return mc.ModelVersionPolicy(specific=mc.ModelVersionPolicy.Specific(versions=config.versions))


def _instance_group(config: ModelConfiguration, device: str) -> mc.ModelInstanceGroup:
    """The instance group of a device; its count is 0 if the configuration doesn't limit the concurrent runs."""
    is_gpu = kind_of(device) in GPU_KINDS
    number = device.partition(":")[2]
    return mc.ModelInstanceGroup(
        name=f"{config.name}_{device}",
        kind=mc.ModelInstanceGroup.KIND_GPU if is_gpu else mc.ModelInstanceGroup.KIND_CPU,
        count=config.instances_on(device, kind_of(device)),
        gpus=[int(number)] if is_gpu and number.isdecimal() else [],
        rate_limiter=None if config.weight == 1 else mc.ModelRateLimiter(priority=round(1 / config.weight)),
    )


def _dynamic_batching(config: ModelConfiguration) -> mc.ModelDynamicBatching:
    queue = config.queue
    return mc.ModelDynamicBatching(
        preferred_batch_size=queue.preferred_rows,
        max_queue_delay_microseconds=queue.max_delay_us,
        priority_levels=queue.levels,
        default_priority_level=queue.default_level,
        default_queue_policy=_queue_policy(queue.policy),
        priority_queue_policy={level: _queue_policy(policy) for level, policy in queue.policies.items()},
    )


def _queue_policy(policy: QueuePolicy) -> mc.ModelQueuePolicy:
    return mc.ModelQueuePolicy(
        timeout_action=mc.ModelQueuePolicy.REJECT if policy.rejects else mc.ModelQueuePolicy.DELAY,
        default_timeout_microseconds=policy.timeout_us,
        allow_timeout_override=policy.timeout_override,
        max_queue_size=policy.max_size,
    )


def _parameters(config: ModelConfiguration) -> dict[str, str]:
    """Turnout's own settings, as a config.pbtxt would contain them."""
    parameters = {f"turnout.file.{device}": file for device, file in config.files.items() if device}
    parameters |= {
        f"turnout.variants.{device}".removesuffix("."): ", ".join(files) for device, files in config.variants.items()
    }
    if config.default_device:
        parameters["turnout.default_device"] = config.default_device
    if config.devices:
        parameters["turnout.devices"] = ",".join(config.devices)
    if config.objective:
        parameters["turnout.objective"] = config.objective
    if config.latency_target_us is not None:
        parameters["turnout.latency_target_us"] = str(config.latency_target_us)
    if config.tolerance != ModelConfiguration.tolerance:
        parameters["turnout.tolerance"] = f"{config.tolerance:g}"
    if not config.batches:
        parameters["turnout.batching"] = "off"
    if config.serves_unverified:
        parameters["turnout.unverified"] = "serve"
    return parameters


def _reports(model: ModelVersion) -> dict[str, str]:
    """What loading the model showed on each device, as parameters that aren't settings."""
    reports: dict[str, str] = {}
    for precision, version in {"": model, **model.variants}.items():
        said = {device: _report(deployment) for device, deployment in version.deployments.items()}
        said |= {device: f"does not run here: {reason}" for device, reason in version.unavailable.items()}
        reports |= {".".join(filter(None, ("turnout.report", device, precision))): text for device, text in said.items()}
    return reports


def _report(deployment: Deployment) -> str:
    report = deployment.report
    nodes = ", ".join(f"{count} on {provider}" for provider, count in report.placement.items())
    parity = "not compared" if report.parity.error is None else f"{report.parity.error:.2g} ({report.parity.reference})"
    text = f"{deployment.precision}; loaded in {report.load_s:.3f} s; nodes: {nodes}; parity error: {parity}"
    return "; ".join([text, *_padding(deployment.buckets), *report.notes])


def _padding(buckets: Sequence[int]) -> list[str]:
    return [f"runs are padded to {', '.join(map(str, buckets))} rows"] if buckets else []


def _duration(count: int, seconds: float) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=count, ns=int(seconds * 1e9))


def _batch(rows: int, batches: Batches) -> pb.InferBatchStatistics:
    return pb.InferBatchStatistics(
        batch_size=rows,
        compute_input=_duration(batches.count, batches.input_s),
        compute_infer=_duration(batches.count, batches.compute_s),
        compute_output=_duration(batches.count, batches.output_s),
    )


def _response_statistics(series: Series) -> pb.InferResponseStatistics:
    cancelled = series.failures.get("CANCELLED", 0)
    return pb.InferResponseStatistics(
        compute_infer=_duration(series.answered, series.compute_s.total),
        compute_output=_duration(series.answered, series.output_s),
        success=_duration(series.answered, series.request_s.total),
        fail=_duration(sum(series.failures.values()) - cancelled, series.failed_s),
        cancel=_duration(cancelled, 0.0),
    )
