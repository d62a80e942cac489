import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnout_server.core.model_config import DEFAULT_PRIORITY, ModelConfiguration, Queue, QueuePolicy


@pytest.mark.parametrize(
    ("device", "kind", "file"),
    [("cuda:1", "cuda", "int8.onnx"), ("cuda:0", "cuda", "fp16.onnx"), ("cpu", "cpu", "model.onnx")],
)
def test_a_device_uses_its_own_file_or_its_kinds_or_the_default(device: str, kind: str, file: str) -> None:
    files = {"": "model.onnx", "cuda": "fp16.onnx", "cuda:1": "int8.onnx"}
    assert ModelConfiguration("m", files=files).file_for(device, kind) == file


@pytest.mark.parametrize(
    ("devices", "allowed"),
    [((), True), (("cuda",), True), (("cuda:0",), True), (("cuda:1",), False), (("cpu",), False)],
)
def test_a_model_may_run_only_on_the_devices_in_its_configuration(devices: tuple[str, ...], allowed: bool) -> None:
    assert ModelConfiguration("m", devices=devices).allows("cuda:0", "cuda") is allowed


@given(st.sets(st.integers(1, 50)), st.integers(1, 5), st.sets(st.integers(1, 50)))
def test_versions_are_selected_among_those_available_in_ascending_order(available: set[int], n: int, wanted: set[int]) -> None:
    def select(versions: int | tuple[int, ...] | None) -> list[int]:
        return ModelConfiguration("m", versions=versions).select(list(available))

    assert select(None) == sorted(available)
    assert select(n) == sorted(available)[-n:]
    assert select(tuple(wanted)) == sorted(available & wanted)


@pytest.mark.parametrize(
    ("policy", "requested_us", "effective_us"),
    [
        (QueuePolicy(), None, None),
        (QueuePolicy(), 7, 7),
        (QueuePolicy(timeout_us=5), None, 5),
        (QueuePolicy(timeout_us=5), 3, 3),
        (QueuePolicy(timeout_us=5), 7, 5),
        (QueuePolicy(timeout_us=5, timeout_override=False), 3, 5),
        (QueuePolicy(timeout_us=5, rejects=False), None, None),
    ],
)
def test_a_request_can_only_shorten_its_queues_timeout(
    policy: QueuePolicy, requested_us: int | None, effective_us: int | None
) -> None:
    assert policy.effective_timeout_us(requested_us) == effective_us


@pytest.mark.parametrize(
    ("device", "kind", "instances"), [("cuda:1", "cuda", 3), ("cuda:0", "cuda", 2), ("cpu", "cpu", 1), ("cpu:slow", "cpu", 1)]
)
def test_a_device_uses_its_own_instances_or_its_kinds_or_the_default(device: str, kind: str, instances: int) -> None:
    assert ModelConfiguration("m", instances={"": 1, "cuda": 2, "cuda:1": 3}).instances_on(device, kind) == instances
    assert ModelConfiguration("m").instances_on(device, kind) == 0


@pytest.mark.parametrize(
    ("queue", "priority", "level"),
    [
        (Queue(), 0, DEFAULT_PRIORITY),
        (Queue(), 7, 7),
        (Queue(default_level=3), 0, 3),
        (Queue(levels=3, default_level=2), 3, 3),
        (Queue(levels=3, default_level=2), 4, 2),
    ],
)
def test_a_priority_that_does_not_exist_becomes_the_default(queue: Queue, priority: int, level: int) -> None:
    assert queue.level_of(priority) == level


def test_a_level_without_its_own_policy_has_the_default_policy() -> None:
    queue = Queue(policy=QueuePolicy(max_size=1), policies={2: QueuePolicy(max_size=2)})
    assert [queue.policy_of(level).max_size for level in (1, 2, 3)] == [1, 2, 1]
