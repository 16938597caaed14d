"""Write the report of a study as one HTML file, or compare several studies."""

from meanflow_tune.driver.report_command import main as main
from meanflow_tune.driver.report_command import run_process

if __name__ == "__main__":
    run_process()
