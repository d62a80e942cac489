"""docs/results/replicas: a table of the rolling restarts, and the plot of requests by replica."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import matplotlib as mpl
from turnout_loadtests.formatting import markdown_table

from benchmarks.replicas.age import Curve
from benchmarks.replicas.rolling import Outcome

_COLORS = ("#2f6fdb", "#7a8aa5", "#d9822b")


def write(directory: Path, about: Mapping[str, str], outcomes: Mapping[str, Outcome], curves: Sequence[Curve]) -> None:
    """Writes replicas.json, README.md and connection-age.png."""
    directory.mkdir(parents=True, exist_ok=True)
    data = {
        "about": dict(about),
        "rolling": {name: asdict(outcome) for name, outcome in outcomes.items()},
        "connection_age": [asdict(curve) for curve in curves],
    }
    (directory / "replicas.json").write_text(json.dumps(data, indent=1) + "\n")
    if curves:
        _plot(directory / "connection-age.png", curves)
    (directory / "README.md").write_text("\n".join(_markdown(about, outcomes, curves)))


def _markdown(about: Mapping[str, str], outcomes: Mapping[str, Outcome], curves: Sequence[Curve]) -> list[str]:
    lines = [
        "# Three replicas on one machine",
        "",
        *(f"- {key}: {value}" for key, value in about.items()),
        "",
        "## Restarts under load",
        "",
        "Two of three servers run; the third is added, each of the three is restarted by SIGTERM, and the third is taken away,",
        "all while Locust asks through the balancer. The files are those of deploy/balancers.",
        "",
        *markdown_table(
            ["balancer", "requests", "failed", "requests/s", "p50 ms", "p99 ms", "longest ms", "starts and stops"],
            [
                [
                    name,
                    f"{outcome.requests:,}",
                    f"{outcome.failed:,}",
                    f"{outcome.requests_per_s:.0f}",
                    f"{outcome.p50_ms:.0f}",
                    f"{outcome.p99_ms:.0f}",
                    f"{outcome.max_ms:.0f}",
                    str(outcome.changes),
                ]
                for name, outcome in outcomes.items()
            ],
        ),
        "",
        *(f"- {name}: {count} of `{what}`" for name, outcome in outcomes.items() for what, count in outcome.failures.items()),
    ]
    if curves:
        lines += [
            "",
            "## A new replica behind a balancer of connections",
            "",
            "![Requests per second by replica](connection-age.png)",
            "",
            *markdown_table(
                ["grpc.max_connection_age_ms", "share of the new replica in the last third", "requests failed"],
                [
                    [str(curve.age_ms or "not set"), f"{curve.share_of_last(curve.at_s[-1] * 2 / 3):.0%}", str(curve.failed)]
                    for curve in curves
                ],
            ),
        ]
    return [*lines, ""]


def _plot(file: Path, curves: Sequence[Curve]) -> None:
    mpl.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415, the backend is chosen first

    figure, axes = pyplot.subplots(1, len(curves), figsize=(10, 3.6), sharey=True, layout="constrained")
    for curve, axis in zip(curves, axes, strict=True):
        window = 4  # samples, to smooth a rate of a few requests
        for color, (name, counts) in zip(_COLORS, curve.answered.items(), strict=True):
            steps = range(window, len(counts))
            rates = [(counts[at] - counts[at - window]) / (curve.at_s[at] - curve.at_s[at - window]) for at in steps]
            axis.plot([curve.at_s[at] for at in steps], rates, label=name, color=color)
        axis.axvline(curve.added_s, color="#999999", linestyle=":")
        axis.set_title("connections of any age" if not curve.age_ms else f"connections end after {curve.age_ms / 1e3:g} s")
        axis.set_xlabel("seconds; dotted: turnout-2 is ready")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("requests/s")
    axes[0].legend(loc="center left")
    figure.savefig(file, dpi=110)
    pyplot.close(figure)
