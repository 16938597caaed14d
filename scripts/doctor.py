"""Check what a search needs, on this machine or on all hosts of a Ray cluster."""

from meanflow_tune.driver.doctor.doctor_command import main as main
from meanflow_tune.driver.doctor.doctor_command import run_process

if __name__ == "__main__":
    run_process()
