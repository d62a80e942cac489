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
