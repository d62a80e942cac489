import click
import pytest
from click.testing import CliRunner
from turnout_server.cli import flags
from turnout_server.cli.serve import serve
from turnout_server.settings import Settings


def shown_help(command: click.Command) -> str:
    return CliRunner().invoke(command, ["--help"], terminal_width=200).output


def test_the_help_of_serve_has_every_setting_with_a_plain_placeholder() -> None:
    text = shown_help(serve)
    for name in Settings.model_fields:
        assert f"  {settings_flag(name)}" in text
    for placeholder in ("--grpc-port PORT", "--cache-dir DIR", "--config FILE", "--drain-delay-s SECONDS", "--load-model NAME"):
        assert placeholder in text
    for leaked in ("str]", "dict[", "Path", "TEXT", "{none", "UNSET"):
        assert leaked not in text


def settings_flag(name: str) -> str:
    return "--device NAME={...}" if name == "devices" else f"--{name.replace('_', '-')}"


def test_the_help_says_what_is_required_the_default_and_what_repeats() -> None:
    text = shown_help(serve)
    assert "[required]" in text
    assert "[default: 8001]" in text
    assert "[default: 30]" in text
    assert "[repeatable]" in text


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("--reflection", True),
        ("--reflection=true", True),
        ("--reflection=1", True),
        ("--no-reflection", False),
        ("--reflection=False", False),
        ("--reflection=0", False),
    ],
)
def test_a_switch_may_have_a_value_as_other_servers_have_it(argument: str, value: bool) -> None:
    assert given(argument) == {"reflection": value}


def test_a_switch_with_another_value_is_refused() -> None:
    with pytest.raises(click.UsageError, match="does not take a value"):
        given("--reflection=maybe")


def test_what_is_not_on_the_command_line_is_not_given() -> None:
    assert given() == {}
    assert given("--load-model=a", "--load-model=b", "--grpc-port=1") == {"load_model": ("a", "b"), "grpc_port": "1"}


def given(*arguments: str) -> dict[str, object]:
    command = flags.SettingsCommand("x", params=flags.options())
    return flags.given(command.make_context("x", list(arguments)).params)
