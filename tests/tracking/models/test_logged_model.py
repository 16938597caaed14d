"""Where a logged model is looked for; what is in one: tests/tracking/test_stored_model.py."""

from pathlib import Path

import pytest

from meanflow_tune.files import mlflow_uri
from meanflow_tune.tracking.models import logged_model
from meanflow_tune.tracking.models.logged_model import ModelUnavailable, download_student


class Asked(Exception):
    """MLflow was asked."""


def test_a_database_in_a_folder_with_odd_signs_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(uri: str) -> None:
        raise Asked

    monkeypatch.setattr(logged_model, "connect", connect)
    storage = tmp_path / "a?b 50%20"
    storage.mkdir()
    with pytest.raises(ModelUnavailable) as caught:
        download_student("models:/x/1", mlflow_uri(storage), tmp_path / "got")
    assert f"there is no MLflow database {storage / 'mlflow.db'};" in str(caught.value)
    (storage / "mlflow.db").touch()
    with pytest.raises(Asked):
        download_student("models:/x/1", mlflow_uri(storage), tmp_path / "got")
