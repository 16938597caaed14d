"""What Tune does with its own files, without a cluster."""

from types import SimpleNamespace

from ray.tune.result_grid import ResultGrid

from meanflow_tune.cluster import tuner


def test_tune_unpickles_no_error_of_a_trial_from_its_files() -> None:
    """On a full disk such a file is empty, and `Tuner.fit` ended a stopped search with an EOFError."""

    def torn() -> None:
        raise EOFError("Ran out of input")

    trial = SimpleNamespace(status="ERROR", get_pickled_error=torn)
    before = ResultGrid.__dict__["_populate_exception"]
    with tuner._without_stored_errors():
        assert ResultGrid._populate_exception(trial) is None
    assert ResultGrid.__dict__["_populate_exception"] is before
