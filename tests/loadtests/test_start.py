import pytest
from turnout_cli import installation
from turnout_loadtests import start


@pytest.mark.parametrize("package", ["locust", "rich"])
def test_a_missing_package_is_reported_with_its_extra(
    package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(installation, "find_spec", lambda name: None if name == package else object())
    with pytest.raises(SystemExit) as caught:
        start.main()
    assert caught.value.code == 1
    text = capsys.readouterr().err
    assert text.startswith(f"turnout-loadtest: {package} is not installed; run: pip install ")
    assert "[loadtest]" in text


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--version"], 0, "turnout-loadtest "),
        (["compar"], 2, "no such command 'compar'; did you mean 'compare'?"),
        (["compare", "m", "--devic=cpu"], 2, "no such option '--devic'; did you mean '--device'?"),
    ],
)
def test_it_behaves_like_the_other_commands(
    arguments: list[str],
    status: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["turnout-loadtest", *arguments])
    with pytest.raises(SystemExit) as caught:
        start.main()
    assert caught.value.code == status
    shown = capsys.readouterr()
    assert words in shown.out + shown.err
