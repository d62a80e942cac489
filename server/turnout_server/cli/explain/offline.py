"""Explains without a running server: loads and measures one model as a server would."""

from turnout_server.assembly import build
from turnout_server.core.errors import NotFound
from turnout_server.explain.answer import Explanation, Question
from turnout_server.settings import Settings


def explain(settings: Settings, question: Question) -> Explanation:
    """What a server with these settings would answer once it is ready and idle.

    Raises:
        NotFound: there is no such model in the repository.
        ServingError: a declared device doesn't work, the model can't be loaded, or it doesn't answer such requests.
    """
    core = build(settings)
    try:
        if not core.repository.knows(question.model):
            known = ", ".join(entry.name for entry in core.repository.index()) or "no models"
            raise NotFound(f"there is no model '{question.model}' in {settings.model_repository}, which has {known}")
        core.repository.start({question.model})
        return core.explainer.explain(question)
    finally:
        core.stop(timeout_s=0)
