from typing import Any

import pytest
from turnout_loadtests.errors import LoadTestError
from turnout_loadtests.sending.load import OPEN, RANDOM
from turnout_loadtests.sending.options import (
    PATHS,
    READERS,
    Choices,
    _host_of,
    add_options,
    check_form,
    load_of,
    offered_by,
    page_payloads,
)  # fmt: skip

USUAL: dict[str, Any] = {
    "model": "add", "device": "own", "batch": "4", "arrival": "closed", "rate_per_user": "10", "max_in_flight": "256",
    "timeout": "30", "slo_p99_ms": "0", "payload": "random", "shape": "", "warm_up": "1", "duration": "0",
}  # fmt: skip


class Parser:
    """Remembers what is added to it."""

    def __init__(self) -> None:
        self.options: dict[str, dict[str, Any]] = {}

    def add_argument(self, name: str, **more: Any) -> None:
        self.options[name] = more


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    monkeypatch.setattr("sys.argv", ["locust", "--headless"])
    parser = Parser()
    add_options(parser)
    return parser.options


def test_every_option_has_a_variable_and_is_on_the_page_unless_it_is_a_path(added: dict[str, dict[str, Any]]) -> None:
    for name, more in added.items():
        assert more["env_var"] == "LOCUST_" + name[2:].replace("-", "_").upper()
        assert more.get("include_in_web_ui", True) is (name[2:].replace("-", "_") not in PATHS)
    asked = {"model", "device", "batch", "arrival", "rate-per-user", "max-in-flight", "timeout", "slo-p99-ms", "payload"}
    assert {f"--{name}" for name in asked} <= added.keys()
    assert {"--samples", "--model-repository"} <= added.keys()


def test_models_and_devices_are_choices_read_from_the_server(fake: str) -> None:
    found = offered_by(fake)
    assert found.models == ("add", "other")
    assert set(found.devices) == {"auto", "cpu", "slow", "failing"}


def test_a_server_that_does_not_answer_offers_nothing(closed_port: int) -> None:
    assert offered_by(f"127.0.0.1:{closed_port}").models == ()


def test_an_offered_choice_does_not_rule_out_others() -> None:
    assert "cuda:1" in Choices(["auto"])
    assert list(Choices(["auto"])) == ["auto"]


def test_options_describe_the_load_of_one_user() -> None:
    load = load_of({**USUAL, "arrival": OPEN, "model_repository": "m"}, "h:1")
    assert (load.device, load.batch, load.rate_per_s, load.in_flight, load.users) == ("", 4, 10.0, 256, 1)
    assert (load.target_ms, load.repository) == (None, "m")
    assert load_of({**USUAL, "device": "cuda,cpu"}, "h:1").device == "cuda,cpu"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch", "0"), ("batch", "four"), ("batch", "1.5"), ("arrival", "both"), ("rate_per_user", "0"),
        ("rate_per_user", "nan"), ("timeout", "-1"), ("timeout", "inf"), ("duration", "x"), ("slo_p99_ms", "-5"),
        ("warm_up", ""),
    ],
)  # fmt: skip
def test_a_bad_value_is_named_with_what_was_expected(name: str, value: str) -> None:
    with pytest.raises(LoadTestError, match=f"--{name.replace('_', '-')} is {value!r}, but has to be"):
        load_of({**USUAL, name: value}, "h:1")
    with pytest.raises(LoadTestError, match="has to be"):
        check_form({name: value}, list(READERS), [RANDOM])


@pytest.mark.parametrize("name", PATHS)
def test_the_page_takes_no_paths(name: str) -> None:
    """Anyone who reaches the page could have a file read or overwritten."""
    with pytest.raises(LoadTestError, match=f"no field '{name}'"):
        check_form({name: "/tmp/x.npz"}, ["model"], [RANDOM])


def test_the_page_takes_only_the_payload_of_the_command_line() -> None:
    with pytest.raises(LoadTestError, match="files are named on the command line"):
        check_form({"payload": "/etc/passwd"}, ["payload"], page_payloads("rows.npz"))
    check_form({"payload": "rows.npz", "user_count": "3"}, ["payload"], page_payloads("rows.npz"))


@pytest.mark.parametrize(
    ("arguments", "host"),
    [
        (["locust", "--host", "a:1"], "a:1"),
        (["locust", "-H", "a:1"], "a:1"),
        (["locust", "--host=a:1"], "a:1"),
        (["locust", "--host"], "127.0.0.1:8001"),
    ],
)
def test_the_host_is_known_before_locust_parses_its_arguments(
    arguments: list[str], host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOCUST_HOST", raising=False)
    assert _host_of(arguments) == host
