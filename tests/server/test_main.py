"""The command as people type it, mistakes included."""

import os
from pathlib import Path

import pytest
from turnout_server import __main__ as command


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("TURNOUT_"):
            monkeypatch.delenv(name)


def outcome(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        command.main(arguments)
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.mark.parametrize("argument", ["--help", "-h"])
def test_help_lists_the_commands(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(argument) == 0
    text = capsys.readouterr().out
    for name in ("serve", "doctor", "explain"):
        assert f"\n  {name} " in text
    assert "..." not in text.partition("Commands:")[2]  # no description is cut off


@pytest.mark.parametrize("arguments", [["--version"], ["serve", "--version"]])
def test_the_version_is_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(*arguments) == 0
    assert capsys.readouterr().out.startswith("turnout-server ")


@pytest.mark.parametrize("arguments", [["--model-repository=/nowhere"], ["serve", "--model-repository=/nowhere"]])
def test_serve_may_be_left_out(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(*arguments) == 2
    assert "turnout-server: --model-repository: /nowhere: there is no such directory" in capsys.readouterr().err


def test_without_arguments_it_serves_what_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert outcome() == 2
    assert "--model-repository is required (or TURNOUT_MODEL_REPOSITORY" in capsys.readouterr().err
    monkeypatch.setenv("TURNOUT_MODEL_REPOSITORY", "/nowhere")
    assert outcome() == 2
    assert "TURNOUT_MODEL_REPOSITORY: /nowhere: there is no such directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["doctr"], "no such command 'doctr'; did you mean 'doctor'?"),
        (["sevre"], "no such command 'sevre'; did you mean 'serve'?"),
        (["--model-repositry=x"], "no such option '--model-repositry'; did you mean '--model-repository'?"),
        (["serve", "--grpc-prot=1"], "no such option '--grpc-prot'; did you mean '--grpc-port'?"),
        (["doctor", "--jason"], "no such option '--jason'; did you mean '--json'?"),
        (["explain", "m", "--dedline=1ms"], "no such option '--dedline'; did you mean '--deadline'?"),
        (["--versoin"], "no such option '--versoin'; did you mean '--version'?"),
    ],
)
def test_a_misspelled_name_is_answered_with_the_one_that_was_meant(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert outcome(*arguments) == 2
    text = capsys.readouterr().err
    assert text.startswith(f"turnout-server: {words}")
    assert text.count("\n") == 1


@pytest.mark.parametrize("before", [[], ["serve"], ["--grpc-port=0"]])
def test_a_repository_without_its_flag_is_answered_with_the_whole_command(
    before: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert outcome(*before, str(tmp_path)) == 2
    assert f"to serve it: turnout-server serve --model-repository {tmp_path}" in capsys.readouterr().err
