"""buffer.py as a user runs it: one file an expert, what is kept, interruptions, and several processes at once."""
import importlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from conftest import EXPERTS, NET, ROOT, run_script
from distill_utils.seeds import derive_seed, make_generator, seeded
from distill_utils.trajectories import Experts
from networks import lookup
from utils import get_dataset, get_spec


def folder(path):
    return path / "MotionDigits" / NET


def command(few_digits, path, *flags):
    return [str(word) for word in (*EXPERTS, "--data_path", few_digits, "--buffer_path", path, *flags)]


def contents(path):
    return {file.name: file.read_bytes() for file in sorted(folder(path).glob("expert_*.safetensors"))}


def test_a_file_an_expert_with_what_the_header_should_say(few_experts):
    files = sorted(folder(few_experts).glob("*.safetensors"))
    assert [file.name for file in files] == [f"expert_{n:04d}.safetensors" for n in range(3)]
    with safe_open(files[1], "pt") as file:
        header = json.loads(file.metadata()["header"])
    assert header["epochs"] == [0, 1, 2] and header["parameters"][0] == "convs.0.weight" and header["number"] == 1
    assert len(header["train_top1"]) == len(header["test_top1"]) == 2       # epoch 3 would be kept by none
    settings = header["settings"]
    assert (settings["dataset"], settings["model"], settings["protocol"], settings["frames"]) == (
        "MotionDigits", NET, "standard", 8)


def test_snapshots_are_those_of_one_training_and_experts_differ(few_experts):
    states = [load_file(file) for file in sorted(folder(few_experts).glob("*.safetensors"))]
    for name in (name for name in states[0] if name.startswith("0/") and name.endswith("weight")):
        epochs = [states[0][name.replace("0/", f"{epoch}/", 1)] for epoch in range(3)]
        assert not torch.equal(epochs[0], epochs[1]) and not torch.equal(epochs[1], epochs[2])
        assert not torch.equal(states[0][name], states[1][name])


def test_an_expert_is_what_training_on_the_real_clips_gives(few_digits, tmp_path):
    """With the momentum, decay and seeds of evaluate_synset's training the last snapshot is that network's."""
    from utils import PROTOCOLS, get_network, make_step, train_batches, train_epoch
    flags = "--num_experts", 1, "--mom", 0.9, "--l2", 5e-4, "--precision", "fp32"
    run_script("buffer.py", *command(few_digits, tmp_path, *flags))
    data = get_dataset("MotionDigits", few_digits)
    draw = make_generator(0, "expert", 0)
    with seeded(derive_seed(0, "expert", 0)):
        network = get_network(NET, data.spec)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        for _ in range(2):
            train_epoch(network, train_batches(data.train, 8, draw, "cpu", PROTOCOLS["standard"].evaluation),
                        make_step(network, optimizer))
    segment = Experts(folder(tmp_path), lookup(NET)(data.spec), 1, 2).sample(0, 0)
    for parameter, kept in zip(network.parameters(), segment.target, strict=True):
        torch.testing.assert_close(parameter.detach(), kept)


def test_more_experts_later_leave_the_first_ones_and_all_epochs_are_kept_on_request(few_digits, few_experts, tmp_path):
    run_script("buffer.py", *command(few_digits, tmp_path, "--num_experts", 1))
    first = contents(tmp_path)
    done = run_script("buffer.py", *command(few_digits, tmp_path, "--num_experts", 2))
    assert json.loads(done.stdout.splitlines()[-1].removeprefix("RESULT "))["experts"] == 2
    both = contents(tmp_path)
    assert len(both) == 2 and first.items() <= both.items() <= contents(few_experts).items()
    run_script("buffer.py", *command(few_digits, tmp_path / "all", "--num_experts", 1, "--keep_epochs", "all",
                                     "--expert_dtype", "bfloat16"))
    state = load_file(folder(tmp_path / "all") / "expert_0000.safetensors")
    assert {name.split("/")[0] for name in state} == {"0", "1", "2", "3"}
    assert {value.dtype for value in state.values()} == {torch.bfloat16}


def test_other_settings_are_refused_with_the_difference(few_digits, few_experts):
    before = contents(few_experts)
    done = run_script("buffer.py", *command(few_digits, few_experts, "--lr_teacher", 0.5), check=False)
    assert done.returncode == 1 and "--lr_teacher was 0.01 and is now 0.5" in done.stderr
    assert contents(few_experts) == before


@pytest.mark.slow
def test_killed_and_joined_by_others_it_makes_the_same_experts_once(few_digits, few_experts, tmp_path):
    start = [sys.executable, ROOT / "buffer.py", *command(few_digits, tmp_path, "--num_experts", 3)]
    killed = subprocess.Popen(start, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while killed.poll() is None and not list(folder(tmp_path).glob(".expert_*.lock")):
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    both = [subprocess.Popen(start, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = "".join(process.communicate()[1] for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert contents(tmp_path) == contents(few_experts)
    assert said.count("top-1") == 3 - (0 if "expert 0: epoch" in said else 1)


def test_dry_run_counts_what_the_files_then_have(few_digits, few_experts, tmp_path):
    done = run_script("buffer.py", *command(few_digits, tmp_path, "--num_experts", 3, "--dry_run"))
    plan = json.loads(done.stdout.removeprefix("RESULT "))
    assert plan["parameters"] == sum(p.numel() for p in lookup(NET)(get_spec("MotionDigits")).parameters())
    files = contents(few_experts).values()
    assert 0 <= sum(map(len, files)) - plan["buffer_bytes"] < 4000 * len(files)     # their headers
    assert not folder(tmp_path).exists()


@pytest.mark.parametrize("script", ["distill_MTT", "distill_s2d_MTT"])
def test_dry_run_of_the_matching(script, few_experts, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    flags_of_all = ["--model", NET, "--dry_run", "--buffer_path", str(few_experts)]

    def plan(*flags):
        monkeypatch.setattr(sys, "argv", [script, *flags_of_all, *flags])
        importlib.import_module(script).main()
        return json.loads(capsys.readouterr().out.splitlines()[-1].removeprefix("RESULT "))
    short, long, full = plan(), plan("--syn_steps", "50"), plan("--syn_steps", "50", "--unroll", "full")
    assert short["set_bytes"] == (983_040 if script == "distill_MTT" else 902_428) and short["clips_per_step"] == 10
    weights = 4 * short["parameters"]
    assert long["estimated_peak_memory_bytes"] - short["estimated_peak_memory_bytes"] == 40 * weights
    assert full["estimated_peak_memory_bytes"] > 10 * short["estimated_peak_memory_bytes"]
    assert list(tmp_path.iterdir()) == []
