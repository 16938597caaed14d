"""A real S3 server on 127.0.0.1, in a process of its own, that a test can suspend."""

import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.ports import free_ports

PATIENCE = 60.0
SECRET = "s3cret-canary"


class S3Server:
    """moto's server, which keeps buckets in memory."""

    def __init__(self) -> None:
        self.port = free_ports(1)
        self.endpoint = f"http://127.0.0.1:{self.port}"
        address = ["-H", "127.0.0.1", "-p", str(self.port)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", *address],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def wait(self) -> None:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                urllib.request.urlopen(f"{self.endpoint}/moto-api/", timeout=5).close()
                return
            except OSError:
                assert self.process.poll() is None, "moto's server ended"
                assert time.monotonic() < end, "moto's server does not answer"
                time.sleep(0.1)

    def new_url(self) -> str:
        """Of a folder in an empty bucket."""
        import boto3

        bucket = f"bucket-{uuid.uuid4().hex}"
        boto3.client("s3").create_bucket(Bucket=bucket)
        return f"s3://{bucket}/runs"

    @contextmanager
    def hung(self) -> Iterator[None]:
        """Accepts connections and answers none."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def running_s3() -> Iterator[S3Server]:
    """A server, which the environment of this process and of those that it starts names."""
    server = S3Server()
    with pytest.MonkeyPatch.context() as patch:
        given = {
            "AWS_ENDPOINT_URL": server.endpoint,
            "AWS_ACCESS_KEY_ID": "searcher",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        for name, value in given.items():
            patch.setenv(name, value)
        try:
            server.wait()
            yield server
        finally:
            server.close()
