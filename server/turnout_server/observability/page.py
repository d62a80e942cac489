"""The page for people on the monitoring port: page.html, which asks /status and shows it."""

from pathlib import Path

from turnout_server.observability.http import Answer

PATH = "/"

_HTML = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
#: The page is one file: it loads nothing, and asks only the server that it came from.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"


def answer(_: str) -> Answer:
    """The page."""
    headers = (("Content-Security-Policy", _POLICY), ("X-Content-Type-Options", "nosniff"), ("Cache-Control", "no-cache"))
    return Answer("200 OK", "text/html; charset=utf-8", _HTML, headers)
