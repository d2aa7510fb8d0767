"""Files are whole or absent, whatever happens to the writer, and one process at a time holds a lock."""
import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import save_file

from conftest import ROOT
from distill_utils import files
from distill_utils.files import is_whole, locked, remove, replacing, try_lock, unfinished, with_sum


def fork(target, *args):
    """A process that runs a function as it stands, patches included."""
    process = multiprocessing.get_context("fork").Process(target=target, args=args, daemon=True)
    process.start()
    return process


def wait_for(path):
    for _ in range(3000):
        if path.exists():
            return
        time.sleep(0.01)
    raise AssertionError(f"{path} did not appear")


def hang(marker):
    marker.touch()
    time.sleep(600)


def killed_at(marker, target, *args):
    """Runs a function in a process of its own until the marker appears (see hang), then kills it with -9."""
    process = fork(target, *args)
    wait_for(marker)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL


def write(path, text):
    with replacing(path) as temporary:
        temporary.write_text(text)


def test_replacing_shows_the_old_content_until_the_new_is_whole(tmp_path):
    path = tmp_path / "x"
    write(path, "old")
    with replacing(path) as temporary:
        temporary.write_text("ne")
        assert path.read_text() == "old" and temporary.parent.parent == path.parent
    assert path.read_text() == "ne" and os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("before", [None, "old"])
@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt()])
def test_a_failure_keeps_the_earlier_content_and_removes_the_temporary(tmp_path, before, error):
    path = tmp_path / "x"
    if before:
        write(path, before)
    with pytest.raises(type(error)), replacing(path) as temporary:
        temporary.write_text("half")
        raise error
    assert [p.read_text() for p in tmp_path.iterdir()] == ([before] if before else [])


def raise_it(error):
    raise error


@pytest.mark.parametrize("save", [
    lambda file: raise_it(OSError(errno.ENOSPC, "No space left on device")),
    lambda file: raise_it(OSError(errno.EDQUOT, "Disk quota exceeded")),
    lambda file: raise_it(RuntimeError("I/O error: No space left on device (os error 28)")),
    lambda file: file.write_text("x" * 100_000),
    lambda file: torch.save({"a": torch.zeros(10)}, file),
    lambda file: torch.save({"a": torch.zeros(1_000_000)}, file),
], ids=["system", "quota", "safetensors", "text", "torch small", "torch large"])
def test_a_full_disk_names_the_file_and_the_way_out(tmp_path, save):
    path = tmp_path / "checkpoint.pt"
    write(path, "old")
    way_out = r"no space left .*checkpoint\.pt.*MB free.*--save_path"
    with pytest.raises(OSError, match=way_out) as raised, replacing(path) as temporary:
        temporary.symlink_to("/dev/full")       # what is really written there meets a full disk
        save(temporary)
    assert raised.value.errno in (errno.ENOSPC, errno.EDQUOT)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["checkpoint.pt"]


def test_a_lock_keeps_another_process_out_and_ends_with_its_holder(tmp_path):
    lock, inside, held = (tmp_path / name for name in ("lock", "inside", "held"))

    def enter():
        (tmp_path / "at the door").touch()
        with locked(lock):
            inside.touch()

    with locked(lock):
        other = fork(enter)
        wait_for(tmp_path / "at the door")
        time.sleep(0.2)
        assert not inside.exists()
    other.join(30)
    assert inside.exists()

    def hold():
        with locked(lock):
            hang(held)

    killed_at(held, hold)
    with locked(lock):
        pass


def test_a_file_has_the_mode_of_the_umask_whatever_the_library_gave_it(tmp_path, monkeypatch):
    def private(tensors, path):
        save_file(tensors, path)
        os.chmod(path, 0o600)

    for umask, mode in ((0o022, 0o644), (0o007, 0o660)):
        monkeypatch.setattr(files, "UMASK", umask)
        for save in (lambda path: path.write_text("x"), lambda path: torch.save({}, path),
                     lambda path: private({"a": torch.zeros(1)}, path)):
            with replacing(tmp_path / "x") as temporary:
                save(temporary)
            assert (tmp_path / "x").stat().st_mode & 0o777 == mode


def test_files_of_a_library_that_was_killed_are_among_those_that_are_removed(tmp_path):
    """safetensors writes .tmpXXXXXX beside the file it was asked for."""
    def write():
        with replacing(tmp_path / "x") as temporary:
            (temporary.parent / ".tmpa1b2c3").write_text("half")
            hang(tmp_path / "marker")

    killed_at(tmp_path / "marker", write)
    left = [path for path in tmp_path.iterdir() if path.name != "marker"]
    assert left == list(unfinished(tmp_path)) != []
    remove(*left)
    assert os.listdir(tmp_path) == ["marker"]


def test_what_a_killed_process_left_a_day_ago_is_removed_by_the_next(tmp_path):
    for name in ("old", "new"):
        (tmp_path / f".x.tmp-{name}").mkdir()
    os.utime(tmp_path / ".x.tmp-old", (0, 0))
    write(tmp_path / "x", "whole")
    assert sorted(os.listdir(tmp_path)) == [".x.tmp-new", "x"]


def test_a_link_to_a_folder_is_removed_and_not_what_it_leads_to(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    remove(tmp_path / "link")
    assert os.listdir(tmp_path) == ["kept"]


def test_a_limit_on_the_size_of_files_is_told_from_a_full_disk(tmp_path):
    script = f"""if True:
        import resource, sys
        sys.path.insert(0, {str(ROOT)!r})
        from distill_utils.files import replacing
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
        with replacing({str(tmp_path / "x")!r}) as temporary:
            temporary.write_bytes(bytes(2_000_000))"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode and "files of 1.0 MB at most, see ulimit -f" in run.stderr and not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", files.NO_LOCKS)
def test_without_locks_the_work_goes_on_with_one_note(tmp_path, monkeypatch, capsys, number):
    files._note_no_locks.cache_clear()
    monkeypatch.setattr(files.fcntl, "lockf", lambda *args: raise_it(OSError(number, "no")))
    with locked(tmp_path / "a"), locked(tmp_path / "b"):
        assert try_lock(tmp_path / "a") is not None
    said = capsys.readouterr().err
    assert said.count("cannot be locked") == 1 and str(tmp_path) in said and "one at a time" in said


def test_another_error_of_a_lock_names_the_file_and_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setattr(files.fcntl, "lockf", lambda *args: raise_it(OSError(errno.EIO, "no")))
    with pytest.raises(OSError, match="cannot lock .*door.*another folder"), locked(tmp_path / "door"):
        pass


def test_a_lock_that_is_held_is_not_taken(tmp_path):
    held = tmp_path / "held"

    def hold():
        with locked(tmp_path / "lock"):
            hang(held)

    other = fork(hold)
    wait_for(held)
    assert try_lock(tmp_path / "lock") is None
    other.kill()
    other.join()
    assert try_lock(tmp_path / "lock") is not None


@pytest.mark.parametrize("absent", ["fcntl", "resource"])
def test_every_script_can_be_imported_where_a_system_lacks_a_module(absent):
    """Windows has neither of the two."""
    names = sorted(path.stem for path in ROOT.glob("*.py"))
    script = (f"import sys; sys.modules[{absent!r}] = None; sys.path.insert(0, {str(ROOT)!r})\n"
              + "\n".join(f"import {name}" for name in names))
    script += """
import signal
from distill_utils import device, files
import torch
device.peak_memory(torch.device("cpu"))
with files.locked(sys.argv[1]):
    print("locked")"""
    run = subprocess.run([sys.executable, "-c", script, os.devnull], capture_output=True, text=True)
    assert run.returncode == 0 and run.stdout == "locked\n", run.stderr
    assert ("cannot be locked" in run.stderr) == (absent == "fcntl")


def test_the_sum_of_json_is_that_of_what_comes_back():
    content = {"b": 0.1, "a": ["é", None, 1e-300, {"x": True}]}
    signed = with_sum(content)
    assert is_whole(json.loads(json.dumps(signed))) and is_whole(content)
    assert not is_whole(signed | {"b": 0.2}) and not is_whole(signed | {"c": 1})
    assert not is_whole(content, since="b") and is_whole(content, since="d") and is_whole(signed, since="b")
    with pytest.raises(ValueError):
        with_sum({"a": float("nan")})
