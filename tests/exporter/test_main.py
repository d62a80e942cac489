import pytest
from turnout_cli import installation
from turnout_exporter import __main__ as command


@pytest.mark.parametrize(("package", "extra"), [("torch", "export"), ("onnxruntime", "cpu")])
def test_a_missing_package_is_reported_with_its_extra(
    package: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(installation, "find_spec", lambda name: None if name == package else object())
    with pytest.raises(SystemExit) as caught:
        command.main()
    assert caught.value.code == 1
    text = capsys.readouterr().err
    assert text.startswith(f"turnout-export: {package} is not installed; run: pip install ")
    assert f"[{extra}]" in text


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--help"], 0, "Usage: turnout-export"),
        (["file.py:build", "--inptu=x"], 2, "no such option '--inptu'; did you mean '--input'? see turnout-export --help"),
        ([], 2, "missing argument 'SOURCE'"),
        (["verify"], 2, "missing argument 'DIRECTORY'; see turnout-export verify --help"),
        (["inspect", "--help"], 0, "Usage: turnout-export inspect"),
    ],
)
def test_it_behaves_like_the_other_commands(
    arguments: list[str],
    status: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["turnout-export", *arguments])
    with pytest.raises(SystemExit) as caught:
        command.main()
    assert caught.value.code == status
    shown = capsys.readouterr()
    assert words in shown.out + shown.err


def test_the_version_alone_is_turnouts_own(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["turnout-export", "--version"])
    with pytest.raises(SystemExit) as caught:
        command.main()
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"turnout-export {installation.version()}\n"
