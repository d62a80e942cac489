"""Locust's page: checks its form before a test starts, and adds the tab with devices side by side."""

import json
from collections.abc import Callable
from typing import Any

import gevent
from flask import Response, jsonify, request
from locust.argument_parser import ui_extra_args_dict
from locust.env import Environment

from turnout_loadtests.errors import LoadTestError
from turnout_loadtests.measuring import server_metrics
from turnout_loadtests.measuring.server import metrics_beside
from turnout_loadtests.sending.board import COLUMNS, KEY, TITLE, Board
from turnout_loadtests.sending.options import check_form, page_payloads

#: How often the server's metrics are read while a test runs.
METRICS_EVERY_S = 2.0


def extend(environment: Environment, board: Board, check: Callable[[dict[str, Any], str], None]) -> None:
    """Adds form check and tab to the page of this environment.

    Args:
        check: raises LoadTestError if a test with these options can't start on this host.
    """
    page: Any = environment.web_ui
    options: Any = environment.parsed_options
    payloads = page_payloads(options.payload)
    structure = [{"key": "name", "title": "Model, device, batch"}, *({"key": k, "title": t} for k, t in COLUMNS.items())]
    page.template_args["extended_tabs"] = [{"title": TITLE, "key": KEY}]
    page.template_args["extended_tables"] = [{"key": KEY, "structure": structure}]

    @page.app.before_request  # type: ignore[untyped-decorator] # Flask's types aren't installed
    def check_swarm() -> Response | None:
        if request.method != "POST" or not request.path.endswith("/swarm"):
            return None
        form = request.form.to_dict()
        try:
            check_form(form, list(ui_extra_args_dict([])), payloads)
            picked = {"user_classes": request.form.getlist("user_classes")}
            check({**vars(options), **form, **picked}, form.get("host") or environment.host or "")
        except LoadTestError as error:
            return jsonify({"success": False, "message": str(error), "host": environment.host})
        return None

    @page.app.after_request  # type: ignore[untyped-decorator]
    def add_devices(response: Response) -> Response:
        if request.path.endswith("/stats/requests") and response.is_json:
            report = json.loads(response.get_data(as_text=True))
            rows = board.rows(environment.stats)
            report["extended_stats"] = [{"key": KEY, "data": rows}]
            response.set_data(json.dumps(report))
        return response

    gevent.spawn(_watch_metrics, environment, board)


def _watch_metrics(environment: Environment, board: Board) -> None:
    options: Any = environment.parsed_options
    while True:
        gevent.sleep(METRICS_EVERY_S)
        runner, address = environment.runner, options.metrics or metrics_beside(environment.host or "")
        if address and runner is not None and runner.state in ("running", "spawning"):
            board.seen(server_metrics.fetch(address))
