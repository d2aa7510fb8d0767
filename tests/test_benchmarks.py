"""The benchmarks compare like with like: their plain side is an oracle of ours, and each runs as a user runs it."""
import importlib
import json
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

EXACT = SimpleNamespace(size="tiny", precision="fp32")
KINDS = [("dm_step", "pixels"), ("dm_step", "s2d"), ("eval_epoch", "pixels"), ("eval_epoch", "s2d"),
         ("buffer_epoch", "real"), ("test_pass", "real")]


@pytest.mark.parametrize("name,kind", KINDS)
def test_in_float32_all_sides_compute_the_same(name, kind):
    sides = importlib.import_module(name).make(kind, EXACT, torch.device("cpu"))
    loss, vector = sides.pop("plain")()()
    assert sides and vector.norm() > 0
    for solve in sides.values():
        ours = solve()()
        assert float(ours[0]) == pytest.approx(float(loss), rel=1e-4)
        torch.testing.assert_close(ours[1], vector, rtol=1e-3, atol=1e-4 * float(vector.abs().max()))


@pytest.mark.parametrize("name", ["test_pass", "mtt_step"])
def test_a_benchmark_prints_its_conditions_and_one_json_line(name):
    flags = ["--steps", "2"] if name == "mtt_step" else []
    done = subprocess.run([sys.executable, ROOT / "benchmarks" / f"{name}.py", "--size", "tiny", "--repeats", "1",
                           "--threads", "1", *flags], capture_output=True, text=True, check=True)
    first, *_, last = done.stdout.splitlines()
    result = json.loads(last)
    assert re.match(r"device cpu \(.*\), threads 1, torch ", first) and result["benchmark"] == name and result["rows"]
    row = result["rows"][0]
    assert all(row[key] > 0 for key in row if key.endswith(("_seconds", "_ratio", "_bytes")))


def test_loading_prints_ratios():
    done = subprocess.run([sys.executable, ROOT / "benchmarks" / "loading.py", "--clips", "4", "--frames", "70",
                           "--repeats", "1"], capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["cache_to_float32"] == 0.25 and result["frame_ratio"] > 0


def test_an_index_is_read_and_streamed():
    done = subprocess.run([sys.executable, ROOT / "benchmarks" / "loading.py", "--index", "--index_clips", "800"],
                          capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["clips"] == 800 and result["cache_bytes"] == 800 * 8 * 3 * 16 * 16
