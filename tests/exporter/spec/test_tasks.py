import pytest
from turnout_exporter.errors import SpecError
from turnout_exporter.spec.tasks import AUTO_CLASSES, TASKS, parse_task


@pytest.mark.parametrize(
    ("text", "task"), [("causal-lm", "causal-lm"), ("text-generation", "causal-lm"), ("ner", "token-classification")]
)
def test_a_task_may_be_called_as_elsewhere(text: str, task: str) -> None:
    assert parse_task(text) == task


def test_an_unknown_task_is_answered_with_those_there_are() -> None:
    with pytest.raises(SpecError, match="task 'chat' isn't known; use one of text-classification"):
        parse_task("chat")


def test_each_task_has_a_class_of_transformers() -> None:
    assert AUTO_CLASSES.keys() == set(TASKS)
