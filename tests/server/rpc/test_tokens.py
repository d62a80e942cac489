"""The file of tokens."""

from pathlib import Path

import pytest
from turnout_server.rpc.tokens import digest_of, parse, watched

SECRET = "s3cr3t-0123456789abcdef"
OTHER = "0123456789abcdef0123=="


def test_each_line_gives_a_token_its_roles() -> None:
    tokens = parse(f"# for the shop\n\n  infer,read   {SECRET}  \ncontrol\t{OTHER}\r\n")
    assert tokens == {digest_of(SECRET): {"infer", "read"}, digest_of(OTHER): {"control"}}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"infer {SECRET}\nadmin {OTHER}", "line 2: there are the roles infer, read, control"),
        (f"infer, read {SECRET}", "line 1: write the roles"),
        (SECRET, "line 1: write the roles"),
        (f"{SECRET} infer", "line 1: there are the roles"),
        ("infer short", "line 1: the token must have at least 16"),
        (f"infer {SECRET}ü", "line 1: the token must have at least 16"),
        (f"infer {SECRET}\nread {SECRET}", "line 2: the token is in an earlier line"),
        (f", {SECRET}", "line 1: there are the roles"),
        ("", "it has no tokens"),
        ("# nothing\n", "it has no tokens"),
    ],
)
def test_a_wrong_line_is_refused_by_its_number_and_without_the_token(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        parse(text)
    assert SECRET not in str(caught.value)
    assert "short" not in str(caught.value)


def test_a_file_that_is_not_text_is_refused_without_its_content(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_bytes(b"infer \xff\xfe" + SECRET.encode())
    with pytest.raises(ValueError, match="tokens") as caught:
        watched(path)
    assert SECRET not in str(caught.value)


def test_a_missing_file_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere cannot be read: No such file"):
        watched(tmp_path / "nowhere")
