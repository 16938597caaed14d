"""A stored study whose trials reported made-up numbers, as a search leaves one, without any training."""

from pathlib import Path

from meanflow_tune.records import Outcome
from meanflow_tune.search.space.draws import AnyTrial
from meanflow_tune.search.space.load import load_space
from meanflow_tune.search.store.storage import JOURNAL_NAME, open_storage
from meanflow_tune.search.study.ledger import Ledger
from tests.support.manifests import manifest
from tests.support.page.page_study import OBJECTIVE, OBJECTIVES, RUNGS, SPACE, page_report
from tests.support.rungs import LEDGER, make_rungs


def store_study(storage: Path, name: str, seed: int = 0, trials: int = 5) -> Path:
    """A finished search of `trials` trials in a folder of `storage`."""
    folder, space = storage / name, load_space(SPACE)
    folder.mkdir(parents=True)
    settings = {"space": SPACE, "space_hash": space.source_hash, "goal": space.goal, "seed": seed}
    rest = {
        "study": name,
        "objective": OBJECTIVE,
        "overrides": (),
        "rungs": "asha",
        "trials": trials,
    }
    manifest(**settings, **rest).write(folder)

    def suggest(trial: AnyTrial) -> dict[str, object]:
        return space.suggest(trial).to_dict()

    def allow() -> None:
        """The fence of a driver that nobody disputes."""

    ledger = Ledger(
        storage=open_storage(folder / JOURNAL_NAME, allow),
        study_name=name,
        suggest=suggest,
        baselines=dict(list(space.baselines.items())[:2]),
        objectives=OBJECTIVES,
        rungs=make_rungs(),
        sampler="random",
        seed=seed,
        total=trials,
        folder=folder,
        fence=allow,
        **LEDGER,
    )
    while (job := ledger.next()) is not None:
        outcome = Outcome("completed")
        for images in RUNGS:
            decision = ledger.record(job.number, page_report(images, 0.5 - 0.05 * job.number))
            if not decision.go_on:
                outcome = Outcome("pruned", decision.reason)
                break
        ledger.finish(job.number, outcome)
    ledger.end()
    return folder
