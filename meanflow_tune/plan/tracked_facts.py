"""What tracking tells of a search as a whole: parameters, figures, verdicts, data sets, the first view."""

from collections.abc import Mapping
from typing import Any

from meanflow_tune.plan import confirm
from meanflow_tune.plan.contrast import contrast_of, verdict
from meanflow_tune.plan.findings import Findings
from meanflow_tune.plan.plan import Plan
from meanflow_tune.records import TrialRecord
from meanflow_tune.search.analysis.ranking import columns, front
from meanflow_tune.search.analysis.significance import interval, scores
from meanflow_tune.search.objectives import COST, measures
from meanflow_tune.search.pareto import hypervolume, reference_point

OPTIONS = (
    "scheduler",
    "reduction",
    "grace",
    "brackets",
    "promotion",
    "protect",
    "repeats",
    "confirm",
    "confirm_seeds",
    "workers_per_trial",
    "keep_models",
    "keep_checkpoints",
    "keep_samples",
)
DIGEST_LENGTH = 36  # of a data set in MLflow


def search_facts(plan: Plan, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of the search's run: all that defines it. manifest: its facts."""
    config = plan.examples[0]
    return {
        **manifest,
        **{name: getattr(plan.request, name) for name in OPTIONS},
        "budget": config.budget.model_dump(mode="json"),
        "data": config.data.model_dump(mode="json"),
        "teacher": None if config.teacher is None else config.teacher.model_dump(mode="json"),
        "baselines": ", ".join(plan.space.baselines),
        "reference": ", ".join(plan.space.reference),
    }


def datasets(plan: Plan) -> list[dict[str, Any]]:
    """The inputs of every run: the data it trains on, and the held-out data that metrics compare with."""
    config = plan.examples[0]
    data, digest = config.data.load(), plan.data_fingerprint[:DIGEST_LENGTH]
    rows = {"train": len(data.train_x), "held_out": len(data.held_out_x)}
    return [
        {
            "name": f"{config.data.kind} {context.replace('_', ' ')}",
            "digest": digest,
            "source_type": "meanflow_tune",
            "source": config.data.model_dump_json(),
            "profile": f'{{"num_rows": {count}, "shape": {list(data.shape)}}}',
            "context": context,
        }
        for context, count in rows.items()
    ]


def first_view(plan: Plan) -> dict[str, Any]:
    """What MLflow's table of runs shows first; names are the search's own."""
    objectives, config = plan.objectives, plan.examples[0]
    nfes = config.evaluation.nfe if config.evaluation is not None else ()
    metrics = [name for name in objectives.metrics if name != COST]
    others = [
        f"{metric.name}@{nfes[0]}"
        for metric in (config.evaluation.metrics if config.evaluation is not None else ())
    ]
    return {
        "sort": "objective" if objectives.single is not None else "objective/1",
        "ascending": objectives.directions[0] == "minimize",
        "metrics": [*dict.fromkeys((*metrics, *others))],
        "params": [f"param/{name}" for name in _searched(plan)],
        "images": [f"samples_nfe_{nfe}" for nfe in nfes],
        "step": config.budget.rung_steps[-1] * config.budget.global_batch,
    }


def _searched(plan: Plan, most: int = 5) -> list[str]:
    """Parameters that every baseline has, so that each trial has a value."""
    common = [set(params) for params in plan.space.baselines.values()]
    first = next(iter(plan.space.baselines.values()), {})
    return [name for name in first if all(name in one for one in common)][:most]


def figures(plan: Plan, findings: Findings) -> dict[str, float]:
    """The metrics of the search's run: its values, the winner's differences, and held-out figures."""
    found: dict[str, float] = {}
    roles = {
        "best": findings.leader,
        "best_proposed": findings.best_proposed,
        "reference": findings.reference,
    }
    shown = columns(plan.objectives)
    for role, record in roles.items():
        if record is not None and record.reports:
            measured = measures(record.reports[-1])
            found |= {f"{role}/{name}": part.value(measured) for name, part in shown.items()}
    winner = findings.winner
    if winner is not None and winner.seeds:
        for one in (*winner.of("objective"), *winner.of("quality")):
            found[f"difference/{one.name}"] = one.change.mean
            if one.change.low is not None and one.change.high is not None:
                found[f"difference_lower/{one.name}"] = one.change.low
                found[f"difference_upper/{one.name}"] = one.change.high
        found["difference/seeds"] = winner.seeds
    if plan.objectives.single is None:
        found |= _volume(plan, findings)
    return found | findings.figures()


def _volume(plan: Plan, findings: Findings) -> dict[str, float]:
    objectives = plan.objectives
    done = [r for r in findings.records if r.status == "completed" and r.reports]
    worst = [objectives.values(r.reports[-1]) for r in done if r.baseline is not None]
    points = [objectives.values(r.reports[-1]) for r in front(findings.records, objectives)]
    if not worst or not points:
        return {}
    corner = reference_point(worst, objectives.directions)
    return {"hypervolume": hypervolume(points, corner, objectives.directions)}


def verdicts(plan: Plan, findings: Findings) -> tuple[dict[int, str], dict[int, str]]:
    """Trials of the search, and runs of its confirmation: `reference`, or better, worse or undecided
    against it.

    By the interval of paired differences over fresh seeds, else over the repeats of both; where seeds are
    too few for the level, `leans better` and `leans worse`. Trials with one seed have none.
    """
    reference = findings.reference
    if reference is None or plan.objectives.single is None:
        return {}, {}
    request = plan.request
    sides = confirm.sides(findings.records, plan.space, plan.objectives, request.confirm)
    search: dict[int, str] = {}
    fresh: dict[int, str] = {}
    for side in sides:
        text = "reference"
        if side.candidate.number != reference.number:
            found = contrast_of(plan, sides, findings.confirmed, reference, side.candidate)
            if found is None or not found.seeds or not found.measured:
                continue
            text = verdict(found.measured[0].change, plan.objective.direction)
        search[side.candidate.number] = text
        runs = confirm.runs_of(side, findings.confirmed, plan.objectives, request.seed)
        fresh |= {run.number: text for run in runs}
    for record in findings.records:
        if record.repeats and record.number not in search:
            search[record.number] = _repeated(plan, reference, record)
    return search, fresh


def _repeated(plan: Plan, reference: TrialRecord, record: TrialRecord) -> str:
    if record.number == reference.number:
        return "reference"
    objective = plan.objectives.parts[0]
    theirs, ours = scores(reference, objective), scores(record, objective)
    pairs = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
    if not pairs:
        return "undecided"
    return verdict(interval(pairs), objective.direction)
