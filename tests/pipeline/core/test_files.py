"""What is no file is refused at once: a pipe without a writer would be waited for forever."""

import os
import socket
from pathlib import Path

import pytest

from pipeline.core.errors import UserError
from pipeline.core.files import numbered_lines, read_json
from pipeline.core.hashes import file_digest
from pipeline.core.records import ImageRow, read_one
from pipeline.settings import yaml


def test_what_is_no_file_is_refused_without_being_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(tmp_path / "socket"))
        for path, kind in (
            (tmp_path / "pipe", "a named pipe"),
            (tmp_path / "socket", "a socket"),
            (tmp_path / "folder", "a folder"),
            (Path("/dev/zero"), "a device"),
        ):
            for read in (
                lambda file: list(numbered_lines(file)),
                yaml.load,
                file_digest,
                lambda file: read_json(file, "posts"),
                lambda file: read_one(file, ImageRow, "images"),
            ):
                with pytest.raises(UserError, match=f"{path}: {kind}; expected a file"):
                    read(path)
