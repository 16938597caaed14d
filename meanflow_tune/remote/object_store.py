"""An object store by the file systems of pyarrow: S3 and what speaks its language, and others."""

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meanflow_tune.files import write_atomic
from meanflow_tune.remote.location import UnusableRemote
from meanflow_tune.urls import hide_password

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

CHECK_SECONDS = 9.0
BLOCK = 2**22
PROBE = ".probe"


@dataclass(frozen=True)
class StoredFile:
    """name: below the storage, with slashes; size: bytes; changed: unix seconds."""

    name: str
    size: int
    changed: float


class ObjectStore:
    """Files by their names below a URL, such as `s3://bucket/folder`. Picklable.

    A file appears whole or not at all. Every method raises OSError where the store does not answer or
    refuses.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def __reduce__(self) -> tuple[Any, ...]:
        return ObjectStore, (self.url,)

    @property
    def shown(self) -> str:
        """The URL without a password."""
        return hide_password(self.url)

    @cached_property
    def _place(self) -> "tuple[FileSystem, str]":
        from pyarrow.fs import FileSystem

        system, base = FileSystem.from_uri(self.url)
        return system, base.rstrip("/")

    def check(self) -> None:
        """Write and remove a small file. Raises UnusableRemote, within CHECK_SECONDS, with the remedy."""
        raised: list[Exception] = []

        def probe() -> None:
            try:
                self.write(PROBE, b"x")
                self.delete(PROBE)
            except Exception as error:
                raised.append(error)

        thread = threading.Thread(target=probe, name="storage-check", daemon=True)
        thread.start()
        thread.join(CHECK_SECONDS)
        why = f"nothing within {CHECK_SECONDS:.0f} s" if thread.is_alive() else ""
        for error in raised:
            why = reason(error)
        if why:
            raise UnusableRemote(
                f"{self.shown}: cannot be used ({why}); check the bucket, the credentials (for S3"
                " AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY) and the server (AWS_ENDPOINT_URL)"
            )

    def files(self, folder: str) -> list[StoredFile]:
        """All files below a folder, by name; empty where there is none."""
        from pyarrow.fs import FileSelector, FileType

        system, base = self._place
        root = f"{base}/{folder}".rstrip("/")
        found = system.get_file_info(FileSelector(root, allow_not_found=True, recursive=True))
        return sorted(
            (
                StoredFile(info.path[len(base) + 1 :], info.size, info.mtime_ns / 1e9)
                for info in found
                if info.type == FileType.File
            ),
            key=lambda file: file.name,
        )

    def folders(self) -> list[str]:
        """The folders right below the storage."""
        from pyarrow.fs import FileSelector, FileType

        system, base = self._place
        found = system.get_file_info(FileSelector(base, allow_not_found=True))
        return sorted(info.base_name for info in found if info.type == FileType.Directory)

    def kind(self, name: str) -> str:
        """`file`, `folder`, or "" where there is neither."""
        from pyarrow.fs import FileType

        system, base = self._place
        kind = system.get_file_info(f"{base}/{name}".rstrip("/")).type
        return {FileType.File: "file", FileType.Directory: "folder"}.get(kind, "")

    def read(self, name: str) -> bytes | None:
        """The contents of a small file; None where there is none."""
        system, base = self._place
        if self.kind(name) != "file":
            return None
        with system.open_input_stream(f"{base}/{name}") as stream:
            data: bytes = stream.read()
        return data

    def fetch(self, name: str, path: Path) -> None:
        """Copy a file to a local path, which then is whole or unchanged."""
        write_atomic(path, lambda temporary: self._copy(name, temporary))

    def _copy(self, name: str, path: Path) -> None:
        system, base = self._place
        with system.open_input_stream(f"{base}/{name}") as stream, open(path, "wb") as file:
            while block := stream.read(BLOCK):
                file.write(block)

    def write(self, name: str, data: bytes) -> None:
        """Write a small file."""
        self._write(name, iter((data,)))

    def send(self, path: Path, name: str) -> int:
        """Copy a local file to a name; its bytes."""
        with open(path, "rb") as file:
            blocks = iter(lambda: file.read(BLOCK), b"")
            self._write(name, blocks)
            return file.tell()

    def _write(self, name: str, blocks: Iterable[bytes]) -> None:
        system, base = self._place
        target = f"{base}/{name}"
        if system.type_name in ("local", "hdfs"):  # the others have no folders
            system.create_dir(target.rpartition("/")[0], recursive=True)
        with system.open_output_stream(target) as stream:
            for block in blocks:
                stream.write(block)

    def delete(self, name: str) -> None:
        """Delete a file, if it is there."""
        system, base = self._place
        try:
            system.delete_file(f"{base}/{name}")
        except FileNotFoundError:
            return

    def delete_folder(self, name: str) -> None:
        """Delete a folder with all its files, if it is there."""
        system, base = self._place
        try:
            system.delete_dir(f"{base}/{name}")
        except FileNotFoundError:
            return


def reason(error: BaseException) -> str:
    """What a store says, in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return hide_password(text[:300])
