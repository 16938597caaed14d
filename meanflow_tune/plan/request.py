"""SearchRequest: the resolved command line of a search, and the errors that end one with a clear line.

Every option of `tune.py` is a field here, and its default is stated nowhere else.
"""

import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationInfo, field_validator

from meanflow_tune.files import mlflow_uri, sqlite_below
from meanflow_tune.settings import Settings

BEST = r"best:[1-9][0-9]{0,5}"
MOST = 1_000_000  # of anything that is counted
Count = Annotated[int, Field(ge=1, le=MOST)]
MOST_TRIALS = 100_000  # a study of more cannot be read back in a reasonable time
TEN_YEARS = 3.2e8  # seconds
STORAGE = Path("runs")
TEACHERS = "teachers"

LONGEST_MESSAGE = 1600  # characters of an error

# What is in a storage folder besides studies, or in a study's folder.
RESERVED = {TEACHERS, "mlartifacts", "mlruns", "confirm", "trials", "outbox"}

EXIT_OK, EXIT_USAGE, EXIT_ALL_FAILED = 0, 2, 3
EXIT_IN_USE, EXIT_UNUSABLE, EXIT_INTERRUPTED = 4, 5, 130

# The same path as a whole search, small enough for a first look.
SMOKE_TRIALS = 7
SMOKE_SETTINGS = (
    "teacher.budget.images=60000",
    "teacher.budget.global_batch=128",
    "budget.images=12800",
    "budget.global_batch=128",
    "budget.rungs=[0.5, 1.0]",
    "evaluation.samples=256",
)


@dataclass(frozen=True)
class Option:
    """How a field appears on the command line.

    group: heading in `--help`; flag: where it is not named after the field; bare: the value where the
    option is given without one; environment: the variable that replaces the default; parse: turns the
    text into the field's value.
    """

    group: str
    metavar: str | None = None
    flag: str | None = None
    bare: str | None = None
    environment: str | None = None
    parse: Callable[[str], Any] | None = None


def duration(text: str) -> float:
    """Seconds of `90s`, `45m`, `2h` or `1d12h`. Raises ValueError for anything else."""
    parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)([smhd])", text)
    if not parts or "".join(f"{number}{unit}" for number, unit in parts) != text:
        raise ValueError(f"must be a time such as 90s, 45m, 2h or 1d12h, but is {text!r}")
    seconds = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
    return sum(float(number) * seconds[unit] for number, unit in parts)


WHAT, HOW, STATISTICS = "what to search", "how to search", "how to tell luck from skill"
WHERE, KEEP = "where to run it", "where to keep it"


class SearchRequest(Settings):
    """What to search, how much, and where. A field's description, in most cases the text below it, is its
    text in `--help`, and names a default that depends on other things.
    """

    model_config = ConfigDict(use_attribute_docstrings=True)

    space: Annotated[str, Option(WHAT, "NAME")] = "second_order"
    """module of search_spaces, or a .py file"""
    study: Annotated[str, Option(WHAT, "NAME"), Field(max_length=100)]
    """name of the study (default: the space's name)"""
    trials: Annotated[int, Option(WHAT, "N")] = Field(
        default=32,
        ge=1,
        le=MOST_TRIALS,
        description=f"trials in total, baselines included; the smoke test makes {SMOKE_TRIALS}",
    )
    settings: Annotated[tuple[str, ...], Option(WHAT, "PATH=VALUE", flag="--set")] = ()
    """fix a setting of every trial, for example budget.images=64000; may be repeated"""
    time_budget: Annotated[
        float | None, Option(WHAT, "TIME", parse=duration), Field(gt=0.0, le=TEN_YEARS)
    ] = None
    """stop at a safe point after this much time, summed over all runs of the command: 90s, 45m, 2h, 1d12h"""
    seed: Annotated[int, Option(WHAT, "N"), Field(ge=0, lt=2**63)] = 0
    """seed of the search, from which those of training, teacher and evaluation latents follow unless set"""
    sampler: Annotated[Literal["tpe", "gp", "cmaes", "nsgaii", "qmc", "random"], Option(HOW)] = (
        "tpe"
    )
    """Optuna's sampler"""
    startup_trials: Annotated[Count, Option(HOW, "N")] = 8
    """finished trials before the sampler models anything"""
    objectives: Annotated[str | None, Option(HOW, "LIST")] = None
    """several objectives instead of the space's one, such as teacher_gap@1,teacher_gap@4,cost"""
    scheduler: Annotated[Literal["asha", "median", "none"], Option(HOW)] = "asha"
    """stop weak trials at rungs: successive halving, the median rule, or none"""
    reduction: Annotated[float, Option(HOW, "F"), Field(gt=1.0, le=100.0)] = 4.0
    """asha: at a rung the best 1/F of the trials continue"""
    grace: Annotated[int, Option(HOW, "IMAGES"), Field(ge=0, lt=2**63)] = 0
    """images before which no trial is stopped"""
    brackets: Annotated[int, Option(HOW, "N"), Field(ge=1, le=8)] = 1
    """asha: trials take turns in N brackets, the k-th of which spares the first k rungs"""
    promotion: Annotated[bool, Option(HOW)] = True
    """asha: a stopped trial is paused, and continues when it is among the best after all"""
    protect: Annotated[float, Option(HOW, "SHARE"), Field(ge=0.0, le=1.0)] = 0.05
    """share of proposed trials that are never stopped, to audit the rungs"""
    max_failures: Annotated[Count, Option(HOW, "N")] = 3
    """stop the search after N consecutive trials failed with a non-retryable error"""
    repeats: Annotated[int, Option(STATISTICS, "N"), Field(ge=0, le=16)] = Field(
        default=0,
        description="further seeds, the same for all, on which a survivor of the last rung is trained "
        "before it counts; the leader is then decided by paired differences",
    )
    confirm: Annotated[int, Option(STATISTICS, "K"), Field(ge=0, le=64)] = Field(
        default=1,
        description="retrain on fresh seeds and latents. 1: the best reference baseline, the best proposed "
        "trial, and a better baseline of another family; from 2 on: the K best proposed trials and every "
        "family of baselines, those with a single learning rate at their best of three; 0: none",
    )
    confirm_seeds: Annotated[int, Option(STATISTICS, "N"), Field(ge=0, le=16)] = 2
    """number of fresh seeds; intervals that hold in 95% of the cases need 6"""
    question: Annotated[bool, Option(STATISTICS)] = True
    """also confirm with and without the factor of the space's QUESTION, on the same seeds"""
    cluster: Annotated[str | None, Option(WHERE, "ADDRESS", bare="")] = None
    """join a running Ray cluster: ADDRESS, else RAY_ADDRESS, else this machine's"""
    wait_for_cluster: Annotated[
        float | None, Option(WHERE, "TIME", parse=duration), Field(gt=0.0)
    ] = Field(
        default=None,
        description="wait so long, such as 10m, for a cluster that does not answer, at the start or when its "
        "head ends, and continue by itself, instead of stopping with the command that resumes",
    )
    require_token: Annotated[bool, Option(WHERE)] = False
    """refuse a cluster that takes no token (RAY_AUTH_MODE=token): anyone on its network can run code there"""
    workers_per_trial: Annotated[Count, Option(WHERE, "N")] = 1
    """data-parallel ranks per trial"""
    max_concurrent: Annotated[Count | None, Option(WHERE, "K")] = None
    """concurrent trials (default: what the processors allow)"""
    cpus_per_worker: Annotated[float, Option(WHERE, "F"), Field(ge=0.0001, le=10_000)] = 1.0
    """processors per rank"""
    gpus_per_worker: Annotated[float | None, Option(WHERE, "F")] = Field(
        default=None,
        ge=0,
        le=1000,
        description="GPUs per rank; 0.5: two trials share a GPU, each with half of its memory (default: 1 "
        "where the cluster has enough, else 0)",
    )
    storage: Annotated[Path, Option(KEEP, "DIR")] = STORAGE
    """folder of studies, teachers and MLflow, seen by all hosts"""
    study_storage: Annotated[str | None, Option(KEEP, "URL", environment="OPTUNA_STORAGE")] = Field(
        default=None,
        description="an Optuna database URL, such as sqlite:///study.db for that file in DIR (default: "
        "OPTUNA_STORAGE, else a journal file in the study's folder)",
    )
    tracking_uri: Annotated[str | None, Option(KEEP, "URI", environment="MLFLOW_TRACKING_URI")] = (
        None
    )
    """an MLflow server (default: MLFLOW_TRACKING_URI, else DIR/mlflow.db)"""
    keep_models: Annotated[str, Option(KEEP, "all|best:N|none")] = "all"
    """whose models MLflow logs and the disk keeps; what best.json and the registry need always stays"""
    keep_checkpoints: Annotated[str, Option(KEEP, "all|last|best:N")] = Field(
        default="all",
        description="of trials that have ended. all: their last three; last: the last one; best:N: the last "
        "one of the N best; what resumes, and what best.json and the report need, always stays",
    )
    keep_samples: Annotated[str, Option(KEEP, "all|best:N|none")] = "all"
    """whose samples and pictures stay when the search has ended; those of the answer always stay"""
    system_metrics: Annotated[bool, Option(KEEP)] = False
    """log the use of processor, memory and GPU while trials train"""
    resume: Annotated[Literal["auto", "must", "fresh"], Option(KEEP)] = "auto"
    """auto: resume where there is a study; must: refuse to start a new one; fresh: put the old study aside"""
    take_over: Annotated[bool, Option(KEEP)] = False
    """do not wait 30 s for a dead driver on another host, but for three missed heartbeats (18 s)"""
    on_end: Annotated[str | None, Option(KEEP, "COMMAND")] = Field(
        default=None,
        description="shell command to run when the search ends, in whatever way; its environment holds "
        "MEANFLOW_TUNE_STATUS, _BEST_VALUE, _SUMMARY and others",
    )
    accept_changes: Annotated[bool, Option(KEEP)] = False
    """continue although code, space, data or versions changed since the study began; recorded"""
    import_study: Annotated[str | None, Option(KEEP, "STUDY")] = None
    """start with the trials of another study of DIR (or of FOLDER/STUDY), as far as they fit"""

    @field_validator("study")
    @classmethod
    def _check_study(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise ValueError(
                "must start with a letter or digit and contain only letters, digits, '.', '_' and '-'"
            )
        # Also in other letters: a file system that ignores their case would mix the two.
        if name.casefold() in RESERVED or name.casefold().startswith("mlflow.db"):
            raise ValueError(
                "is reserved for what lies next to the studies in their storage; give another name"
            )
        return name

    @field_validator("study_storage")
    @classmethod
    def _take_from_storage(cls, url: str | None, others: ValidationInfo) -> str | None:
        return (
            sqlite_below(url, others.data["storage"]) if url and "storage" in others.data else url
        )

    @field_validator("gpus_per_worker")
    @classmethod
    def _check_gpus(cls, gpus: float | None, others: ValidationInfo) -> float | None:
        if gpus is None or gpus.is_integer():
            return gpus
        if gpus > 1.0:
            raise ValueError("must be a whole number, or below 1 for a share of one GPU")
        if others.data.get("workers_per_trial", 1) > 1:
            raise ValueError(
                "NCCL refuses two ranks of a trial on one GPU; give --gpus-per-worker 1, or "
                "--workers-per-trial 1"
            )
        return gpus

    @field_validator("keep_models", "keep_samples")
    @classmethod
    def _check_kept(cls, text: str) -> str:
        if text not in ("all", "none") and not re.fullmatch(BEST, text):
            raise ValueError("must be all, none or best:N, such as best:5")
        return text

    @field_validator("keep_checkpoints")
    @classmethod
    def _check_keep_checkpoints(cls, text: str) -> str:
        if text not in ("all", "last") and not re.fullmatch(BEST, text):
            raise ValueError("must be all, last or best:N, such as best:5")
        return text

    @property
    def best_models(self) -> int | None:
        """How many of the best trials keep their models; None: all."""
        return _best(self.keep_models)

    @property
    def best_samples(self) -> int | None:
        """How many of the best trials keep their samples; None: all."""
        return _best(self.keep_samples)

    @property
    def best_checkpoints(self) -> int | None:
        """How many of the best trials keep a checkpoint; None: all."""
        return _best(self.keep_checkpoints)

    @property
    def folder(self) -> Path:
        """The study's folder."""
        return self.storage / self.study

    @property
    def teachers(self) -> Path:
        """Cache of teachers, shared by all studies of the storage."""
        return self.storage / TEACHERS

    @property
    def mlflow_uri(self) -> str:
        """The tracking server given, or the storage's own SQLite file."""
        return self.tracking_uri or mlflow_uri(self.storage)


def _best(kept: str) -> int | None:
    """N of `best:N`, 0 of `none`, None of any other."""
    if kept == "none":
        return 0
    count = kept.partition(":")[2]
    return int(count) if count else None


class UserError(Exception):
    """A mistake or an obstacle that a user can fix: one line, and the exit status.

    message: its middle is left out where a value in it is very long; repeat: the remedy is to run the
    same command again, which is then shown; lost: the cluster that the search ran on has ended.
    """

    def __init__(
        self, message: str, status: int = EXIT_USAGE, repeat: bool = False, lost: bool = False
    ) -> None:
        if len(message) > LONGEST_MESSAGE:
            part = LONGEST_MESSAGE // 2
            message = f"{message[:part]} … {message[-part:]}"
        super().__init__(message)
        self.status, self.repeat, self.lost = status, repeat, lost


# SQLite takes paths of at most 511 bytes, and MLflow's database is made in a folder next to its own.
LONGEST_PATH = 440


def usable_folder(path: Path, flag: str = "--storage") -> Path:
    """`path`, given by `flag`, made and absolute. Raises UserError (5) where it cannot be written."""
    path = path.expanduser().absolute()
    if trouble := _trouble(path):
        raise UserError(f"{flag} {str(path)!r}: {trouble}; name another folder.", EXIT_UNUSABLE)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as probe:
            probe.write(b"x")
    except OSError as error:
        raise UserError(
            f"{flag} {path}: cannot be written ({error.strerror or error}); name a folder that can.",
            EXIT_UNUSABLE,
        ) from None
    return path


def _trouble(path: Path) -> str:
    """Why files of a search, or links to them, cannot be in a folder of this name; "" where they can."""
    text = str(path)
    try:
        length = len(text.encode())
    except UnicodeEncodeError:
        return "its name is not UTF-8, as JSON and databases need"
    if any(ord(sign) < 32 or ord(sign) == 127 for sign in text):
        return "its name contains a control character, such as a line break"
    if length > LONGEST_PATH:
        return (
            f"its path has {length} bytes, of which SQLite and the files in it allow {LONGEST_PATH}"
        )
    return ""


def refuse_repeated(settings: Sequence[str]) -> None:
    """Raise UserError where one path of `--set` gets two values, of which the last would count."""
    paths = [setting.partition("=")[0].strip() for setting in settings]
    for path, setting in zip(paths, settings, strict=True):
        if paths.count(path) > 1:
            raise UserError(f"--set {setting}: `{path}` is set twice; leave one out.")
