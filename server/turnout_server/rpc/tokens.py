"""The file of tokens: which bearer token may do what.

One token a line, after its roles: `infer,read 6f1c...`. Empty lines and lines that begin with `#` don't count. A token is only
kept as its SHA-256, so that looking it up says nothing about how much of a wrong one was right.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from turnout_server.core.watched_files import WatchedFiles

Role = Literal["infer", "read", "control"]
ROLES: tuple[Role, ...] = get_args(Role)
#: Roles by the digest of a token.
Tokens = Mapping[bytes, frozenset[Role]]

#: A shorter token could be guessed.
MIN_LENGTH = 16
#: What RFC 6750 lets a bearer token consist of.
_TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]+=*")


def watched(path: Path) -> WatchedFiles[Tokens]:
    """The tokens of a file, which follow it.

    Raises:
        ValueError: the file can't be used; the text names the line, never the token.
    """
    try:
        return WatchedFiles([path], lambda: parse(path.read_text(encoding="utf-8")), "tokens")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def parse(text: str) -> Tokens:
    """The tokens in the text of a file.

    Raises:
        ValueError: a line is wrong, or there is no token.
    """
    tokens: dict[bytes, frozenset[Role]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        roles, token = _entry(number, line.split())
        if digest_of(token) in tokens:
            raise ValueError(f"line {number}: the token is in an earlier line, too; give it all its roles in one line")
        tokens[digest_of(token)] = roles
    if not tokens:
        raise ValueError("it has no tokens; write one a line, after its roles: infer,read TOKEN")
    return tokens


def digest_of(token: str) -> bytes:
    """The SHA-256 of a token."""
    return hashlib.sha256(token.encode()).digest()


def _entry(number: int, words: list[str]) -> tuple[frozenset[Role], str]:
    if len(words) != 2:
        raise ValueError(f"line {number}: write the roles, separated by commas, a space, and the token: infer,read TOKEN")
    named, token = set(words[0].split(",")), words[1]
    if not named <= set(ROLES):
        raise ValueError(f"line {number}: there are the roles {', '.join(ROLES)}; its first word has others")
    if len(token) < MIN_LENGTH or not _TOKEN.fullmatch(token):
        raise ValueError(
            f"line {number}: the token must have at least {MIN_LENGTH} letters, digits or -._~+/; "
            "'openssl rand -hex 32' makes a good one"
        )
    return frozenset(role for role in ROLES if role in named), token
