"""Results with what they say: comparisons and verdicts, of one machine or of several."""

from collections.abc import Sequence
from dataclasses import replace

from turnout_loadtests.judging.answer import Question, answer
from turnout_loadtests.judging.ladder import carried, shown_targets
from turnout_loadtests.judging.search import Capacity
from turnout_loadtests.judging.verdict import Evidence, comparisons, verdict
from turnout_loadtests.reporting.results import Results, Verdict


def concluded(results: Results) -> Results:
    """The results with comparisons and verdicts drawn anew from their summaries."""
    compared, answers, verdicts = [], [], []
    asked = Question(results.target_ms, results.loads_per_s, results.prices, searched=not results.says_not)
    for model in results.models:
        evidence = evidence_of(results, model)
        found = comparisons(evidence)
        compared += found
        answers.append(answer(evidence, carries(results, evidence), asked))
        verdicts.append(Verdict(model, verdict(evidence, found)))
    return replace(results, comparisons=compared, answers=answers, verdicts=verdicts)


def carries(results: Results, evidence: Evidence) -> dict[tuple[str, float], Capacity | None]:
    """What each device with valid measurements carries within each target of a report, in milliseconds."""
    return {
        (device, target_ms): carried(
            results.cells, results.capacities, evidence.model, device, target_ms, evidence.single(device)
        )
        for device in evidence.measured
        for target_ms in shown_targets(results.target_ms)
    }


def evidence_of(results: Results, model: str) -> Evidence:
    """What the results know of one model."""
    gaps = [gap for gap in results.gaps if gap.model == model]
    whole = [gap for gap in gaps if not gap.device]
    of_devices = {gap.device: gap.reason for gap in gaps if gap.device and not gap.batch}
    return Evidence(
        model,
        {facts.name: facts for facts in results.facts.get(model, [])},
        [each for each in results.summaries if each.key.model == model],
        [each for each in results.capacities if each.model == model],
        of_devices or ({model: whole[0].reason} if whole else {}),
    )


def merged(results: Results, others: Sequence[Results]) -> Results:
    """The results together with those of other machines, whose devices are called `<device>@<number of the machine>`."""
    for other in others:
        place = len(results.machines) + 1
        results = _joined(results, _renamed(other, f"@{place}"), place)
    return concluded(results) if others else results


def _joined(results: Results, other: Results, place: int) -> Results:
    facts = {model: [*results.facts.get(model, []), *other.facts.get(model, [])] for model in {**results.facts, **other.facts}}
    return replace(
        results,
        models=list(dict.fromkeys([*results.models, *other.models])),
        devices=[*results.devices, *other.devices],
        machines=[*results.machines, *(replace(machine, number=place) for machine in other.machines[:1])],
        facts=facts,
        gaps=[*results.gaps, *other.gaps],
        cells=[*results.cells, *other.cells],
        summaries=[*results.summaries, *other.summaries],
        capacities=[*results.capacities, *other.capacities],
        agreements=[*results.agreements, *other.agreements],
        prices={**other.prices, **results.prices},
    )


def _renamed(results: Results, suffix: str) -> Results:
    """The results with devices named after their machine, so that two machines' CPUs can be told apart."""
    return replace(
        results,
        devices=[device + suffix for device in results.devices],
        facts={
            model: [replace(facts, name=facts.name + suffix, answers_as=facts.answers_as or facts.name) for facts in devices]
            for model, devices in results.facts.items()
        },
        gaps=[replace(gap, device=gap.device + suffix) if gap.device else gap for gap in results.gaps],
        cells=[replace(cell, device=cell.device + suffix) for cell in results.cells],
        summaries=[replace(each, key=replace(each.key, device=each.key.device + suffix)) for each in results.summaries],
        capacities=[replace(each, device=each.device + suffix) for each in results.capacities],
        agreements=[
            replace(each, device=each.device + suffix, reference=each.reference + suffix) for each in results.agreements
        ],
    )
