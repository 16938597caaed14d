"""Search hyper-parameters of second-order MeanFlow training. Without arguments: the main job on digits."""

from meanflow_tune.driver.tune_command import main as main
from meanflow_tune.driver.tune_command import run_process

if __name__ == "__main__":
    run_process()
