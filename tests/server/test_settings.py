import os
import re
from pathlib import Path

import click
import pytest
from turnout_server.core.device_names import kind_of
from turnout_server.devices import device as devices
from turnout_server.devices import openvino
from turnout_server.scheduling.routing import OBJECTIVES
from turnout_server.settings import Settings
from turnout_server.settings_sources import UsageError

from tests.server.commandline import read, read_for_doctor

#: Settings in seconds.
TIMES = (
    "repository-poll-s",
    "max-connection-age-s",
    "max-connection-grace-s",
    "max-connection-idle-s",
    "stall-timeout-s",
    "profile-budget-s",
    "drain-delay-s",
    "drain-timeout-s",
)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    path = tmp_path / "models"
    path.mkdir()
    return path


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("TURNOUT_"):
            monkeypatch.delenv(name)


def test_only_the_repository_has_no_default(repository: Path) -> None:
    chosen = read([f"--model-repository={repository}"])
    assert (chosen.host, chosen.grpc_port, chosen.metrics_port) == ("127.0.0.1", 8001, 8002)
    assert (chosen.default_device, chosen.max_message_bytes, chosen.reflection) == ("auto", 256 * 2**20, True)
    with pytest.raises(UsageError, match=r"--model-repository is required \(or TURNOUT_MODEL_REPOSITORY"):
        read([])


def test_flag_wins_over_variable_over_file_over_default(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = [f"--model-repository={repository}"]
    assert read(flags).grpc_port == 8001
    file = tmp_path / "turnout.toml"
    file.write_text("grpc_port = 1\nmetrics_port = 11\nmax_queue_size = 1\n")
    flags.append(f"--config={file}")
    assert read(flags).grpc_port == 1
    monkeypatch.setenv("TURNOUT_GRPC_PORT", "2")
    monkeypatch.setenv("TURNOUT_METRICS_PORT", "12")
    assert read(flags).grpc_port == 2
    chosen = read([*flags, "--grpc-port=3"])
    assert (chosen.grpc_port, chosen.metrics_port, chosen.max_queue_size) == (3, 12, 1)


def test_grpc_options_can_come_from_each_source(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = [f"--model-repository={repository}"]
    assert read(flags).grpc_options == {}
    file = tmp_path / "turnout.toml"
    file.write_text('grpc_options = { "grpc.max_concurrent_streams" = 7, "grpc.optimization_target" = "latency" }\n')
    flags.append(f"--config={file}")
    assert read(flags).grpc_options == {
        "grpc.max_concurrent_streams": 7,
        "grpc.optimization_target": "latency",
    }
    monkeypatch.setenv("TURNOUT_GRPC_OPTIONS", '{"grpc.max_concurrent_streams": 8}')
    assert read(flags).grpc_options["grpc.max_concurrent_streams"] == 8
    flags.append('--grpc-options={"grpc.max_concurrent_streams": 9}')
    assert read(flags).grpc_options["grpc.max_concurrent_streams"] == 9


@pytest.mark.parametrize(
    ("name", "fix"), [("max_concurrent_streams", "begin with 'grpc.'"), ("grpc.max_send_message_length", "--max-message-bytes")]
)
def test_grpc_options_without_effect_are_refused(repository: Path, name: str, fix: str) -> None:
    with pytest.raises(UsageError, match=re.escape(fix)) as refused:
        read([f"--model-repository={repository}", f'--grpc-options={{"{name}": 1}}'])
    assert name in str(refused.value)


@pytest.mark.parametrize(
    ("option", "fix"),
    [
        ('"grpc.keepalive_time_ms" = "soon"', "'grpc.keepalive_time_ms' is 'soon'; it must be a whole number of milliseconds"),
        ('"grpc.keepalive_timeout_ms" = 1.5', "grpc.keepalive_timeout_ms"),
        ('"grpc.primary_user_agent" = 3', "'grpc.primary_user_agent' is 3; it must be text"),
        ('"grpc.keep_alive_time_ms" = 1', "did you mean grpc.keepalive_time_ms?"),
    ],
)
def test_grpc_options_of_another_type_or_a_misspelled_name_are_refused(
    repository: Path, tmp_path: Path, option: str, fix: str
) -> None:
    (tmp_path / "turnout.toml").write_text(f"[grpc_options]\n{option}\n")
    with pytest.raises(UsageError, match=re.escape(fix)):
        read([f"--model-repository={repository}", f"--config={tmp_path / 'turnout.toml'}"])


def test_the_keepalive_recipe_of_the_documentation_is_taken(repository: Path, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "settings.md").read_text()
    (recipe,) = (block for block in re.findall(r"```toml\n(.*?)```", page, re.S) if "keepalive_time_ms" in block)
    (tmp_path / "turnout.toml").write_text(recipe)
    chosen = read([f"--model-repository={repository}", f"--config={tmp_path / 'turnout.toml'}"])
    assert chosen.grpc_options["grpc.keepalive_permit_without_calls"] == 1


@pytest.mark.parametrize(("host", "metrics"), [("[::]", "::"), ("unix:/run/a", "127.0.0.1"), ("0.0.0.0", "0.0.0.0")])
def test_the_metrics_port_is_on_the_host_unless_that_is_a_unix_socket(repository: Path, host: str, metrics: str) -> None:
    assert read([f"--model-repository={repository}", f"--host={host}"]).monitoring_host == metrics


@pytest.mark.parametrize(("host", "fix"), [("0.0.0.0:8001", "--grpc-port"), ("http://::", "it is a URL"), ("::x", "IPv6")])
def test_a_host_that_is_none_is_refused_with_what_to_write(repository: Path, host: str, fix: str) -> None:
    with pytest.raises(UsageError, match=f"--host: {re.escape(host)}: .*{fix}"):
        read([f"--model-repository={repository}", f"--host={host}"])


def test_every_objective_of_routing_is_a_valid_setting(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read([f"--model-repository={repository}"]).objective == "latency"
    for objective in OBJECTIVES:
        monkeypatch.setenv("TURNOUT_OBJECTIVE", objective)
        assert read([f"--model-repository={repository}"]).objective == objective


def test_a_variable_can_name_the_config_file(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "turnout.toml"
    file.write_text(f'model_repository = "{repository}"\nhost = "0.0.0.0"\n')
    monkeypatch.setenv("TURNOUT_CONFIG", str(file))
    assert read([]).host == "0.0.0.0"


@pytest.mark.parametrize(("flags", "value"), [([], True), (["--no-reflection"], False), (["--reflection"], True)])
def test_a_switch_has_a_positive_and_a_negative_flag(repository: Path, flags: list[str], value: bool) -> None:
    assert read([f"--model-repository={repository}", *flags]).reflection is value


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("--grpc-port=65536", "--grpc-port: 65536"),
        ("--grpc-port=-1", "--grpc-port: -1"),
        ("--grpc-port=web", "--grpc-port: web"),
        ("--max-queue-size=0", "--max-queue-size: 0"),
        ("--drain-delay-s=-1", "--drain-delay-s: -1"),
        ("--max-message-bytes=2147483648", "--max-message-bytes: 2147483648"),
        *((f"--{name}={value}", f"--{name}: {value}") for name in TIMES for value in ("2147484", "inf", "nan", "-1")),
        ("--max-streams=3000000000", "--max-streams: 3000000000"),
        ("--log-level=loud", "--log-level: loud"),
        ("--default-device=tpu", "--default-device: tpu: unknown device 'tpu'"),
        ("--objective=speed", "--objective: speed: Input should be 'latency', 'cost' or 'energy'"),
        ("--model-repository=/nowhere", "--model-repository: /nowhere: there is no such directory"),
        ("--config=/nowhere.toml", "--config: there is no file '/nowhere.toml'"),
    ],
)
def test_a_wrong_value_is_shown_beside_its_flag(repository: Path, flag: str, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        read([f"--model-repository={repository}", flag])
    assert text in str(caught.value)


def test_an_unknown_key_in_the_file_is_an_error_with_a_suggestion(repository: Path, tmp_path: Path) -> None:
    file = tmp_path / "turnout.toml"
    file.write_text("grpc_prot = 1\n")
    with pytest.raises(UsageError, match=r"unknown setting 'grpc_prot'; did you mean grpc_port\?"):
        read([f"--model-repository={repository}", f"--config={file}"])


def test_an_invalid_toml_file_is_named_in_the_error(repository: Path, tmp_path: Path) -> None:
    file = tmp_path / "turnout.toml"
    file.write_text("grpc_port: 1")
    with pytest.raises(UsageError, match=r"turnout\.toml"):
        read([f"--model-repository={repository}", f"--config={file}"])


def test_an_unknown_variable_is_an_error_with_a_suggestion(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNOUT_MODEL_REPOSITRY", "x")
    with pytest.raises(UsageError, match=r"TURNOUT_MODEL_REPOSITRY; did you mean TURNOUT_MODEL_REPOSITORY\?"):
        read([f"--model-repository={repository}"])


def test_an_unknown_flag_is_an_error(repository: Path) -> None:
    with pytest.raises(click.NoSuchOption, match="--grpc-prot"):
        read([f"--model-repository={repository}", "--grpc-prot=1"])


def in_every_pod_beside(service: str) -> dict[str, str]:
    """The variables that Kubernetes sets for a Service with two ports, of which only the first is unnamed."""
    prefix = service.upper().replace("-", "_")
    ports = {
        f"{prefix}_SERVICE_PORT": "8001",
        f"{prefix}_SERVICE_PORT_METRICS": "8002",
        f"{prefix}_PORT": "tcp://10.0.0.1:8001",
    }
    for port, protocol in ((8001, "TCP"), (53, "UDP")):
        link = f"{prefix}_PORT_{port}_{protocol}"
        ports[link] = f"{protocol.lower()}://10.0.0.1:{port}"
        ports |= {f"{link}_PROTO": protocol.lower(), f"{link}_PORT": str(port), f"{link}_ADDR": "10.0.0.1"}
    return {f"{prefix}_SERVICE_HOST": "10.0.0.1", **ports}


@pytest.mark.parametrize("service", ["turnout", "turnout-web", "turnout-grpc", "turnout-metrics", "turnout-model-repository"])
def test_what_kubernetes_sets_for_a_service_is_ignored(repository: Path, monkeypatch: pytest.MonkeyPatch, service: str) -> None:
    for name, value in in_every_pod_beside(service).items():
        monkeypatch.setenv(name, value)
    chosen = read([f"--model-repository={repository}"])
    assert (chosen.grpc_port, chosen.metrics_port) == (8001, 8002)


def test_a_port_that_is_set_counts_also_beside_such_a_service(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in in_every_pod_beside("turnout-grpc").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TURNOUT_GRPC_PORT", "9000")
    assert read([f"--model-repository={repository}"]).grpc_port == 9000


@pytest.mark.parametrize("name", ["TURNOUT_GRCP_PORT", "TURNOUT_METRIC_PORT"])
def test_a_misspelled_port_is_no_service(repository: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "9000")
    with pytest.raises(UsageError, match=f"unknown environment variable {name}; did you mean TURNOUT_"):
        read([f"--model-repository={repository}"])


def test_a_wrong_value_is_shown_beside_the_variable_or_the_key_that_it_came_from(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "turnout.toml"
    file.write_text("metrics_port = 99999")
    monkeypatch.setenv("TURNOUT_GRPC_PORT", "web")
    with pytest.raises(UsageError) as caught:
        read([f"--model-repository={repository}", f"--config={file}"])
    assert "TURNOUT_GRPC_PORT: web: " in str(caught.value)
    assert f"'metrics_port' in {file}: 99999: " in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("devices = 3", "'devices' in {file}: 3: Input should be a valid dictionary"),
        ("model_repository = 5", "'model_repository' in {file}: 5: it must be a path"),
    ],
)
def test_a_value_of_another_type_is_named_with_its_file(tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / "turnout.toml"
    file.write_text(content)
    with pytest.raises(UsageError, match=re.escape(words.format(file=file))):
        read([f"--config={file}"])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--grpc-port=9000", "--metrics-port=9000"], "--grpc-port and --metrics-port are both 9000"),
        (["--grpc-port=8002"], "--grpc-port and --metrics-port are both 8002; choose another for one of them"),
        (["--load-model=a"], "--load-model needs --model-control-mode=explicit: in mode none every model is loaded"),
        (["--load-model=*", "--model-control-mode=poll"], "in mode poll every model is loaded"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(repository: Path, flags: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        read([f"--model-repository={repository}", *flags])


@pytest.mark.parametrize(
    "flags",
    [
        ["--grpc-port=0", "--metrics-port=0"],
        ["--grpc-port=8002", "--host=unix:/tmp/x"],
        ["--grpc-port=8002", "--metrics-host=::1"],
    ],
)
def test_ports_of_different_addresses_may_have_the_same_number(repository: Path, flags: list[str]) -> None:
    read([f"--model-repository={repository}", *flags])


def test_an_empty_variable_counts_as_absent(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNOUT_GRPC_PORT", "")
    monkeypatch.setenv("TURNOUT_CACHE_DIR", "")
    chosen = read([f"--model-repository={repository}"])
    assert (chosen.grpc_port, chosen.cache_dir) == (8001, None)


@pytest.mark.parametrize("text", ["a,b", '["a", "b"]', " a , b,"])
def test_a_list_is_written_with_commas_or_as_json(repository: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    flags = [f"--model-repository={repository}", "--model-control-mode=explicit"]
    assert read([*flags, f"--load-model={text}"]).load_model == ["a", "b"]
    monkeypatch.setenv("TURNOUT_LOAD_MODEL", text)
    assert read(flags).load_model == ["a", "b"]


@pytest.mark.parametrize(
    "flags", [["--grpc-options=grpc.a=1,grpc.b=x"], ["--grpc-options=grpc.a=1", "--grpc-options=grpc.b=x"]]
)
def test_grpc_options_may_be_written_as_pairs(repository: Path, flags: list[str]) -> None:
    assert read([f"--model-repository={repository}", *flags]).grpc_options == {"grpc.a": 1, "grpc.b": "x"}


@pytest.mark.parametrize("text", ["grpc.a", "{grpc.a: 1}"])
def test_grpc_options_in_another_form_are_refused(repository: Path, text: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"--grpc-options: {text}: ")):
        read([f"--model-repository={repository}", f"--grpc-options={text}"])


def test_every_setting_is_described() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_keys_that_a_device_table_leaves_out_have_their_defaults(repository: Path, tmp_path: Path) -> None:
    file = tmp_path / "turnout.toml"
    file.write_text(
        """
        [devices.cpu]
        threads = 3
        price_per_hour = 0.1
        [devices."cpu:slow"]
        cpus = "0"
        isolation = "process"
        [devices."cuda:1"]
        provider_options = { gpu_mem_limit = 1024 }
        """
    )
    chosen = read([f"--model-repository={repository}", f"--config={file}"])
    cpu, slow, gpu = chosen.declared_devices()
    assert (cpu.name, cpu.kind, cpu.threads, cpu.isolated, cpu.price_per_hour) == ("cpu", "cpu", 3, False, 0.1)
    assert (slow.name, slow.kind, slow.cpus, slow.threads, slow.isolated) == ("cpu:slow", "cpu", (0,), 1, True)
    assert gpu.provider_options == {**devices.cuda_options(1), "gpu_mem_limit": "1024"}
    assert gpu.isolated


@pytest.mark.parametrize(
    ("name", "table", "expected"),
    [
        ("cpu", "", True),
        ("cpu", "threads = 2", True),
        ("cpu:b", 'isolation = "in-process"', True),
        ("cpu", "instances = 1", False),
        ("cpu", "instances = 2", False),
        ("cpu", 'isolation = "process"', False),
        ("cuda:0", "", False),
        ("cpu:b", 'provider = "XnnpackExecutionProvider"', False),
    ],
)
def test_a_cpu_may_have_a_run_on_each_core_unless_instances_or_a_process_are_declared(
    repository: Path, tmp_path: Path, name: str, table: str, expected: bool
) -> None:
    file = tmp_path / "turnout.toml"
    file.write_text(f'[devices."{name}"]\n{table}\n')
    (device,) = read([f"--model-repository={repository}", f"--config={file}"]).declared_devices()
    assert device.per_core is expected


def test_a_gpus_memory_limit_and_precision_become_its_providers_options(repository: Path, tmp_path: Path) -> None:
    file = tmp_path / "turnout.toml"
    file.write_text('[devices."cuda:1"]\nmemory_limit_mb = 2\ntf32 = false\n')
    (gpu,) = read([f"--model-repository={repository}", f"--config={file}"]).declared_devices()
    assert gpu.provider_options == {**devices.cuda_options(1), "gpu_mem_limit": "2097152", "use_tf32": "0"}
    assert gpu.memory_limit_mb == 2


def test_cuda_graph_rows_are_sorted_without_duplicates(repository: Path, tmp_path: Path) -> None:
    (gpu,) = declared(repository, tmp_path, '[devices."cuda:0"]\ncuda_graph_rows = [8, 1, 8]').declared_devices()
    assert gpu.graph_rows == (1, 8)


def test_a_cuda_device_with_graphs_may_run_several_batches_at_once(repository: Path, tmp_path: Path) -> None:
    (gpu,) = declared(repository, tmp_path, '[devices."cuda:0"]\ncuda_graph_rows = [1]\ninstances = 3').declared_devices()
    assert gpu.instances == 3


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("[devices.cpu]\ntf32 = false", "'tf32' is for CUDA devices"),
        ('[devices."cuda:0"]\nprovider = "TensorrtExecutionProvider"\ntf32 = false', "'tf32' is for CUDA devices"),
        ("[devices.cpu]\ncuda_graph_rows = [1]", "'cuda_graph_rows' is for CUDA devices"),
        (
            '[devices."cuda:0"]\ncuda_graph_rows = [1]\nisolation = "in-process"',
            "a graph is captured while nothing else uses the GPU",
        ),
        ('[devices."cuda:0"]\ncuda_graph_rows = [0]', "devices.cuda:0.cuda_graph_rows.0: 0"),
        (
            "[devices.cpu]\nmemory_limit_mb = 1",
            "[devices.'cpu'] cannot be declared: memory_limit_mb holds a process of its own only",
        ),
        ("[devices.cpu]\nmemory_limit_mb = 1", 'add isolation = "process"'),
        ('[devices."openvino:0"]\nmemory_limit_mb = 1', "OpenVINOExecutionProvider may have an option for it"),
        ('[devices.cpu]\nprovider_options = { a = "b" }', "CPUExecutionProvider has no provider_options"),
        ('[devices."npu:0"]', "'npu' is none of cpu, cuda, tensorrt, openvino, migraphx, coreml"),
        ('[devices."npu:0"]\nlibrary = "libnpu.so"', "a device of another kind needs a provider"),
        ('[devices."cuda:0"]\nlibrary = "libnpu.so"', "a library needs a provider"),
        ('[devices."npu:0"]\nprovider = "X"\nhardware = "npu"', "'hardware' is for providers that come in a library"),
        ('[devices."npu:0"]\nprovider = "X"\nlibrary = "x.so"\nhardware = "tpu"', "devices.npu:0.hardware: tpu"),
        ("[devices.cpu]\nidle_w = 100\nbusy_w = 10", "idle_w is 100 and busy_w 10, but a busy device takes no less"),
        ("[devices.cpu]\nwatchdog_s = inf", "devices.cpu.watchdog_s: inf"),
        ("[devices.cdua]\ndisabled = true", "cannot be declared"),
        ('[devices."auto:0"]\nprovider = "X"', "cannot be declared"),
        ('[devices."NPU:0"]\nprovider = "X"', "cannot be declared"),
        ("[devices.auto]", "cannot be declared"),
        ("[devices.cuda]", "cannot be declared"),
        ("[devices.tpu]", "cannot be declared"),
        ('[devices."cpu,cuda:0"]', "cannot be declared"),
        ('[devices.cpu]\ncpus = "0-999"', "this process may use the cores"),
        ('[devices.cpu]\ncpus = "x"', "is not a core"),
        ("[devices.cpu]\nthread = 1", "unknown setting 'devices.cpu.thread'; did you mean devices.cpu.threads?"),
    ],
)
def test_a_device_that_cannot_be_declared_is_refused(repository: Path, tmp_path: Path, table: str, words: str) -> None:
    file = tmp_path / "turnout.toml"
    file.write_text(table)
    with pytest.raises(UsageError, match=re.escape(words)):
        read([f"--model-repository={repository}", f"--config={file}"])


def test_a_flag_declares_a_device_like_a_table_and_overrides_a_table_of_its_name(repository: Path, tmp_path: Path) -> None:
    file = tmp_path / "turnout.toml"
    file.write_text('[devices.cpu]\nthreads = 3\n[devices."cpu:slow"]\nthreads = 3\nisolation = "process"\n')
    core = min(os.sched_getaffinity(0))
    flags = ["--device", f'cpu:slow={{threads = 1, cpus = "{core},{core}"}}', "--device=cpu:plain"]
    chosen = read([f"--model-repository={repository}", f"--config={file}", *flags, "--default-device=cpu:plain"])
    cpu, slow, plain = chosen.declared_devices()
    assert (cpu.name, cpu.threads, plain.name) == ("cpu", 3, "cpu:plain")
    assert (slow.threads, slow.cpus, slow.isolated) == (1, (core,), False)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("cpu:x={threads = 1", "--device=cpu:x={threads = 1: it must be a name and a table, such as"),
        ("cpu:x=1", "it must be a name and a table, such as"),
        ("cpu:x={thread = 1}", "unknown setting 'devices.cpu:x.thread'; did you mean devices.cpu:x.threads?"),
        ("cuda={}", "[devices.'cuda'] cannot be declared"),
    ],
)
def test_an_invalid_device_flag_is_refused_with_the_reason(repository: Path, value: str, words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        read([f"--model-repository={repository}", f"--device={value}"])


def test_a_disabled_device_is_not_declared(repository: Path, tmp_path: Path) -> None:
    file = tmp_path / "turnout.toml"
    file.write_text('[devices.cpu]\ndisabled = true\n[devices."cpu:a"]\n')
    chosen = read([f"--model-repository={repository}", f"--config={file}"])
    assert [device.name for device in chosen.declared_devices()] == ["cpu:a"]
    assert chosen.disabled() == {"cpu"}


def test_a_whole_kind_or_one_gpu_can_be_disabled(repository: Path, tmp_path: Path) -> None:
    chosen = declared(repository, tmp_path, '[devices.cuda]\ndisabled = true\n[devices."cuda:1"]\ndisabled = true\n')
    assert chosen.disabled() == {"cuda", "cuda:1"}
    assert chosen.declared_devices() == []


def declared(repository: Path, directory: Path, tables: str) -> Settings:
    file = directory / "turnout.toml"
    file.write_text(tables)
    return read([f"--model-repository={repository}", f"--config={file}"])


@pytest.mark.parametrize(
    ("name", "provider", "options"),
    [
        ("tensorrt:1", "TensorrtExecutionProvider", {"device_id": "1"}),
        ("migraphx:2", "MIGraphXExecutionProvider", {"device_id": "2"}),
        ("openvino:gpu", "OpenVINOExecutionProvider", {}),
        ("coreml:0", "CoreMLExecutionProvider", {}),
    ],
)
def test_each_kind_has_its_provider_and_is_isolated(
    repository: Path, tmp_path: Path, name: str, provider: str, options: dict[str, str]
) -> None:
    (device,) = declared(repository, tmp_path, f'[devices."{name}"]').declared_devices()
    assert (device.kind, device.provider, device.provider_options) == (kind_of(name), provider, options)
    assert device.isolated


def test_cuda_options_go_to_no_other_provider(repository: Path, tmp_path: Path) -> None:
    tables = """
        [devices."cuda:1"]
        provider = "TensorrtExecutionProvider"
        provider_options = { trt_fp16_enable = 1 }
        [devices."cuda:2"]
        provider = "OpenVINOExecutionProvider"
        [devices."cuda:3"]
        provider = "CUDAExecutionProvider"
        library = "/opt/libcuda_plugin.so"
        provider_options = { a = "b" }
        [devices."cpu:x"]
        provider = "CUDAExecutionProvider"
    """
    tensorrt, openvino, plugin, odd = declared(repository, tmp_path, tables).declared_devices()
    assert tensorrt.provider_options == {"device_id": "1", "trt_fp16_enable": "1"}
    assert openvino.provider_options == {}
    assert (plugin.provider_options, plugin.is_cuda) == ({"a": "b"}, False)
    assert (odd.provider_options, odd.is_cuda) == (devices.cuda_options(0), True)


def test_a_provider_from_a_library_may_be_of_any_kind(repository: Path, tmp_path: Path) -> None:
    tables = """
        default_device = "npu,cpu"
        [devices."npu:1"]
        provider = "VendorExecutionProvider"
        library = "/opt/vendor/libvendor.so"
        hardware = "npu"
        [devices."cpu:vendor"]
        provider = "VendorExecutionProvider"
        library = "/opt/vendor/libvendor.so"
    """
    npu, cpu = declared(repository, tmp_path, tables).declared_devices()
    assert (npu.kind, npu.library, npu.hardware, npu.threads) == ("npu", "/opt/vendor/libvendor.so", "npu", 0)
    assert npu.isolated
    assert cpu.isolated  # third-party code, which may crash its process


def test_openvino_is_declared_by_its_name_and_its_plug_in_is_found(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino, "library", lambda: "/opt/openvino/plugin.so")
    [whole] = declared(repository, tmp_path, "[devices.openvino]\nthreads = 3").declared_devices()
    assert (whole.name, whole.kind, whole.provider) == ("openvino", "openvino", "OpenVINOExecutionProvider")
    assert (whole.library, whole.hardware, whole.threads, whole.isolated) == ("/opt/openvino/plugin.so", "cpu", 3, True)
    [near] = declared(
        repository, tmp_path, '[devices."openvino:gpu"]\nhardware = "gpu"\nisolation = "in-process"'
    ).declared_devices()
    assert (near.library, near.hardware, near.threads, near.isolated) == ("/opt/openvino/plugin.so", "gpu", 0, False)
    settings = declared(repository, tmp_path, "[devices.openvino]\ndisabled = true")
    assert (settings.declared_devices(), settings.disabled()) == ([], {"openvino"})


def test_the_default_device_must_be_of_a_known_or_declared_kind(repository: Path, tmp_path: Path) -> None:
    table = '[devices."npu:0"]\nprovider = "X"\n'
    with pytest.raises(UsageError, match=r"'default_device' in .*: tpu: unknown device 'tpu'"):
        declared(repository, tmp_path, f'default_device = "tpu"\n{table}')
    with pytest.raises(UsageError, match="unknown device 'npu'"):
        declared(repository, tmp_path, f'default_device = "npu"\n{table}disabled = true')


def test_the_doctor_requires_no_settings_but_checks_those_given(repository: Path) -> None:
    assert read_for_doctor([]).model_repository is None
    assert read_for_doctor([f"--model-repository={repository}"]).model_repository == repository
    with pytest.raises(UsageError, match="there is no such directory"):
        read_for_doctor(["--model-repository=/nowhere"])
