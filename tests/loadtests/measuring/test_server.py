from pathlib import Path

import pytest
from turnout_loadtests.errors import LoadTestError
from turnout_loadtests.measuring.server import ServerAddress, attached, started


def test_the_process_of_a_running_server_is_found_by_its_port(fake: str) -> None:
    found = attached(fake, "")
    assert found.pid in found.processes()
    assert attached("10.0.0.1:8001", "").metrics == "10.0.0.1:8002"
    assert attached("10.0.0.1:9001", "").metrics == ""
    assert not attached("10.0.0.1:8001", "").is_local


def test_a_server_that_cannot_start_is_an_error_with_the_end_of_its_log(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text("nonsense = 1\n")
    with (
        pytest.raises(LoadTestError, match=r"(?s)ended with exit status \d+.*server.log.*nonsense") as found,
        started(tmp_path, tmp_path / "s.toml", tmp_path / "server.log", lambda: None),
    ):
        pass
    assert "Traceback" not in str(found.value)


def test_a_server_that_ended_has_last_words(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("\n".join(f"line {number}" for number in range(20)))
    server = ServerAddress("127.0.0.1:1", pid=2**22 + 1, log=log)
    assert server.last_words().splitlines()[-1] == "line 19"
    assert server.processes() == []
    with pytest.raises(LoadTestError, match="line 19"):
        server.check()
