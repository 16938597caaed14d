"""The thin trial of Ray Tune: a job goes to the mailbox, what is said about it back to Tune."""

import json
from typing import Any

import ray
from ray import tune

JOB, EVENT = "job", "event"


def follow(config: dict[str, str], mailbox: Any) -> None:
    """config: {"job": JSON text}; text, since Ray Tune takes "/" in keys of a config apart.

    Reports {"event": JSON text}, so that neither a NaN nor a missing metric means anything to Tune.
    Started again after its process died, it replays all events: the driver takes each once.
    """
    job = json.loads(config[JOB])
    ray.get(mailbox.submit.remote(job))
    seen = 0
    while True:
        for event in ray.get(mailbox.events.remote(job["number"], seen)):
            seen += 1
            tune.report({EVENT: json.dumps(event)})
            if event["kind"] == "end":
                return
