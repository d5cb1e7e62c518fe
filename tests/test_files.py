"""A file is the old one or the new one, and nothing else stays beside it."""

import os
import subprocess
import sys

import pytest

from visage.files import write_text


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "notes.txt"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new, \ud800")  # which UTF-8 does not have
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]
    assert path.read_text() == "old"


def test_what_a_killed_process_left_goes_and_what_another_one_writes_stays(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path; from visage.files import replacing\n"
        "with replacing(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = tmp_path / "a [1].png"
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code, path], check=False)
        (left,) = tmp_path.iterdir()  # not that of the one before
        assert left.name.startswith(".a [1].")
    other, longer = tmp_path / f".a [1].{os.getppid()}.tmp.png", tmp_path / f".a [1]2.{2**22 + 1}.tmp.png"
    other.touch()
    longer.touch()  # of another file
    write_text(path, "whole")
    assert set(tmp_path.iterdir()) == {path, other, longer}
