"""Train one configuration, such as the best.json of a search, without Ray; resumes where it stopped."""

from meanflow_tune.driver.train_command import main as main
from meanflow_tune.driver.train_command import run_process

if __name__ == "__main__":
    run_process()
