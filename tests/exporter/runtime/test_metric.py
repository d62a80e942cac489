from pathlib import Path

import pytest
from turnout_exporter.errors import SourceError
from turnout_exporter.jobs import MetricJob
from turnout_exporter.runtime import metric

from tests.exporter.runtime.models import DOUBLED, SILENT, save


def judged(tmp_path: Path, body: str) -> dict[str, float]:
    (tmp_path / "judge.py").write_text(f"import numpy as np\ndef judge(predict):\n    {body}\n")
    job = MetricJob(str(save(tmp_path, DOUBLED)), f"{tmp_path / 'judge.py'}:judge")
    figures: dict[str, float] = metric.run(vars(job), SILENT)["metric"]
    return figures


def test_a_function_judges_the_outputs(tmp_path: Path) -> None:
    predict = "predict({'x': np.ones((3, 4), 'float32')})['y'].sum()"
    assert judged(tmp_path, f"return {predict}") == {"metric": 24.0}


def test_figures_may_have_names(tmp_path: Path) -> None:
    assert judged(tmp_path, "return {'accuracy': 0.5, 'recall': 1}") == {"accuracy": 0.5, "recall": 1.0}


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("raise KeyError('y')", "judge raised KeyError: 'y'"),
        ("return 'good'", "judge raised ValueError"),
        ("return float('nan')", "instead of finite numbers"),
        ("return {}", "returned nothing instead of finite numbers"),
        ("return None", "judge raised TypeError"),
    ],
)
def test_a_function_that_gives_no_numbers_is_reported(tmp_path: Path, body: str, complaint: str) -> None:
    with pytest.raises(SourceError, match=complaint):
        judged(tmp_path, body)
