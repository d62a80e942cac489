import pytest
from turnout_exporter import __main__ as command


@pytest.mark.parametrize(("package", "extra"), [("torch", "export"), ("onnxruntime", "cpu")])
def test_a_missing_package_is_reported_with_its_extra(package: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == package else object())
    with pytest.raises(SystemExit, match=rf"{package} is not installed: pip install 'turnout\[{extra}\]'"):
        command.main()
