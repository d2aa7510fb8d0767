"""The benchmarks compare like with like: their plain side is an oracle of ours, and each runs as a user runs it."""
import importlib
import json
import re
import runpy
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from types import SimpleNamespace

import pytest
import torch

from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

EXACT = SimpleNamespace(size="tiny", precision="fp32")
KINDS = [("dm_step", "pixels"), ("dm_step", "s2d"), ("frepo_step", "pixels"), ("frepo_step", "s2d"),
         ("keyframes_step", "keyframes"), ("store_step", "through"), ("store_step", "open"),
         ("eval_epoch", "pixels"), ("eval_epoch", "s2d"), ("buffer_epoch", "real"),
         ("test_pass", "real")]


@pytest.mark.parametrize("name,kind", KINDS)
def test_in_float32_all_sides_compute_the_same(name, kind):
    sides = importlib.import_module(name).make(kind, EXACT, torch.device("cpu"))
    loss, vector = sides.pop("plain")()()
    assert sides and vector.norm() > 0
    for ours in filter(None, (solve()() for solve in sides.values())):      # None of what computes something else
        assert float(ours[0]) == pytest.approx(float(loss), rel=1e-4)
        torch.testing.assert_close(ours[1], vector, rtol=1e-3, atol=1e-4 * float(vector.abs().max()))


@pytest.fixture
def bench(run_here, monkeypatch):
    """Runs a benchmark in this process: bench(name, flag, ...) -> the lines it prints."""
    threads = torch.get_num_threads()

    def call(name, *flags):
        for module in ("common", "plain"):      # imported by it anew, as in a process of its own
            monkeypatch.delitem(sys.modules, module, raising=False)
        return run_here(f"benchmarks/{name}.py", *flags).out.splitlines()

    yield call
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", ["test_pass", "mtt_step"])
def test_a_benchmark_prints_its_conditions_and_one_json_line(name, bench, monkeypatch):
    """The memory of a side is measured in a process of its own: here of the first, and in this one of the others."""
    run_process, asked = subprocess.run, []

    def run(command, **kwargs):
        asked.append(command[-1])
        if len(asked) == 1:
            return run_process(command, **kwargs)
        with redirect_stdout(StringIO()) as out, monkeypatch.context() as patch:
            patch.setattr(sys, "argv", command[1:])
            runpy.run_path(sys.argv[0], run_name="__main__")
        return SimpleNamespace(returncode=0, stdout=out.getvalue())

    monkeypatch.setattr(subprocess, "run", run)
    flags = ["--steps", "2", "--batch", "4"] if name == "mtt_step" else []
    first, *_, last = bench(name, "--size", "tiny", "--repeats", "1", "--threads", "1", *flags)
    result = json.loads(last)
    assert re.match(r"device cpu \(.*\), threads 1, torch ", first) and result["benchmark"] == name and result["rows"]
    row = result["rows"][0]
    assert all(row[key] > 0 for key in row if key.endswith(("_seconds", "_ratio", "_bytes")))
    assert len(asked) == 3 and all(f"{side}_bytes" in row for side in asked)


def test_loading_prints_ratios(bench):
    result = json.loads(bench("loading", "--clips", "4", "--frames", "70", "--repeats", "1")[-1])
    assert result["cache_to_float32"] == 0.25 and result["frame_ratio"] > 0


def test_an_index_is_read_and_streamed(bench):
    result = json.loads(bench("loading", "--index", "--index_clips", "800")[-1])
    assert result["clips"] == 800 and result["cache_bytes"] == 800 * 8 * 3 * 16 * 16
