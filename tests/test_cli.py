"""Command lines: bad input, short memory and odd output end in one line, or in none."""
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from conftest import ROOT
from distill_utils.args import cli
from distill_utils.device import resolve_device


def test_cli_turns_bad_input_into_one_line(capsys, monkeypatch):
    def bad():
        raise ValueError("unknown --dataset 'x': choose one of ...")
    monkeypatch.delenv("S2D_DEBUG", raising=False)
    with pytest.raises(SystemExit) as stop:
        cli(bad)
    assert stop.value.code == 1 and capsys.readouterr().err == "error: unknown --dataset 'x': choose one of ...\n"
    monkeypatch.setenv("S2D_DEBUG", "1")
    with pytest.raises(ValueError):
        cli(bad)


def test_cli_tells_that_memory_is_short_in_one_line(capsys, monkeypatch):
    monkeypatch.delenv("S2D_DEBUG", raising=False)
    for allocate in (lambda: torch.empty(10 ** 15), lambda: torch.empty(10 ** 15, 10 ** 6), lambda: np.empty(10 ** 15)):
        with pytest.raises(SystemExit):
            cli(allocate)
        said = capsys.readouterr().err
        assert said.startswith("error: out of memory (") and "--ipc" in said and said.count("\n") == 1, said
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        cli(lambda: (_ for _ in ()).throw(RuntimeError("a mistake of ours")))


@pytest.mark.parametrize(("method", "flags", "named"), [
    ("DM", {"ipc": 10 ** 9}, "--ipc 1000000000"), ("DC", {"ipc": 10 ** 9}, "--ipc 1000000000"),
    ("S2D-DM", {"dpc": 10 ** 9}, "--dpc 1000000000"), ("S2D-DM", {"n_hal": 10 ** 8}, "--n_hal 100000000"),
    ("DM", {"batch_real": 10 ** 9}, "--batch_real 1000000000"), ("DM", {"bank": 10 ** 9}, "--bank 1000000000")])
def test_a_set_larger_than_the_memory_is_refused_before_it_is_made(script, method, flags, named):
    with pytest.raises(ValueError, match=f"{named} takes .* GB of memory, and this machine has"):
        script(method, "x", **flags)


def test_names_that_are_no_text_are_refused_before_any_work(script, tmp_path, capsys):
    with pytest.raises(SystemExit):
        script("DM", os.fsdecode(b"caf\xe9"))
    assert "--name 'caf\\udce9' is not UTF-8: rename it" in capsys.readouterr().err
    assert not (tmp_path / "DM").exists()


def shell(command, cwd, **kwargs):
    return subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, cwd=cwd, **kwargs)


def test_output_that_nobody_reads_or_cannot_show_ends_no_run(tmp_path):
    """A reader that leaves, closed streams, an ASCII terminal; SIGTERM outside of the loop says a line."""
    (tmp_path / "x.py").write_text(f"""if True:
        import os, signal, sys, time
        sys.path.insert(0, {str(ROOT)!r})
        from distill_utils.args import cli
        def main():
            for number in range(20000):
                print("±", number)
                print("note", file=sys.stderr)
            open("done", "w").close()
            if "wait" in sys.argv:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(60)
        cli(main)""")
    for command in ("| head -1", "2>&1 | head -1", "2>&-", ">&-", ">&- 2>&-"):
        assert shell(f"{sys.executable} x.py {command}", tmp_path).returncode == 0, command
        assert (tmp_path / "done").exists(), command
        (tmp_path / "done").unlink()
    run = shell(f"{sys.executable} x.py | tail -1", tmp_path, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert run.returncode == 0 and run.stdout == b"\\xb1 19999\n"
    run = shell(f"{sys.executable} x.py > /dev/full", tmp_path)
    assert run.returncode == 0 and b"Traceback" not in run.stderr
    (tmp_path / "y.py").write_text((tmp_path / "x.py").read_text().replace("range(20000)", "range(1)").replace(
        'open("done"', 'time.sleep(60); open("done"'))
    for unbuffered, wanted in (("", "± 0\n"), ("1", "± 0")):      # at once, however long the rest takes
        if unbuffered:      # as python -u: not even the end of the line is waited for
            (tmp_path / "y.py").write_text((tmp_path / "y.py").read_text().replace('number)', 'number, end="")', 1))
        waiting = subprocess.Popen([sys.executable, "y.py"], cwd=tmp_path, stdout=subprocess.PIPE,
                                   env={**os.environ, "PYTHONUNBUFFERED": unbuffered})
        seen = b""
        while len(seen) < len(wanted.encode()) and (part := os.read(waiting.stdout.fileno(), 100)):
            seen += part
        assert seen == wanted.encode() and waiting.poll() is None
        waiting.kill()
        waiting.communicate()
    run = shell(f"{sys.executable} x.py wait", tmp_path)
    assert run.returncode == 130
    assert run.stderr.endswith(b"stopped. What was finished stays: the same command goes on (a run with --resume)\n")


@pytest.mark.parametrize("name", ["tpu9", "cuda:99"])
def test_impossible_devices_are_named(name):
    with pytest.raises(ValueError, match=f"--device '?{name}"):
        resolve_device(name)
