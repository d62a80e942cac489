import json

import pytest
from turnout_server.core.errors import FailedPrecondition, InvalidRequest, NotFound, ServingError, Unavailable
from turnout_server.explain import http as queries
from turnout_server.explain.answer import DeviceFacts, Explanation, Question
from turnout_server.explain.load import Load

ESTIMATE = {"service_us": 10.0, "spread_us": 1.0, "fastest_us": 9.0, "runs": 5}
FACTS = DeviceFacts(
    "cpu",
    asked=True,
    profile={"1": ESTIMATE},
    cap=4,
    cap_reason="so",
    predicted_finish_us=10.0,
    load=Load(100.0, 200.0, 1, 0.5, 5.0),
)
EXPLANATION = Explanation(
    "m", "1", 2, "auto", "latency", 50_000.0, None, (FACTS, DeviceFacts("cuda:0", asked=False)), "cpu", "only-device", 10.0
)


@pytest.mark.parametrize(
    "question",
    [
        Question("m"),
        Question("a model", "2", 3, "cuda,cpu", "cost", "fp16", 1, 50_000.0, 12.5),
    ],
)
def test_a_question_survives_encoding_and_decoding(question: Question) -> None:
    assert queries.question_of(queries.query_of(question)) == question


def test_an_explanation_survives_encoding_and_decoding() -> None:
    assert queries.explanation_of(queries.as_json(EXPLANATION)) == EXPLANATION


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("", "which model"),
        ("rows=1", "which model"),
        ("model=m&rows=0", "rows: '0' is not a whole number above 0"),
        ("model=m&rows=1e3", "rows: '1e3' is not a whole number"),
        ("model=m&rows=" + "9" * 5000, "is not a whole number"),
        ("model=m&rows=", "rows: '' is not"),
        ("model=m&priority=-1", "priority: '-1' is not a whole number"),
        ("model=m&deadline_us=50ms", "deadline_us: '50ms' is not a number above 0"),
        ("model=m&load_per_s=inf", "load_per_s: 'inf' is not a number above 0"),
        ("model=m&load_per_s=nan", "load_per_s: 'nan' is not a number above 0"),
        ("model=m&objective=fast", "objective: 'fast' is not one of latency, cost, energy"),
        ("model=m&row=3", "unknown key 'row'; a question has model, version, rows"),
        ("model=m&rows=1&rows=2", "more than once"),
    ],
)
def test_a_bad_question_is_refused_with_what_is_wrong(query: str, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        queries.question_of(query)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidRequest("no"), "400 Bad Request"),
        (FailedPrecondition("no"), "400 Bad Request"),
        (NotFound("no"), "404 Not Found"),
        (Unavailable("no"), "503 Service Unavailable"),
    ],
)
def test_an_error_has_an_http_status_and_a_text(error: ServingError, status: str) -> None:
    def explain(question: Question) -> Explanation:
        raise error

    assert queries.answer(explain, "model=m") == (status, "text/plain; charset=utf-8", "no\n")


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "<html>", json.dumps({"schema_version": 2}), json.dumps({"schema_version": 1, "devices": []})],
)
def test_a_text_that_is_not_an_explanation_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"explanation|Expecting"):
        queries.explanation_of(text)
