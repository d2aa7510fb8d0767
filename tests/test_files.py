"""Files are whole or absent, whatever happens to the writer, and one process at a time holds a lock."""
import errno
import multiprocessing
import os
import signal
import time

import pytest
import torch

from distill_utils.files import locked, replacing


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
