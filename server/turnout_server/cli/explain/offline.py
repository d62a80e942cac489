"""Explains without a running server: loads and measures one model as a server would."""

from dataclasses import replace

from turnout_server.assembly import build
from turnout_server.core.errors import NotFound
from turnout_server.explain.answer import DeviceFacts, Explanation, Question
from turnout_server.models.model_version import ModelVersion
from turnout_server.models.tuning import rates
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
        explanation = core.explainer.explain(question)
        if question.load_per_s is None:
            return explanation
        version = core.repository.look_up(question.model, question.version).in_precision(question.precision)
        return replace(explanation, devices=tuple(_tried(facts, version) for facts in explanation.devices))
    finally:
        core.stop(timeout_s=0)


def _tried(facts: DeviceFacts, version: ModelVersion) -> DeviceFacts:
    """The facts of a device with what it carried in two ways, where there is a choice."""
    deployment = version.deployments.get(facts.name)
    if deployment is None or deployment.file is None:
        return facts
    carried = rates(deployment.file, deployment.session, facts.cap)
    if carried is None:
        return facts
    threads = deployment.file.engine.device.threads
    return replace(facts, threads=threads, together_per_s=carried[0], apart_per_s=carried[1])
