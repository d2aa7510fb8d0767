"""Runs: same seed same bytes, resumed equals undisturbed, and what a stop, a full disk or a NaN leaves behind.

What holds for every set under every loss is tested over the tables: a new row of SETS is covered without being named.
"""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from scipy import stats

import buffer
import distill_coreset
import distill_DC
import distill_DM
import distill_MTT
import distill_s2d_DM
import distill_s2d_MTT
import evaluate
import summarize
import utils
from conftest import NET, ROOT
from distill_MTT import student_batch
from distill_utils.args import STOPS, cli, eval_iterations, set_rates
from distill_utils.augment import Augmentation
from distill_utils.clips import ClassSampler
from distill_utils.dataset import check_older
from distill_utils.device import resolve_device
from distill_utils.files import with_sum
from distill_utils.matching import DISTANCES
from distill_utils.protocols import PROTOCOLS
from distill_utils.run import Run
from distill_utils.seeds import derive_seed, make_generator, seeded
from distill_utils.storage import as_stored, storage_bytes
from distill_utils.synset import SETS, ImageSet, StaticDynamicSet, VideoSet, all_pairs, load_synset, method_name
from networks import ConvNet3D, lookup

TINY = {"frames": 4, "im_size": 16, "device": "cpu"}
FAST = {**TINY, "model": NET, "num_eval": 1, "epoch_eval_train": 1, "Iteration": 4, "eval_it": 2, "save_it": 1}
S2D = {"vpc": 2, "spc": 4, "dpc": 2, "n_hal": 2, "optim": "sgd", "lr_static": 0.1, "lr_dynamic": 0.1}
MTT = {"syn_steps": 3, "batch_syn": 7, "max_start_epoch": 2, "dsa_strategy": "color_flip"}
LOSSES = {"DC": (distill_DC, {"inner_loop": 1, "outer_loop": 2, "batch_real": 2}),
          "DM": (distill_DM, {"batch_real": 2}),
          "MTT": (distill_MTT, MTT)}
PAIRS = [(loss, kind) for loss in LOSSES for kind in SETS]
# name of a run's method -> script and flags
SCRIPTS = {"DM": (distill_DM, {"lr_img": 1, "batch_real": 2}),
           "S2D-DM": (distill_s2d_DM, {**S2D, "batch_real": 2}),
           "DC": (distill_DC, {"model": "ConvNetD2W32", "ipc": 2, "inner_loop": 1, "batch_real": 2}),
           "MTT": (distill_MTT, {**MTT, "lr_img": 10, "experts_per_step": 2}),
           "S2D-MTT": (distill_s2d_MTT, {**MTT, **S2D}),
           "herding": (distill_coreset, {}), "score": (evaluate, {})}


@pytest.fixture(scope="session")
def tiny_experts(few_digits, tmp_path_factory):
    """A --buffer_path with three experts of two epochs, for clips of 4 frames and 16 pixels."""
    return make_experts(few_digits, tmp_path_factory.mktemp("tiny_experts"))


def make_experts(data_path, path, **flags):
    flags = {**TINY, "model": NET, "data_path": data_path, "buffer_path": path, "num_experts": 3, "train_epochs": 2,
             "max_start_epoch": 2, "batch_train": 8, **flags}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["buffer.py", *words(flags)])
        buffer.main()
    return path


def words(flags):
    return [word for key, value in flags.items() for word in (f"--{key}", str(value))]


@pytest.fixture
def script(few_digits, tiny_experts, tmp_path, monkeypatch):
    """Runs a script's main in this process: script(method, name, flag=value, ...) -> the run's folder. The method is a
    key of SCRIPTS, or a pair of PAIRS."""
    def call(method, name, *switches, **flags):
        if isinstance(method, tuple):
            loss, kind = method
            module, own = LOSSES[loss]
            own = {"set": kind, **own}
            if loss == "DC" and kind == "still":
                own["model"] = "ConvNetD2W32"
            method = method_name(loss, kind, "still" if loss == "DC" else "pixels")
        else:
            module, own = SCRIPTS[method]
        flags = {**FAST, **own, **flags, "name": name, "data_path": few_digits, "save_path": tmp_path}
        if module in (distill_coreset, evaluate):
            for key in ("Iteration", "eval_it"):
                del flags[key]
        if method.endswith("MTT"):
            flags = {"buffer_path": tiny_experts, **flags}
            switches = [*(["--train_lr"] if flags.pop("learn_rate", True) else []), *switches]
        monkeypatch.setattr(sys, "argv", [module.__name__, *words(flags), *switches])
        module.main()
        return tmp_path / method / name
    return call


def content(folder):
    """What must not differ between two runs: the bytes of set and pictures, the result but for times, the log."""
    result = json.loads((folder / "result.json").read_text())
    for key in ("seconds", "distill_seconds", "peak_memory_bytes", "synset", "sum"):
        del result[key]
    names = ("synset.safetensors", "preview.png", "preview.gif")
    files = [(folder / name).read_bytes() for name in names if (folder / name).is_file()]
    return files, result, (folder / "metrics.jsonl").read_text().splitlines()


class Crash(BaseException):
    pass


def break_off(monkeypatch, script, method, where, call, **flags):
    """Runs it under the name "broken", and stops it at a call of one of Run's methods."""
    original, calls = getattr(Run, where), []

    def stop(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            raise Crash
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Run, where, stop)
        with pytest.raises(Crash):
            script(method, "broken", **flags)


# ---- every set under every loss -----------------------------------------------------------------------------------

@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_every_set_under_every_loss(pair, script, tmp_path, monkeypatch):
    """Same seed, same bytes, though broken off and gone on with another global state; trained; saved, previewed and
    scored as stored."""
    torch.manual_seed(1)
    whole = script(pair, "whole", store="uint8", Iteration=3)
    torch.manual_seed(2)
    break_off(monkeypatch, script, pair, "log", 2, store="uint8", Iteration=3)
    broken = script(pair, "broken", "--resume", store="uint8", Iteration=3)
    assert content(broken) == content(whole)
    assert content(script(pair, "other", store="uint8", Iteration=3, seed=1))[0] != content(whole)[0]

    synset, header = load_synset(whole / "synset.safetensors")
    assert type(synset) is SETS[pair[1]] and header["method"] == whole.parent.name and header["store"] == "uint8"
    saved = torch.load(whole / "checkpoint.pt", weights_only=True)["parts"]["synset"]
    start = script(pair, "start", Iteration=1, **dict.fromkeys(synset.rates, 1e-30)) / "synset.safetensors"
    start = load_synset(start)[0].state_dict()
    assert any(not torch.equal(value, start[name]) for name, value in saved.items())       # it was trained
    spec = utils.get_spec("MotionDigits", 4, 16)
    exact = type(synset)(**synset.arguments)
    exact.load_state_dict(saved)
    for name, value in as_stored(exact, "uint8", spec).state_dict().items():
        assert torch.equal(value, synset.state_dict()[name])

    assert Image.open(whole / "preview.png").height > 200 and (whole / "preview.gif").stat().st_size > 1000
    result = json.loads((whole / "result.json").read_text())
    assert result["storage_bytes"] == storage_bytes(exact, "uint8", spec) and result["ipc"] == synset.num_slots
    own = {"model": "ConvNetD2W32", "dataset": "singleMotionDigits"} if pair == ("DC", "still") else {}
    dsa = {"dsa_strategy": "color_flip"} if pair[0] == "MTT" else {}
    again = script("score", "again", synset=whole / "synset.safetensors", **own, **dsa)
    again = json.loads((again / "result.json").read_text())
    assert again["top1_mean"] == result["top1_mean"] and again["loss_mean"] == result["loss_mean"]


@pytest.mark.parametrize("kind", SETS)
@pytest.mark.parametrize("method", ["random", "herding"])
def test_every_set_holds_a_selection(kind, method, script, tmp_path, few_digits):
    flags = {"train_epochs": 1} if method == "herding" else {}
    script("herding", "x", "--method", method, set=kind, **flags)
    folder = tmp_path / method_name(method, kind) / "x"
    synset, header = load_synset(folder / "synset.safetensors")
    assert type(synset) is SETS[kind] and header["method"] == folder.parent.name
    data = utils.get_dataset("MotionDigits", few_digits, frames=4, im_size=16)
    if method == "random" and kind != "still":      # what a loss of the same seed starts from
        started = type(synset)(**synset.arguments)
        started.start(data.train, derive_seed(0, "start"))
        for name in synset.pixels:
            assert torch.equal(started.state_dict()[name], synset.state_dict()[name])
    rendered = utils.fit(synset, data.spec).render(*all_pairs(synset))[0].mean(2)
    real = data.train.get(range(40)).mean(2)
    if kind == "still":     # the middle frame of a clip, for all of its time
        real = real[:, 2:3].expand_as(real)
    assert max((real - clip).abs().flatten(1).amax(1).min() for clip in rendered) < 1e-4


@pytest.mark.parametrize("method", ["S2D-DM", "S2D-MTT"])
def test_a_script_of_a_pair_is_its_loss_with_that_set(method, script, tmp_path):
    """But for the published defaults of the pair, which are given here."""
    loss = method.removeprefix("S2D-")
    flags = {**S2D, "momentum": 0.95, **({"lr_momentum": 0.9, "lr_hal": 1e-3} if loss == "MTT" else {})}
    pair = content(script(method, "pair", Iteration=2))
    assert content(script((loss, "s2d"), "loss", Iteration=2, **flags)) == pair


def test_how_often_a_set_is_scored_changes_nothing_else(script):
    first, often = content(script("DM", "a")), content(script("DM", "b", eval_it=1))
    assert often[0][0] == first[0][0] and set(first[2]) < set(often[2])


@pytest.mark.parametrize("method,rate", [("DM", "lr_img"), ("S2D-DM", "lr_dynamic")])
def test_a_start_that_several_runs_share_is_scored_once(script, tmp_path, monkeypatch, method, rate):
    script(method, "a", Iteration=1)
    scored, evaluate_synset = [], utils.evaluate_synset
    monkeypatch.setattr(utils, "evaluate_synset", lambda *args, **kwargs: scored.append(1) or evaluate_synset(
        *args, **kwargs))
    script(method, "b", Iteration=1, **{rate: 2})
    assert len(scored) == 1         # its end
    for flags in ({"seed": 1}, {"epoch_eval_train": 2}, {"lr_net": 0.02}, {"store": "uint8"}):
        scored.clear()
        script(method, "c", "--overwrite", Iteration=1, **flags)
        assert len(scored) == 2, flags
    assert json.loads((tmp_path / method / "a" / "result.json").read_text())["top1_start_mean"] == json.loads(
        (tmp_path / method / "b" / "result.json").read_text())["top1_start_mean"]
    for file in (tmp_path / ".scores").iterdir():       # the time of a shared score counts
        scores = json.loads(file.read_text()) | {"seconds": 1000}
        file.write_text(json.dumps(with_sum(scores)))
    assert json.loads((script(method, "d", Iteration=1) / "result.json").read_text())["seconds"] > 1000
    # one that is not whole is made again
    for content in ("{", "5", "[1]", "{}", '{"top1": 1.0}', {"loss": float("nan")}, {"top1": 0.123}):
        for file in (tmp_path / ".scores").iterdir():
            whole = json.loads(file.read_text()) | content if isinstance(content, dict) else None
            file.write_text(json.dumps(whole) if whole else content)
        scored.clear()
        script(method, "d", "--overwrite", Iteration=1)
        assert len(scored) == 2, content
    shutil.rmtree(tmp_path / ".scores")
    (tmp_path / ".scores").write_text("in the way")
    script(method, "d", "--overwrite", Iteration=1)


def test_a_set_that_ends_below_its_start_says_so(script, capsys, monkeypatch):
    tops = iter([0.5, 0.25, 0.25, 0.5])
    monkeypatch.setattr(utils, "evaluate_synset", lambda *args, **kwargs: utils.EvalResult(
        next(tops), 1.0, 1.0, torch.zeros(10)))
    assert content(script("DM", "a", Iteration=1))[1]["below_start"] is True
    assert "scores 25.0 %, below the 50.0 % that it started from" in capsys.readouterr().err
    assert content(script("DM", "b", Iteration=1, seed=1))[1]["below_start"] is False
    assert "below the" not in capsys.readouterr().err


# ---- seeds --------------------------------------------------------------------------------------------------------

def test_chunks_do_not_change_what_is_computed(script):
    whole, parts = (load_synset(script("DM", name, chunk=chunk) / "synset.safetensors")[0].videos
                    for name, chunk in (("whole", 640), ("parts", 6)))
    torch.testing.assert_close(whole, parts, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("loss", ["DC", "DM"])
def test_real_and_synthetic_samples_are_augmented_alike(script, monkeypatch, loss):
    seen, apply = [], Augmentation.apply
    monkeypatch.setattr(Augmentation, "apply", lambda self, x, draw: (
        seen.append((len(x), draw)), apply(self, x, draw))[1])
    script((loss, "pixels"), "x", Iteration=1, batch_real=3, dsa_strategy="color_flip")
    matched = [entry for entry in seen if len(entry[1].numbers) == 1]       # siamese: one draw for all samples
    real, synthetic = matched[0::2], matched[1::2]
    assert matched and [draw for _, draw in real] == [draw for _, draw in synthetic]
    assert {n for n, _ in real} == ({3} if loss == "DC" else {30}) and {n for n, _ in synthetic} == (
        {1} if loss == "DC" else {10})


def test_still_images_are_matched_with_frames_of_their_segment(script, monkeypatch):
    seen, sample, render = [], ClassSampler.sample, ImageSet.render
    monkeypatch.setattr(ClassSampler, "sample", lambda self, classes, n, generator, device="cpu", segment=(0, 1): (
        seen.append(segment), sample(self, classes, n, generator, device, segment))[1])
    monkeypatch.setattr(ImageSet, "render", lambda self, classes, slots, generator=None: (
        seen.append(slots.tolist()), render(self, classes, slots, generator))[1])
    script("DC", "x", Iteration=1, ipc=4, split_num=2, outer_loop=1, eval_it=9)
    loop = seen[seen.index([0, 2]) - 1:][:40]
    assert loop == [(0, 2), [0, 2], (1, 2), [1, 3]] * 10


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_while_matching_clips_are_standardised_as_the_protocol_says(loss, protocol, script, few_digits, tmp_path,
                                                                     monkeypatch):
    seen, feature_map = [], ConvNet3D.feature_map
    monkeypatch.setattr(ConvNet3D, "feature_map", lambda self, x: (seen.append(x.detach()), feature_map(self, x))[1])
    monkeypatch.setattr(Run, "evaluate", lambda *args, **kwargs: seen.clear())
    monkeypatch.setattr(Run, "finish", lambda *args, **kwargs: None)
    flags = {"epoch_eval_train": 1, "batch_real": 2, "outer_loop": 1} if loss == "DC" else {}
    if loss == "MTT":
        flags = {"buffer_path": make_experts(few_digits, tmp_path / "experts", protocol=protocol, num_experts=1)}
    matched, log = [], Run.log
    monkeypatch.setattr(Run, "log", lambda self, *args, **kwargs: (matched.extend(seen), log(self, *args, **kwargs))[1])
    script((loss, "pixels"), "x", Iteration=1, eval_it=9, protocol=protocol, dsa_strategy="none", precision="fp32",
           **flags)
    assert matched
    means = torch.cat([x.mean((1, 2, 3, 4)) for x in matched])
    whole = torch.stack([x.mean() for x in matched])       # of batches
    if protocol == "standard":
        assert means.abs().max() < 1e-4
    else:
        assert means.abs().max() > 0.05 and whole.abs().min() > 1e-3


def test_experts_are_as_far_apart_as_asked(script, few_digits, tmp_path, monkeypatch):
    seen, mtt_gradient = [], distill_MTT.mtt_gradient
    monkeypatch.setattr(distill_MTT, "mtt_gradient", lambda loss, start, target, *args: (
        seen.append((start, target)), mtt_gradient(loss, start, target, *args))[1])
    experts = make_experts(few_digits, tmp_path / "experts", max_start_epoch=1, expert_epochs=2, num_experts=1)
    script("MTT", "x", Iteration=1, experts_per_step=1, max_start_epoch=1, expert_epochs=2, buffer_path=experts)
    file, = (experts / "MotionDigits" / NET).glob("*.safetensors")
    with safe_open(file, framework="pt") as expert:
        names = [name for name, _ in lookup(NET)(utils.get_spec("MotionDigits", 4, 16)).named_parameters()]
        for epoch, values in zip((0, 2), seen[0], strict=True):
            assert all(torch.equal(value, expert.get_tensor(f"{epoch}/{name}"))
                       for name, value in zip(names, values, strict=True))


@pytest.mark.parametrize("method,flags", [("DC", {"lr_net": 0.5, "outer_loop": 2}), ("DM", {"precision": "bf16"})])
def test_flags_of_the_loop_reach_it(method, flags, script):
    plain, other = ((script(method, name, Iteration=1, eval_it=9, **{"precision": "fp32", "lr_net": 0.01, **change})
                     / "synset.safetensors").read_bytes() for name, change in (("a", {}), ("b", flags)))
    assert plain != other


def test_each_distance_of_gradients_makes_another_set(script):
    sets = {(script("DC", name, Iteration=1, eval_it=9, dis_metric=name, outer_loop=1, optim="sgd")
             / "synset.safetensors").read_bytes() for name in DISTANCES}
    assert len(sets) == len(DISTANCES)


def test_batch_norm_sees_all_classes_before_gradients_of_one(script, monkeypatch):
    modes, gradients = [], distill_DC.gradients

    def record(network, *args, **kwargs):
        norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        modes.append({(norm.training, int(norm.num_batches_tracked)) for norm in norms})
        return gradients(network, *args, **kwargs)

    monkeypatch.setattr(distill_DC, "gradients", record)
    script("DC", "x", Iteration=1, model="ConvNetBN", outer_loop=1, eval_it=9)
    assert len(modes) == 20 and modes == [{(False, 1)}] * 20      # one batch of all classes, and then no more


def test_no_more_real_samples_than_a_chunk_are_floats_at_a_time(script, monkeypatch):
    sizes, sample = [], ClassSampler.sample
    monkeypatch.setattr(ClassSampler, "sample", lambda self, classes, n, *args: (
        sizes.append(len(classes) * n), sample(self, classes, n, *args))[1])
    script("DM", "x", Iteration=1, chunk=7, batch_real=2)
    assert sizes == [6, 6, 6, 2]


def test_derived_seeds_differ_by_purpose_and_stay():
    purposes = ((0, 1, "clips"), (0, 2, "clips"), (1, 1, "clips"), (0, 1, "network"), (0, 11), (0,))
    seeds = {derive_seed(*purpose) for purpose in purposes}
    assert len(seeds) == 6 and derive_seed(0, "start") == derive_seed(0, "start") < 2 ** 63
    assert torch.equal(torch.rand(3, generator=make_generator(4, "x")), torch.rand(3, generator=make_generator(4, "x")))
    state = torch.get_rng_state()
    with seeded(1):
        a = torch.rand(2)
    with seeded(1):
        assert torch.equal(torch.rand(2), a)
    assert torch.equal(torch.get_rng_state(), state)


# ---- stopped and resumed ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("method,where,call", [
    ("DM", "save", 3), ("S2D-DM", "evaluate", 2), ("DC", "finish", 1), ("MTT", "log", 3), ("S2D-MTT", "save", 4)])
def test_a_run_that_broke_off_ends_like_an_undisturbed_one(script, tmp_path, monkeypatch, method, where, call):
    wanted = content(script(method, "whole", num_eval=2))
    break_off(monkeypatch, script, method, where, call, num_eval=2)
    assert not (tmp_path / method / "broken" / "result.json").exists()
    assert content(script(method, "broken", "--resume", num_eval=2)) == wanted


def test_a_run_that_goes_on_on_another_kind_of_device_is_told(script, monkeypatch, capsys):
    script("DM", "x", Iteration=2)
    script("DM", "x", "--resume", Iteration=3)
    assert "note: this run was saved" not in capsys.readouterr().err
    monkeypatch.setattr("distill_utils.run.device_name", lambda device: "NVIDIA H100")
    script("DM", "x", "--resume", Iteration=4)
    assert "note: this run was saved on cpu and goes on on NVIDIA H100" in capsys.readouterr().err


def test_a_finished_run_resumed_says_its_result_again_and_can_be_prolonged(script):
    short = script("DM", "x", Iteration=2)
    again = content(short)
    assert content(script("DM", "x", "--resume", Iteration=2)) == again
    assert content(script("DM", "x", "--resume"))[0] == content(script("DM", "y"))[0]


@pytest.mark.slow
def test_kill_9_and_ctrl_c_in_a_process_of_its_own(script, few_digits, tmp_path):
    wanted = content(script("S2D-DM", "whole", Iteration=30))
    flags = {**FAST, **SCRIPTS["S2D-DM"][1], "Iteration": 30, "name": "killed", "data_path": few_digits,
             "save_path": tmp_path}
    command = [sys.executable, ROOT / "distill_s2d_DM.py", "--resume"]
    command += [str(word) for key, value in flags.items() for word in (f"--{key}", value)]
    folder = tmp_path / "S2D-DM" / "killed"

    def start_and_send(number, after):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                                   env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())})
        while process.poll() is None and not (
                (folder / "checkpoint.pt").exists() and reached(folder) >= after):
            time.sleep(0.02)
        process.send_signal(number)
        return process.wait(), process.stderr.read()

    code, _ = start_and_send(signal.SIGKILL, 5)
    assert code == -signal.SIGKILL
    code, said = start_and_send(signal.SIGINT, 11)
    assert code == 130 and "--resume goes on" in said and "Traceback" not in said
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.splitlines()[-1].startswith("RESULT {")
    assert content(folder) == wanted


def reached(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)["iteration"]


# ---- trajectory matching ------------------------------------------------------------------------------------------

def lines(folder, key):
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [entry[key] for entry in entries if key in entry]


@pytest.mark.parametrize("method", ["MTT", "S2D-MTT"])
def test_both_unrolls_give_the_same_set(script, method):
    """The walk back asks for each step again: slots, minibatches, DSA and dropout must be those of the walk there."""
    runs = {unroll: script(method, unroll, unroll=unroll, Iteration=3, eval_it=3, dsa_strategy="color_cutout_flip")
            for unroll in ("adjoint", "full")}
    for key in ("loss", "grad_norm", "syn_lr"):
        assert lines(runs["adjoint"], key) == pytest.approx(lines(runs["full"], key), rel=1e-4)
    sets = [load_synset(folder / "synset.safetensors")[0].state_dict() for folder in runs.values()]
    for name, value in sets[0].items():
        torch.testing.assert_close(value, sets[1][name], rtol=1e-3, atol=1e-5)


def test_the_rate_is_learned_where_asked_and_has_a_floor(script):
    assert len(set(lines(script("MTT", "a", lr_lr=1e-3), "syn_lr"))) > 1
    floor = lines(script("MTT", "b", lr_lr=1e6, min_lr=0.004), "syn_lr")
    assert min(floor) >= 0.004 - 1e-9 and floor[0] == pytest.approx(0.01)
    fixed = script("S2D-MTT", "c", learn_rate=False, lr_teacher=5e-4)
    assert lines(fixed, "syn_lr") == pytest.approx([5e-4] * 4)
    assert load_synset(fixed / "synset.safetensors")[1]["syn_lr"] is None


def test_published_scores_are_at_the_learned_rate_and_standard_ones_are_not(script, few_digits, tmp_path, monkeypatch):
    seen, evaluate_synset = [], utils.evaluate_synset
    monkeypatch.setattr(utils, "evaluate_synset", lambda *args, **kwargs: seen.append(kwargs["lr"]) or evaluate_synset(
        *args, **kwargs))
    script("MTT", "a", lr_lr=1e-3, Iteration=2)
    assert seen == [0.01, 0.01]
    seen.clear()
    experts = make_experts(few_digits, tmp_path / "experts", protocol="paper")
    folder = script("MTT", "b", protocol="paper", lr_lr=1e-3, Iteration=2, buffer_path=experts)
    assert seen[0] == pytest.approx(0.01) and seen[1] != seen[0]
    saved = load_synset(folder / "synset.safetensors")[1]
    assert saved["syn_lr"] == seen[saved["iteration"] // 2]
    seen.clear()
    script("score", "again", protocol="paper", synset=folder / "synset.safetensors")
    assert seen == [saved["syn_lr"]]


def test_every_network_of_an_evaluation_has_a_seed_of_its_own(script, monkeypatch):
    seen, evaluate_synset = [], utils.evaluate_synset
    monkeypatch.setattr(utils, "evaluate_synset", lambda *args, **kwargs: (
        seen.append(kwargs["seed"]), evaluate_synset(*args, **kwargs))[1])
    script("DM", "a", Iteration=1, num_eval=3)
    script("S2D-DM", "b", Iteration=1, num_eval=3)
    assert len(set(seen[:3])) == 3 and seen == seen[:3] * 4      # differences between methods and iterations are paired
    seen.clear()
    script("DM", "c", Iteration=1, num_eval=3, seed=1)
    assert len(seen) == 6


def test_experts_whose_rate_is_cut(few_digits, tmp_path, monkeypatch):
    flags = words({**TINY, "model": NET, "data_path": few_digits, "num_experts": 1, "train_epochs": 2,
                   "max_start_epoch": 2, "batch_train": 8, "precision": "fp32"})
    experts = []
    for name, switches in (("a", []), ("b", ["--decay"])):
        monkeypatch.setattr(sys, "argv", ["buffer.py", *flags, "--buffer_path", str(tmp_path / name), *switches])
        buffer.main()
        with safe_open(tmp_path / name / "MotionDigits" / NET / "expert_0000.safetensors", framework="pt") as file:
            experts.append([file.get_tensor(f"{epoch}/convs.0.weight") for epoch in range(3)])
    (_, one, two), (_, same, cut) = experts
    assert torch.equal(one, same) and 0 < (cut - same).norm() < 0.3 * (two - one).norm()


def test_long_gradients_are_shortened_and_experts_averaged(script):
    whole = lines(script("MTT", "a", Iteration=1, experts_per_step=1), "grad_norm")
    start = load_synset(script("MTT", "s", Iteration=1, lr_img=1e-30) / "synset.safetensors")[0].videos
    clipped = load_synset(script("MTT", "b", Iteration=1, experts_per_step=1, grad_clip=whole[0] / 4)
                          / "synset.safetensors")[0].videos
    free = load_synset(script("MTT", "c", Iteration=1, experts_per_step=1) / "synset.safetensors")[0].videos
    torch.testing.assert_close((free - start) / 4, clipped - start, rtol=1e-2, atol=1e-6)
    still = {"lr_img": 1e-30, "learn_rate": False}
    losses = lines(script("MTT", "d", Iteration=2, eval_it=2, experts_per_step=1, **still), "loss")
    both = lines(script("MTT", "e", Iteration=1, experts_per_step=2, learn_rate=False), "loss")
    assert both[0] == pytest.approx(sum(losses) / 2, rel=1e-5)


def test_gradients_of_several_experts_are_averaged(script, monkeypatch):
    seen, starts, mtt_gradient = [], [], distill_MTT.mtt_gradient

    def record(step_loss, start, *args):
        starts.append(float(start[0].sum()))
        seen.append(mtt_gradient(step_loss, start, *args))
        return seen[-1]

    monkeypatch.setattr(distill_MTT, "mtt_gradient", record)
    start = load_synset(script("MTT", "s", Iteration=1, lr_img=1e-30) / "synset.safetensors")[0].videos
    seen.clear(), starts.clear()
    folder = script("MTT", "e", Iteration=3, eval_it=9, experts_per_step=3, lr_img=10, lr_lr=1e-6, lr_momentum=0.7)
    means = [[sum(gradient) / 3 for gradient in zip(*((result[1][0], result[2]) for result in seen[i:i + 3]),
                                                    strict=True)] for i in (0, 3)]
    assert len(set(starts[:3])) == 3        # each expert has its turn before any comes again
    norms, rates = lines(folder, "grad_norm"), lines(folder, "syn_lr")
    assert norms[:2] == pytest.approx([float(gradient.norm()) for gradient, _ in means], rel=1e-5)
    steps = [float(means[0][1]), 0.7 * float(means[0][1]) + float(means[1][1])]
    assert [(a - b) / 1e-6 for a, b in zip(rates, rates[1:], strict=False)] == pytest.approx(steps, rel=1e-2)
    one = load_synset(script("MTT", "f", Iteration=1, experts_per_step=3, lr_img=10) / "synset.safetensors")[0].videos
    torch.testing.assert_close(start - 10 * means[0][0], one, rtol=1e-5, atol=1e-6)


def test_a_step_of_a_student_sees_as_many_clips_as_it_is_told(script):
    start, one, two = (load_synset(script("MTT", name, Iteration=1, syn_steps=steps, batch_syn=1, lr_img=rate,
                                          experts_per_step=1) / "synset.safetensors")[0].videos
                       for name, steps, rate in (("s", 1, 1e-30), ("a", 1, 10), ("b", 2, 10)))
    changed = [[i for i in range(10) if not torch.equal(start[i], moved[i])] for moved in (one, two)]
    assert len(changed[0]) == 1 and len(changed[1]) == 2 and set(changed[0]) < set(changed[1])


def test_a_student_sees_every_clip_once_before_any_comes_again():
    steps = [student_batch(10, 4, i, 7) for i in range(6)]
    assert [len(step) for step in steps] == [4, 4, 2] * 2
    for epoch in (steps[:3], steps[3:]):
        assert torch.cat(epoch).sort().values.tolist() == list(range(10))
    assert not torch.equal(torch.cat(steps[:3]), torch.cat(steps[3:]))
    assert student_batch(10, None, 3, 7).tolist() == student_batch(10, 12, 3, 7).tolist() == list(range(10))


def test_experts_that_were_made_anew_do_not_continue_a_run(script, tiny_experts, few_digits, tmp_path):
    script("MTT", "x", Iteration=1)
    moved = tmp_path / "moved"
    shutil.copytree(tiny_experts, moved)
    script("MTT", "x", "--resume", Iteration=2, buffer_path=moved)
    other = make_experts(few_digits, tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match="expert_0000.safetensors is not what it was when this run began"):
        script("MTT", "x", "--resume", Iteration=3, buffer_path=other)


@pytest.mark.parametrize("method", ["DM", "S2D-DM", "MTT", "S2D-MTT", "DC"])
def test_momentum_carries_over_from_step_to_step(script, method):
    """Without it the second step of SGD is another one, and the first the same."""
    flags = {"optim": "sgd", **({"outer_loop": 1} if method == "DC" else {})}
    for steps, same in ((1, True), (2, False)):
        sets = [load_synset(script(method, f"{steps}{momentum}", Iteration=steps, eval_it=9, momentum=momentum, **flags)
                            / "synset.safetensors")[0].state_dict() for momentum in (0, 0.9)]
        assert all(torch.equal(value, sets[1][name]) for name, value in sets[0].items()) == same


def test_a_frozen_part_stays_as_it_was(script):
    synset, _ = load_synset(script("S2D-DM", "a", "--no_train_static", Iteration=2) / "synset.safetensors")
    start, _ = load_synset(script("S2D-DM", "b", Iteration=1, lr_static=1e-30) / "synset.safetensors")
    trained, _ = load_synset(script("S2D-DM", "c", Iteration=2) / "synset.safetensors")
    assert torch.equal(synset.static, start.static) and not torch.equal(trained.static, start.static)


# ---- folders and checkpoints --------------------------------------------------------------------------------------

def test_a_folder_with_a_run_is_not_overwritten_unless_asked(script):
    folder = script("DM", "x", Iteration=1)
    before = (folder / "synset.safetensors").read_bytes()
    with pytest.raises(ValueError, match="already holds a run.*--resume.*--overwrite.*--name"):
        script("DM", "x", seed=1)
    assert (folder / "synset.safetensors").read_bytes() == before
    with pytest.raises(ValueError, match="contradict"):
        script("DM", "x", "--overwrite", "--resume")
    assert (script("DM", "x", "--overwrite", seed=1) / "synset.safetensors").read_bytes() != before


def test_bad_input_leaves_the_run_that_was_to_be_overwritten(script):
    folder = script("DM", "x", Iteration=1)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(ValueError, match="cannot take 55 clips"):
        script("DM", "x", "--overwrite", ipc=55)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_what_a_dead_run_left_is_not_taken_for_this_ones(script, tmp_path):
    """Features that were trained with other settings, and no checkpoint."""
    flags = "--method", "herding", "--train_epochs", "1"
    clean = content(script("herding", "clean", *flags))
    left = tmp_path / "herding" / "x"
    left.mkdir()
    (left / "network.safetensors").write_bytes(b"of another run")
    assert content(script("herding", "x", *flags)) == clean


def test_a_score_goes_on_only_with_the_set_it_began_with(script, tmp_path):
    folder = script("DM", "x", Iteration=1)
    flags = {"synset": folder / "synset.safetensors"}
    script("score", "s", **flags)
    assert script("score", "s", "--resume", **flags)
    script("DM", "x", "--overwrite", Iteration=1, seed=1)
    with pytest.raises(ValueError, match="another experiment: --synset .its content."):
        script("score", "s", "--resume", **flags)


def test_a_network_named_twice_is_scored_once(script):
    folder = script("DM", "x", Iteration=1)
    scores = content(script("score", "s", "--model_eval", NET, NET, synset=folder / "synset.safetensors"))[1]
    assert scores["num_networks"] == 1


def test_a_checkpoint_of_another_experiment_is_refused_with_the_difference(script):
    folder = script("DM", "x", Iteration=1)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(ValueError, match="another experiment: --lr_img was 1.0 and is now 2.0"):
        script("DM", "x", "--resume", lr_img=2)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_a_checkpoint_is_plain_tensors_and_files_say_what_they_should(script):
    folder = script("S2D-DM", "x")
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    assert state["iteration"] == 4 and {"synset", "optimizer"} == set(state["parts"])
    args = json.loads((folder / "args.json").read_text())
    assert args["lr_dynamic"] == 0.1 and args["versions"]["torch"] == torch.__version__ and args["device"] == "cpu"
    result = json.loads((folder / "result.json").read_text())
    assert {"method", "dataset", "network", "protocol", "seed", "ipc", "top1_mean", "top1_std", "top5_mean",
            "num_networks", "per_class", "storage_bytes", "seconds", "peak_memory_bytes", "synset",
            "top1_start_mean"} <= set(result)
    assert {file.name for file in folder.iterdir()} == {
        ".lock", "args.json", "metrics.jsonl", "checkpoint.pt", "synset.safetensors", "preview.png", "preview.gif",
        "curve.png", "result.json"}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines if "top1_mean" in line] == [0, 2, 4]


def test_a_full_disk_while_saving_leaves_the_earlier_checkpoint(script, tmp_path, monkeypatch):
    wanted = content(script("DM", "whole"))
    save, calls = torch.save, []

    def full(content, file):
        calls.append(1)
        if len(calls) == 5:
            file.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        save(content, file)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(OSError, match="no space left to write .*checkpoint.pt.*--resume"):
            script("DM", "x")
    folder = tmp_path / "DM" / "x"
    assert reached(folder) >= 0 and [file.name for file in folder.glob(".*")] == [".lock"]
    assert content(script("DM", "x", "--resume")) == wanted


def test_nan_stops_the_run_and_names_iteration_rate_and_checkpoint(script, tmp_path):
    folder = script("DM", "x", Iteration=2)
    before = (folder / "synset.safetensors").read_bytes()
    names = r"(?s)iteration \d.*(checkpoint is of iteration|no step was).*rate \[1e\+38\]"
    with pytest.raises(ValueError, match=names):
        script("DM", "y", lr_img=1e38, Iteration=6, frames=8, im_size=32)
    broken = tmp_path / "DM" / "y" / "synset.safetensors"
    assert torch.isfinite(load_synset(broken)[0].videos).all()
    assert (folder / "synset.safetensors").read_bytes() == before


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


# ---- the data -----------------------------------------------------------------------------------------------------

@pytest.fixture
def own_data(few_digits, tmp_path):
    """A folder of one's own that a test may change."""
    shutil.copytree(few_digits / "MotionDigits", tmp_path / "mine")
    (tmp_path / "mine" / "motiondigits_splits1.csv").rename(tmp_path / "mine" / "split.csv")
    return tmp_path / "mine"


def edit_split(folder, change):
    file = folder / "split.csv"
    rows = [line.split(",") for line in file.read_text().splitlines()]
    file.write_text("\n".join(",".join(row) for row in [rows[0], *change(rows[1:])]) + "\n")


def exchange_labels(rows):
    other = {"ZeroUp": "ZeroDown", "ZeroDown": "ZeroUp"}
    return [[name, other.get(label, label), split] for name, label, split in rows]


def other_frames(folder):
    for file in (folder / "jpegs_32" / "v_ZeroUp_g08_c01").iterdir():
        shutil.copy(file.parent.with_name("v_OneUp_g08_c01") / file.name, file)


@pytest.mark.parametrize(("change", "said"), [
    (lambda folder: edit_split(folder, exchange_labels), "train clips have other labels.*test clips have other labels"),
    (lambda folder: edit_split(folder, lambda rows: [[name, label, {"train": "test", "test": "train"}[split]]
                                                     for name, label, split in rows]), "40 train clips then, 20 now"),
    (lambda folder: edit_split(folder, lambda rows: rows[:-1]), "then, .* now"),
    (other_frames, "the train clips have other frames")])
def test_a_run_does_not_go_on_with_changed_data(script, own_data, monkeypatch, change, said):
    folder = script("DM", "x", dataset=own_data, Iteration=2)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    change(own_data)
    with pytest.raises(ValueError, match=f"(?s)checkpoint.pt is of other clips.*{said}.*--overwrite"):
        script("DM", "x", "--resume", dataset=own_data)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    script("DM", "x", "--overwrite", dataset=own_data, Iteration=2)


def test_a_data_set_is_the_same_wherever_it_lies_and_however_it_is_spelled(script, own_data, tmp_path, monkeypatch):
    wanted = content(script("DM", "whole", dataset=own_data))
    script("DM", "x", dataset=own_data, Iteration=2)
    own_data.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    files, result, log = content(script("DM", "x", "--resume", dataset="./moved/"))
    assert files[1:] == wanted[0][1:] and log == wanted[2]
    assert result["data"] == wanted[1]["data"] and result["top1_mean"] == wanted[1]["top1_mean"]
    sets = [load_synset(tmp_path / "DM" / name / "synset.safetensors")[0].videos for name in ("whole", "x")]
    assert torch.equal(*sets)


def test_experts_know_their_clips_and_not_the_path(script, own_data, tmp_path, monkeypatch):
    experts = make_experts(own_data.parent, tmp_path / "buffers", dataset=own_data)
    monkeypatch.chdir(tmp_path)
    script("MTT", "x", dataset="mine/", buffer_path=experts)
    make_experts(own_data.parent, experts, dataset="./mine")       # finds them all made
    own_data.rename(tmp_path / "renamed")
    folder = experts / "mine" / NET
    script("MTT", "y", dataset="renamed", buffer_path=folder)
    edit_split(tmp_path / "renamed", exchange_labels)
    with pytest.raises(ValueError, match=r"expert_0000.* is of other clips .*train clips have other labels.*--buffer"):
        script("MTT", "z", dataset="renamed", buffer_path=folder)
    (tmp_path / "renamed").rename(own_data)
    with pytest.raises(ValueError, match=r"buffers/mine/.* is of other clips .*other labels"):
        make_experts(own_data.parent, experts, dataset="mine")


def test_files_that_flags_name_may_move_and_not_change(script, tmp_path):
    static = script("DC", "static", ipc=4) / "synset.safetensors"
    other = script("DC", "other", ipc=4, seed=1) / "synset.safetensors"
    shutil.copy(static, tmp_path / "a.safetensors")
    S2D = {"vpc": 2, "spc": 4, "dpc": 2}
    script("S2D-DM", "x", path_static=tmp_path / "a.safetensors", Iteration=2, **S2D)
    (tmp_path / "a.safetensors").rename(tmp_path / "b.safetensors")
    script("S2D-DM", "x", "--resume", path_static=tmp_path / "b.safetensors", **S2D)
    with pytest.raises(ValueError, match=r"--path_static \(its content\) was '\w+' and is now '\w+'"):
        script("S2D-DM", "x", "--resume", path_static=other, **S2D)
    with pytest.raises(ValueError, match=r"--path_static \(its content\) was '\w+' and is now None"):
        script("S2D-DM", "x", "--resume", **S2D)
    script("S2D-DM", "y", Iteration=2, **S2D)
    with pytest.raises(ValueError, match=r"--path_static \(its content\) was None and is now"):
        script("S2D-DM", "y", "--resume", path_static=static, **S2D)


def test_a_static_memory_of_other_clips_is_told(script, own_data, capsys):
    static = script("DC", "static", ipc=4, dataset=own_data) / "synset.safetensors"
    flags = {"path_static": static, "vpc": 2, "spc": 4, "dpc": 2, "dataset": own_data, "Iteration": 1}
    script("S2D-DM", "x", **flags)
    assert "was made of other clips" not in capsys.readouterr().err
    edit_split(own_data, lambda rows: [row for row in rows if not row[0].endswith("g08_c02")])
    script("S2D-DM", "y", **flags)
    said = f"note: the static memory {static} was made of other clips than this run has: 40 train clips then, 30 now"
    assert said in capsys.readouterr().err


def test_other_data_of_one_name_are_another_table(script, own_data, tmp_path):
    script("DM", "a", dataset=own_data, Iteration=1)
    script("DC", "b", dataset=own_data, Iteration=1)        # single frames of the same clips
    files = sorted(tmp_path.glob("*/*/result.json"))
    assert summarize.table([summarize.read(file) for file in files]).count("| method |") == 1
    edit_split(own_data, lambda rows: [row for row in rows if not row[0].endswith("g08_c02")])
    script("DM", "c", dataset=own_data, Iteration=1)
    table = summarize.table([summarize.read(file) for file in sorted(tmp_path.glob("*/*/result.json"))])
    assert table.count("| method |") == 2 and len(set(re.findall("data [0-9a-f]{16}", table))) == 2


def test_labels_beside_a_set_of_others_may_not_change_either(script, tmp_path):
    torch.save(torch.randn(20, 4, 3, 16, 16), tmp_path / "images_best.pt")
    torch.save(torch.arange(10).repeat(2), tmp_path / "labels_best.pt")
    script("score", "x", synset=tmp_path / "images_best.pt")
    script("score", "x", "--resume", synset=tmp_path / "images_best.pt")
    torch.save(torch.arange(10).repeat_interleave(2), tmp_path / "labels_best.pt")
    with pytest.raises(ValueError, match=r"--labels \(its content\) was '\w+' and is now '\w+'"):
        script("score", "x", "--resume", synset=tmp_path / "images_best.pt")


# ---- files --------------------------------------------------------------------------------------------------------

def test_a_result_without_its_checkpoint_is_still_a_result(script):
    folder = script("DM", "x", Iteration=2)
    (folder / "checkpoint.pt").unlink()
    before = (folder / "result.json").read_bytes()
    for switch, said in (([], "already holds a run"), (["--resume"], "no checkpoint.pt to go on from.*--overwrite")):
        with pytest.raises(ValueError, match=said):
            script("DM", "x", *switch, Iteration=2)
    assert (folder / "result.json").read_bytes() == before
    script("DM", "x", "--overwrite", Iteration=2)


def remember_nothing_of_the_clips(folder, **args):
    """Makes a checkpoint one of an earlier program."""
    saved = torch.load(folder / "checkpoint.pt", weights_only=True)
    del saved["clips"]
    saved["args"] |= args
    torch.save(saved, folder / "checkpoint.pt")


def test_what_was_made_with_other_class_numbers_or_networks_does_not_go_on(script, monkeypatch):
    for dataset, said in (("UCF101", "HammerThrow and Hammering"), ("Kinetics400", "clips of Kinetics were flipped")):
        with pytest.raises(ValueError, match=f"experts was made when {said}"):
            check_older("experts", {"dataset": dataset})
    check_older("experts", {"dataset": "HMDB51", "protocol": "standard", "decay": True})
    with pytest.raises(ValueError, match="experts was made when --decay with --protocol paper"):
        check_older("experts", {"dataset": "HMDB51", "protocol": "paper", "decay": True})
    remember_nothing_of_the_clips(script("DM", "x", "--overwrite", Iteration=2), dataset="miniUCF101")
    with pytest.raises(ValueError, match="--dataset was 'miniUCF101' and is now 'MotionDigits'"):
        script("DM", "x", "--resume")
    remember_nothing_of_the_clips(script("DM", "x", "--overwrite", Iteration=2))
    asked = []
    with monkeypatch.context() as patch:
        patch.setattr("distill_utils.run.check_older", lambda what, made_with: asked.append(made_with["dataset"]))
        script("DM", "x", "--resume")
    assert asked == ["MotionDigits"]
    folder = script("DM", "y", model="VideoConvNetGRU_small", Iteration=2)
    remember_nothing_of_the_clips(folder, model="VideoConvNetGRU")
    with pytest.raises(ValueError, match=r"checkpoint.pt was made when VideoConvNetGRU was another network"):
        script("DM", "y", "--resume", model="VideoConvNetGRU")
    remember_nothing_of_the_clips(script("DM", "z", Iteration=2), eval_mode="M")
    with pytest.raises(ValueError, match=r"when VideoConvNet\w+ was another network"):
        script("DM", "z", "--resume", eval_mode="M")


def test_a_run_does_not_go_back(script):
    folder = script("DM", "x", Iteration=2)
    before = (folder / "result.json").read_bytes()
    with pytest.raises(ValueError, match="DM/x is at iteration 2 already: give an --Iteration of at least"):
        script("DM", "x", "--resume", Iteration=1)
    assert (folder / "result.json").read_bytes() == before
    script("DM", "x", "--resume", Iteration=2)


def test_all_results_are_found_once(script, tmp_path, monkeypatch, capsys):
    script("DM", "a", Iteration=1)
    (tmp_path / "DM").rename(tmp_path / "elsewhere")
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "DM").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "circle").symlink_to(tmp_path / "r")
    monkeypatch.setattr(sys, "argv", ["summarize.py", *[str(tmp_path / "r")] * 2])
    summarize.main()
    assert capsys.readouterr().out.count("pixels (DM)") == 1
    file = tmp_path / "elsewhere" / "a" / "result.json"
    whole = json.loads(file.read_text())
    del whole["sum"]
    for change in ({"dataset": None}, {"dataset": 3}, {"protocol": None}, {"seed": "1"}, {"ipc": "1"}, {"network": 2}):
        file.write_text(json.dumps(whole | change))
        with pytest.raises(ValueError, match="result.json is not the result of a run"):
            summarize.main()
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(ValueError, match="result.json is not the result of a run"):
        summarize.main()


def test_names_that_are_no_text_are_refused_before_any_work(script, tmp_path, capsys):
    with pytest.raises(SystemExit):
        script("DM", os.fsdecode(b"caf\xe9"))
    assert "--name 'caf\\udce9' is not UTF-8: rename it" in capsys.readouterr().err
    assert not (tmp_path / "DM").exists()


@pytest.mark.parametrize("name", [".hidden", "../../x", "a/b", ".", "..", "/tmp/x", ""])
def test_a_name_leads_to_no_other_folder(script, tmp_path, name):
    if name == "":
        assert script("DM", name, Iteration=1).is_dir()      # as without --name
        return
    with pytest.raises(ValueError, match="--name .* is not a name for one folder"):
        script("DM", name, Iteration=1)
    assert not list(tmp_path.rglob("checkpoint.pt"))


def test_a_damaged_checkpoint_is_named_without_advice_to_trust_it(script):
    folder = script("DM", "x", Iteration=2)
    file = folder / "checkpoint.pt"
    whole = file.read_bytes()
    content = bytearray(whole)
    content[len(whole) // 2] ^= 1
    for damaged in (bytes(content), whole[:-9], b"", b"nothing", b"\x80\x02cos\nsystem\nq\x00."):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match="checkpoint.pt cannot be read .*--overwrite") as raised:
            script("DM", "x", "--resume")
        assert "weights_only" not in str(raised.value)
    file.write_bytes(whole)
    script("DM", "x", "--resume")


def test_a_log_that_was_shortened_keeps_its_whole_lines(script, capsys):
    folder = script("DM", "x", Iteration=2)
    log = folder / "metrics.jsonl"
    log.write_bytes(log.read_bytes()[:-7])
    script("DM", "x", "--resume")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert lines[-1]["iteration"] == 4 and "metrics.jsonl is shorter than it was" in capsys.readouterr().err


def test_a_damaged_result_is_not_put_into_a_table(script, tmp_path, monkeypatch):
    file = script("DM", "x", Iteration=1) / "result.json"
    file.write_text(file.read_text().replace('"top1_mean": 0.', '"top1_mean": 0.9'))
    monkeypatch.setattr(sys, "argv", ["summarize.py", str(tmp_path)])
    with pytest.raises(ValueError, match="result.json is not what its run wrote"):
        summarize.main()


def test_a_network_that_diverged_has_no_score(script, tmp_path):
    with pytest.raises(ValueError, match="not finite, so it has no score.*--lr_net"):
        script("DM", "x", lr_net=1e30, epoch_eval_train=3)
    assert not list(tmp_path.rglob("result.json"))


def test_a_set_whose_size_standardisation_hides_is_told(script, capsys):
    script("DM", "x", "--optim", "adam", lr_img=1e9)
    assert "pixels of this set reach 2.61e+09, where those of real clips stay below 3" in capsys.readouterr().err


# ---- signals and streams ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("number", STOPS)
def test_signals_that_end_jobs_save_the_iteration_and_stop(script, number, tmp_path, monkeypatch):
    wanted, log = content(script("DM", "whole")), Run.log
    sent = []

    def send(self, iteration, *args, **kwargs):
        if iteration == 1 and not sent:
            sent.append(os.kill(os.getpid(), number))
        return log(self, iteration, *args, **kwargs)

    monkeypatch.setattr(Run, "log", send)
    before = signal.signal(number, signal.SIG_DFL)      # whatever the tests themselves were started with
    try:
        with pytest.raises(KeyboardInterrupt, match="Iteration 2 is saved in .*--resume"):
            script("DM", "x", save_it=100)
    finally:
        signal.signal(number, before)
    assert content(script("DM", "x", "--resume")) == wanted


def test_a_signal_that_nohup_ignores_stays_ignored(script, monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    log = Run.log
    monkeypatch.setattr(Run, "log", lambda *args, **kwargs: (os.kill(os.getpid(), signal.SIGHUP), log(*args, **kwargs)))
    try:
        script("DM", "x", Iteration=1)
    finally:
        signal.signal(signal.SIGHUP, before)


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
    waiting = subprocess.Popen([sys.executable, "y.py"], cwd=tmp_path, stdout=subprocess.PIPE)
    assert waiting.stdout.readline() == "± 0\n".encode()      # at once, however long the rest takes
    waiting.kill()
    waiting.communicate()
    run = shell(f"{sys.executable} x.py wait", tmp_path)
    assert run.returncode == 130
    assert run.stderr.endswith(b"stopped. What was finished stays: the same command goes on (a run with --resume)\n")


# ---- scores -------------------------------------------------------------------------------------------------------

def bare(protocol="standard"):
    run = Run.__new__(Run)
    run.report_best = PROTOCOLS[protocol].report_best
    run.args, run.history = {"protocol": protocol, "num_eval": 2}, [
        {"iteration": it, "network": "N", "number": i, "top1": top1, "top5": 0.9, "loss": 1.0, "per_class": [top1, 1.0]}
        for it, values in ((0, (0.1, 0.2)), (5, (0.5, 0.7, 0.9)), (10, (0.3, 0.5))) for i, top1 in enumerate(values)]
    return run


def test_mean_deviation_and_interval():
    scores = bare().scores(5, "N")
    values = np.array([0.5, 0.7, 0.9])
    assert scores["top1_mean"] == pytest.approx(0.7) and scores["top1_std"] == pytest.approx(values.std(ddof=1))
    low, high = stats.t.interval(0.95, 2, loc=values.mean(), scale=stats.sem(values))
    assert scores["top1_ci95"] == pytest.approx((high - low) / 2) and scores["num_networks"] == 3
    assert scores["per_class"] == pytest.approx([0.7, 1.0]) and scores["top5_mean"] == pytest.approx(0.9)


def test_standard_reports_the_last_iteration_and_paper_the_best():
    assert bare().reported_iteration(["N"]) == 10 and bare("paper").reported_iteration(["N"]) == 5


def test_an_iteration_that_was_not_scored_by_every_network_is_not_reported():
    run = bare("paper")
    run.args["num_eval"] = 3
    assert run.evaluated(["N"]) == [5]
    run.history.append({"iteration": 20, "network": "N", "number": 0, "top1": 1.0, "top5": 1.0, "loss": 0.0})
    assert run.reported_iteration(["N"]) == 5


def test_a_start_that_stays_the_best_is_named_the_start(script, monkeypatch, capsys):
    tops = iter([0.5, 0.25, 0.5])
    monkeypatch.setattr(utils, "evaluate_synset", lambda *args, **kwargs: utils.EvalResult(
        next(tops), 1.0, 1.0, torch.zeros(10)))
    result = content(script("DM", "x", "--protocol", "paper", Iteration=2, eval_it=1))[1]
    assert (result["iteration"], result["top1_mean"]) == (0, 0.5) and result["is_start"] and not result["below_start"]
    assert "no set that was trained scores above the start" in capsys.readouterr().err
    assert "(the start itself)" in summarize.table([result | {"seconds": 1, "distill_seconds": 1}])


@pytest.mark.parametrize("method", ["DC", ("DC", "pixels")])
def test_dc_keeps_its_last_iteration_whatever_the_test_split_says(method, script, monkeypatch):
    """A static memory that was chosen on the test split would hand what it knows of it to all that is made with it."""
    tops = iter([0.5, 0.75, 0.25])
    monkeypatch.setattr(utils, "evaluate_synset", lambda *args, **kwargs: utils.EvalResult(
        next(tops), 1.0, 1.0, torch.zeros(10)))
    folder = script(method, "x", "--protocol", "paper", Iteration=2, eval_it=1)
    result = content(folder)[1]
    assert (result["iteration"], result["top1_mean"]) == (2, 0.25)
    assert load_synset(folder / "synset.safetensors")[1]["iteration"] == 2


def test_a_set_that_was_removed_is_missed(script):
    (script("DM", "x", "--protocol", "paper", Iteration=2, lr_img=1e-30) / "synset.safetensors").unlink()
    with pytest.raises(ValueError, match="the set of iteration 0, was removed: make it again with --overwrite"):
        script("DM", "x", "--protocol", "paper", "--resume", Iteration=2, lr_img=1e-30)


# ---- rates --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("given,wanted", [
    ({}, ("adam", {"lr_dynamic": 0.02, "lr_hal": 0.005})),
    ({"lr_dynamic": 3.0}, ("sgd", {"lr_dynamic": 3.0, "lr_hal": 1e-5})),
    ({"lr_dynamic": 3.0, "optim": "adam"}, ("adam", {"lr_dynamic": 3.0, "lr_hal": 0.005})),
    ({"optim": "sgd"}, ("sgd", {"lr_dynamic": 1e-4, "lr_hal": 1e-5}))])
def test_published_command_lines_mean_sgd_and_no_rates_adam(given, wanted):
    synset = StaticDynamicSet(2, 1, 1, 1, (2, 3, 4, 4), train_static=False)
    args = SimpleNamespace(**{"optim": None, "lr_static": None, "lr_dynamic": None, "lr_hal": None, **given})
    assert set_rates(args, synset) == (wanted[0], {"lr_static": 0, **wanted[1]})


def test_a_loss_may_be_published_with_other_rates():
    args = SimpleNamespace(optim="sgd", lr_img=None)
    synset = VideoSet(2, 1, (2, 3, 4, 4))
    assert set_rates(args, synset, {"lr_img": 1e5, "lr_dynamic": 1e4})[1] == {"lr_img": 1e5}
    assert set_rates(args, synset)[1] == {"lr_img": 30}
    args.lr_img = 0
    with pytest.raises(ValueError, match="nothing would be trained"):
        set_rates(args, synset)


# ---- one process a folder -----------------------------------------------------------------------------------------

def test_a_folder_that_another_process_works_on_is_refused_and_left_overs_of_a_killed_one_removed(script, tmp_path):
    folder = tmp_path / "DM" / "x"
    folder.mkdir(parents=True)
    (folder / ".checkpoint.pt.tmp-1").write_bytes(b"half")
    code = f"import time; from distill_utils.files import try_lock; x = try_lock({str(folder / '.lock')!r}); " \
           "print(x is not None, flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "True\n"
    with pytest.raises(ValueError, match="another process is working on .*DM/x.*--name"):
        script("DM", "x", Iteration=1)
    other.kill()
    other.wait()
    script("DM", "x", Iteration=1)
    assert not list(folder.glob("*.tmp-*")) and not list(folder.glob(".*.tmp-*"))


def test_a_run_that_never_began_does_not_refuse_the_corrected_one(script, tmp_path):
    with pytest.raises(ValueError, match="cannot take 55 clips"):
        script("DM", "x", ipc=55)
    assert [file.name for file in (tmp_path / "DM" / "x").iterdir()] == [".lock"]
    script("DM", "x", Iteration=1)


@pytest.mark.parametrize("start,every,total,wanted", [
    (0, 2, 5, {0, 2, 4, 5}), (400, 400, 1000, {0, 400, 800, 1000}), (3, 4, 8, {0, 3, 7, 8}), (0, 500, 100, {0, 100})])
def test_iterations_that_are_scored(start, every, total, wanted):
    assert eval_iterations(SimpleNamespace(startIt=start, eval_it=every, Iteration=total)) == wanted


@pytest.mark.parametrize("name", ["tpu9", "cuda:99"])
def test_impossible_devices_are_named(name):
    with pytest.raises(ValueError, match=f"--device '?{name}"):
        resolve_device(name)


def test_wandb_is_imported_only_when_asked(script, monkeypatch):
    calls = []
    stub = SimpleNamespace(init=lambda **k: (calls.append(k), SimpleNamespace(
        log=lambda line, step: calls.append(step), summary={}, finish=lambda: calls.append("finish")))[1])
    monkeypatch.setitem(sys.modules, "wandb", None)     # an import would fail
    script("DM", "x", Iteration=1)
    monkeypatch.setitem(sys.modules, "wandb", stub)
    script("DM", "y", Iteration=1, wandb="offline")
    assert calls[0]["mode"] == "offline" and calls[-1] == "finish" and len(calls) > 3


