"""Draw samples from a trained student: a checkpoint, a trial, best.json, an export, or MLflow."""

import sys

from meanflow_tune.driver.sample_command import main

if __name__ == "__main__":
    sys.exit(main())
