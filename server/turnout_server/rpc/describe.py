"""The data plane's objects as messages: metadata, effective configuration, statistics, index."""

from collections.abc import Iterable, Mapping
from typing import Any

from turnout_proto import inference_pb2 as pb
from turnout_proto import model_config_pb2 as mc

from turnout_server.core.device_names import GPU_KINDS, kind_of
from turnout_server.core.metrics import Batches, Series
from turnout_server.core.model_config import ModelConfiguration, QueuePolicy
from turnout_server.core.signatures import TensorSpec
from turnout_server.models.loading import ModelVersion
from turnout_server.models.repository import IndexEntry

PLATFORM = "onnxruntime_onnx"
BACKEND = "onnxruntime"


def metadata(model: ModelVersion, versions: Iterable[int]) -> pb.ModelMetadataResponse:
    """What ModelMetadata answers."""
    return pb.ModelMetadataResponse(
        name=model.name,
        versions=map(str, versions),
        platform=PLATFORM,
        inputs=map(_tensor, model.signature.inputs),
        outputs=map(_tensor, model.signature.outputs),
    )


def configuration(model: ModelVersion) -> mc.ModelConfig:
    """The configuration in force: what the file said, and what was derived where it said nothing."""
    chosen, batch = model.configuration, model.signature.max_batch_size
    message = mc.ModelConfig(
        name=model.name,
        platform=PLATFORM,
        backend=BACKEND,
        max_batch_size=batch,
        version_policy=_version_policy(chosen),
        default_model_filename=chosen.files[""],
        instance_group=[_instance_group(chosen, device) for device in model.deployments],
    )
    for spec in model.signature.inputs:
        message.input.append(mc.ModelInput(**_declared(spec, batch)))
    for spec in model.signature.outputs:
        message.output.append(mc.ModelOutput(**_declared(spec, batch)))
    if model.batchable:
        message.dynamic_batching.CopyFrom(_dynamic_batching(chosen))
    for key, value in (_parameters(chosen) | _reports(model)).items():
        message.parameters[key].string_value = value
    return message


def statistics(model: ModelVersion, by_device: Mapping[str, Series]) -> pb.ModelStatistics:
    """A model version's row of ModelStatistics; durations in nanoseconds, summed over requests as Triton does."""
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
    """What RepositoryIndex answers."""
    entry_class = pb.RepositoryIndexResponse.ModelIndex
    return pb.RepositoryIndexResponse(
        models=[entry_class(name=e.name, version=e.version, state=e.state, reason=e.reason) for e in entries]
    )


def _tensor(spec: TensorSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype.name, shape=spec.shape)


def _declared(spec: TensorSpec, batch: int) -> dict[str, Any]:
    """The fields that inputs and outputs share; dims leave out the batch dimension."""
    start = 1 if batch else 0
    fields: dict[str, Any] = {
        "name": spec.name,
        "data_type": mc.DataType.Value(spec.datatype.config),
        "dims": spec.shape[start:],
    }
    if spec.graph_shape is not None:
        fields["reshape"] = mc.ModelTensorReshape(shape=spec.graph_shape[start:])
    return fields


def _version_policy(chosen: ModelConfiguration) -> mc.ModelVersionPolicy:
    if chosen.versions is None:
        return mc.ModelVersionPolicy(all=mc.ModelVersionPolicy.All())
    if isinstance(chosen.versions, int):
        return mc.ModelVersionPolicy(latest=mc.ModelVersionPolicy.Latest(num_versions=chosen.versions))
    return mc.ModelVersionPolicy(specific=mc.ModelVersionPolicy.Specific(versions=chosen.versions))


def _instance_group(chosen: ModelConfiguration, device: str) -> mc.ModelInstanceGroup:
    """A group for a device; its count is left out where any number of runs may go on there."""
    is_gpu = kind_of(device) in GPU_KINDS
    number = device.partition(":")[2]
    return mc.ModelInstanceGroup(
        name=f"{chosen.name}_{device}",
        kind=mc.ModelInstanceGroup.KIND_GPU if is_gpu else mc.ModelInstanceGroup.KIND_CPU,
        count=chosen.instances_on(device, kind_of(device)),
        gpus=[int(number)] if is_gpu and number.isdecimal() else [],
        rate_limiter=None if chosen.weight == 1 else mc.ModelRateLimiter(priority=round(1 / chosen.weight)),
    )


def _dynamic_batching(chosen: ModelConfiguration) -> mc.ModelDynamicBatching:
    queue = chosen.queue
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


def _parameters(chosen: ModelConfiguration) -> dict[str, str]:
    """Our own settings, as they would stand in a config.pbtxt."""
    parameters = {f"turnout.file.{device}": file for device, file in chosen.files.items() if device}
    if chosen.default_device:
        parameters["turnout.default_device"] = chosen.default_device
    if chosen.devices:
        parameters["turnout.devices"] = ",".join(chosen.devices)
    if chosen.objective:
        parameters["turnout.objective"] = chosen.objective
    if chosen.latency_target_us is not None:
        parameters["turnout.latency_target_us"] = str(chosen.latency_target_us)
    if chosen.tolerance != ModelConfiguration.tolerance:
        parameters["turnout.tolerance"] = f"{chosen.tolerance:g}"
    if not chosen.batches:
        parameters["turnout.batching"] = "off"
    return parameters


def _reports(model: ModelVersion) -> dict[str, str]:
    """What loading the model showed, by device; nothing of it is a setting."""
    reports: dict[str, str] = {}
    for device, deployment in model.deployments.items():
        report = deployment.report
        nodes = ", ".join(f"{count} on {provider}" for provider, count in report.placement.items())
        parity = "not compared" if report.parity.error is None else f"{report.parity.error:.2g} ({report.parity.reference})"
        text = f"loaded in {report.load_s:.3f} s; nodes: {nodes}; parity error: {parity}"
        reports[f"turnout.report.{device}"] = text + _graphs(deployment.session.graphs)
    for device, reason in model.unavailable.items():
        reports[f"turnout.report.{device}"] = f"does not run here: {reason}"
    return reports


def _graphs(graphs: Mapping[int, str]) -> str:
    return "".join(f"; CUDA graph for {rows} rows: {f'none: {why}' if why else 'yes'}" for rows, why in graphs.items())


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
