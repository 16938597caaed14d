"""Draw samples from a trained student: a checkpoint, a trial, best.json, an export, or MLflow."""

from meanflow_tune.driver.sample_command import main as main
from meanflow_tune.driver.sample_command import run_process

if __name__ == "__main__":
    run_process()
