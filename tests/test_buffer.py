"""buffer.py as a user runs it: one file an expert, what is kept, interruptions, and several processes at once.

few_experts, made by a process of its own, are compared with those made in this process.
"""
import importlib
import json
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from conftest import EXPERTS, NET, ROOT
from distill_utils import trajectories
from distill_utils.files import try_lock
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


def test_an_expert_is_what_training_on_the_real_clips_gives(run_here, few_digits, tmp_path):
    """With the momentum, decay and seeds of evaluate_synset's training the last snapshot is that network's."""
    from utils import PROTOCOLS, get_network, make_step, train_batches, train_epoch
    flags = "--num_experts", 2, "--mom", 0.9, "--l2", 5e-4, "--precision", "fp32"
    run_here("buffer.py", *command(few_digits, tmp_path, *flags))
    data = get_dataset("MotionDigits", few_digits)
    draw = make_generator(0, "expert", 1)
    with seeded(derive_seed(0, "expert", 1)):
        network = get_network(NET, data.spec)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        for _ in range(2):
            train_epoch(network, train_batches(data.train, 8, draw, "cpu", PROTOCOLS["standard"].evaluation),
                        make_step(network, optimizer))
    experts = Experts(folder(tmp_path), lookup(NET)(data.spec), 1, 2)
    (segment,) = (it for it in map(experts.sample, (0, 0), range(2)) if it.expert == "expert_0001.safetensors")
    for parameter, kept in zip(network.parameters(), segment.target, strict=True):
        torch.testing.assert_close(parameter.detach(), kept)


@pytest.mark.parametrize("protocol,cut", [("standard", 25), ("paper", 27)])
def test_decay_cuts_the_rate_where_the_protocol_has_it(protocol, cut, run_here, few_digits, tmp_path, monkeypatch):
    """Of 50 epochs: with each other rate the weights after the cut would differ, and before it not."""
    import utils
    rates = []
    monkeypatch.setattr(utils, "make_step", lambda network, optimizer, dtype: optimizer)
    monkeypatch.setattr(utils, "train_epoch", lambda network, batches, step: rates.append(
        step.param_groups[0]["lr"]) or 0)
    monkeypatch.setattr(utils, "evaluate", lambda *args, **kwargs: utils.EvalResult(
        0, 0, 0, torch.eye(10, dtype=torch.long)))
    flags = ("--num_experts", 1, "--train_epochs", 50, "--keep_epochs", "all", "--decay", "--protocol", protocol)
    run_here("buffer.py", *command(few_digits, tmp_path, *flags))
    assert rates == pytest.approx([0.01] * cut + [0.001] * (50 - cut))


def test_more_experts_later_leave_the_first_ones_and_all_epochs_are_kept_on_request(
        run_here, few_digits, few_experts, tmp_path):
    run_here("buffer.py", *command(few_digits, tmp_path, "--num_experts", 1))
    first = contents(tmp_path)
    out, _ = run_here("buffer.py", *command(few_digits, tmp_path, "--num_experts", 2))
    assert json.loads(out.splitlines()[-1].removeprefix("RESULT "))["experts"] == 2
    both = contents(tmp_path)
    assert len(both) == 2 and first.items() <= both.items() <= contents(few_experts).items()
    run_here("buffer.py", *command(few_digits, tmp_path / "all", "--num_experts", 1, "--keep_epochs", "all",
                                   "--expert_dtype", "bfloat16"))
    state = load_file(folder(tmp_path / "all") / "expert_0000.safetensors")
    assert {name.split("/")[0] for name in state} == {"0", "1", "2", "3"}
    assert {value.dtype for value in state.values()} == {torch.bfloat16}


def test_other_settings_are_refused_with_the_difference(run_here, few_digits, few_experts, capsys):
    before = contents(few_experts)
    with pytest.raises(SystemExit) as stop:
        run_here("buffer.py", *command(few_digits, few_experts, "--lr_teacher", 0.5))
    said = capsys.readouterr().err
    assert stop.value.code == 1 and "error: " in said and "--lr_teacher was 0.01 and is now 0.5" in said
    assert contents(few_experts) == before


@pytest.mark.slow
def test_killed_and_joined_by_others_it_makes_the_same_experts_once(run_here, few_digits, few_experts, tmp_path,
                                                                    monkeypatch):
    """A process is stopped while it makes an expert; this one makes the others, waits for it, and takes its expert over
    once it is killed."""
    flags = command(few_digits, tmp_path, "--num_experts", 3)
    other = subprocess.Popen([sys.executable, ROOT / "buffer.py", *flags], stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL)

    def stopped_at_work():
        other.send_signal(signal.SIGSTOP)
        if any(try_lock(claim) is None for claim in folder(tmp_path).glob(".expert_*.lock")):
            return True
        other.send_signal(signal.SIGCONT)

    def while_waiting(seconds):
        assert other.poll() is None     # once: an expert that nobody makes any more is not waited for
        other.kill()
        other.wait()

    try:
        while other.poll() is None and not stopped_at_work():
            time.sleep(0.02)
        present = contents(tmp_path)        # none, unless the other was quick
        monkeypatch.setattr(trajectories, "time", SimpleNamespace(sleep=while_waiting))
        _, said = run_here("buffer.py", *flags)
        assert other.returncode == -signal.SIGKILL and "waiting for experts that other processes are making" in said
    finally:
        other.kill()
        other.wait()
    made = [f"expert_{int(number):04d}.safetensors" for number in re.findall(r"expert (\d+): epoch", said)]
    assert sorted([*present, *made]) == sorted(contents(few_experts))
    assert contents(tmp_path) == contents(few_experts) and present.items() <= contents(few_experts).items()


def test_dry_run_counts_what_the_files_then_have(run_here, few_digits, few_experts, tmp_path):
    out, _ = run_here("buffer.py", *command(few_digits, tmp_path, "--num_experts", 3, "--dry_run"))
    plan = json.loads(out.removeprefix("RESULT "))
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
