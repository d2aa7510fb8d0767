"""The losses, as their scripts: every pair with a set runs and goes on, and each does what its paper says.

What holds for every set under every loss is tested over the tables: a new row of SETS is covered without being named.
"""
import json
import sys
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors import safe_open

import buffer
import distill_DC
import distill_DM
import distill_MTT
import utils
from conftest import NET
from distill_MTT import student_batch
from distill_utils.args import set_rates
from distill_utils.augment import Augmentation
from distill_utils.clips import ClassSampler
from distill_utils.matching import DISTANCES
from distill_utils.protocols import PROTOCOLS
from distill_utils.run import Run
from distill_utils.seeds import derive_seed, make_generator, seeded
from distill_utils.storage import as_stored, storage_bytes
from distill_utils.synset import SETS, ImageSet, StaticDynamicSet, VideoSet, all_pairs, load_synset, method_name
from distill_utils.tensors import TensorFile
from networks import ConvNet3D, lookup
from runs import LOSSES, PAIRS, S2D, TINY, break_off, content, make_experts, words

# ---- every set under every loss ------------------------------------------------------------------------------------

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
    start = script(pair, "start", Iteration=1, **{
        name: 1e-30 for name, tensors in synset.groups().items() if tensors}) / "synset.safetensors"
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
    elif kind == "keyframes":       # the first and the last, and between them their means
        real = real[:, :1] + torch.arange(4).view(4, 1, 1) / 3 * (real[:, -1:] - real[:, :1])
    assert max((real - clip).abs().flatten(1).amax(1).min() for clip in rendered) < 1e-4


@pytest.mark.parametrize("method", ["S2D-DM", "S2D-MTT"])
def test_a_script_of_a_pair_is_its_loss_with_that_set(method, script, tmp_path):
    """But for the published defaults of the pair, which are given here."""
    loss = method.removeprefix("S2D-")
    flags = {**S2D, "momentum": 0.95, **({"lr_momentum": 0.9, "lr_hal": 1e-3} if loss == "MTT" else {})}
    pair = content(script(method, "pair", Iteration=2))
    assert content(script((loss, "s2d"), "loss", Iteration=2, **flags)) == pair


# ---- what a loss sees ----------------------------------------------------------------------------------------------

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


@pytest.mark.parametrize("chunk, batch_real, wanted", [
    (24, 2, [6, 6, 6, 2]),                      # an eighth of it: 3 classes with one synthetic clip each
    (40, 20, [40, 40, 20, 40, 40, 20]),         # 5 of these, and 2 with 20 real clips
    (1, 2, [2] * 10)])
def test_no_more_real_samples_than_a_chunk_are_floats_at_a_time(chunk, batch_real, wanted, script, monkeypatch):
    sizes, sample = [], ClassSampler.sample
    monkeypatch.setattr(ClassSampler, "sample", lambda self, classes, n, *args: (
        sizes.append(len(classes) * n), sample(self, classes, n, *args))[1])
    script("DM", "x", Iteration=1, chunk=chunk, batch_real=batch_real)
    assert sizes == wanted


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


# ---- trajectory matching -------------------------------------------------------------------------------------------

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


@pytest.mark.parametrize("method", ["DM", "S2D-DM", "MTT", "S2D-MTT", "DC"])
def test_momentum_carries_over_from_step_to_step(script, method):
    """Without it the second step of SGD is another one, and the first the same."""
    flags = {"optim": "sgd", **({"outer_loop": 1} if method == "DC" else {})}
    for steps, same in ((1, True), (2, False)):
        sets = [load_synset(script(method, f"{steps}{momentum}", Iteration=steps, eval_it=9, momentum=momentum, **flags)
                            / "synset.safetensors")[0].state_dict() for momentum in (0, 0.9)]
        assert all(torch.equal(value, sets[1][name]) for name, value in sets[0].items()) == same


def test_a_frozen_part_stays_as_it_was(script):
    synset, _ = load_synset(script("S2D-DM", "a", "--no_train_static", Iteration=2, lr_static=0) / "synset.safetensors")
    start, _ = load_synset(script("S2D-DM", "b", Iteration=1, lr_static=1e-30) / "synset.safetensors")
    trained, _ = load_synset(script("S2D-DM", "c", Iteration=2) / "synset.safetensors")
    assert torch.equal(synset.static, start.static) and not torch.equal(trained.static, start.static)


# ---- trained networks in DM, rules of MTT -----------------------------------------------------------------------

def seen_networks(script, monkeypatch, name, *switches, **flags):
    """The weights of the networks that a run of DM embeds with, one of each iteration."""
    seen = []
    original = distill_DM.dm_loss
    with monkeypatch.context() as patch:
        patch.setattr(distill_DM, "dm_loss", lambda embed, *rest: (
            seen.append(embed.__closure__), original(embed, *rest))[1])
        script("DM", name, *switches, **flags)
    networks = [next(cell.cell_contents for cell in cells if isinstance(cell.cell_contents, torch.nn.Module))
                for cells in seen]
    return [torch.cat([value.flatten() for value in network.parameters()]) for network in networks]


def test_networks_that_compare_are_experts_where_asked(script, monkeypatch):
    """Each is a snapshot of an expert, of the epochs that may be drawn, and with a bank the same ones come again."""
    def snapshots(epochs):
        for file in sorted((script.experts / "MotionDigits" / NET).glob("*.safetensors")):
            expert = TensorFile(file)
            for epoch in epochs:
                yield torch.cat([expert.read(f"{epoch}/{name}").flatten() for name in expert.header["parameters"]])

    flags = {"networks": "experts", "Iteration": 6}
    for name, own, epochs in [
            ("all", {}, (0, 1, 2)), ("late", {"min_start_epoch": 2}, (2,)), ("early", {"max_start_epoch": 1}, (0,)),
            ("bank", {"bank": 2, "min_start_epoch": 1}, (1, 2)), ("later", {"ce_weight": 0.5, "later": 1}, (0, 1, 2))]:
        seen = seen_networks(script, monkeypatch, name, **flags, **own)
        known = list(snapshots(epochs))
        assert len(seen) == 6 and all(any(torch.equal(weights, one) for one in known) for weights in seen)
        different = len({tuple(weights[:50].tolist()) for weights in seen})
        assert different == 2 if name == "bank" else different > 1
    with pytest.raises(ValueError, match="keeps the epochs 0-2, none of them from --min_start_epoch 7"):
        script("DM", "none", **flags, min_start_epoch=7)
    with pytest.raises(ValueError, match="--ce_weight 1 asks what trained networks predict"):
        script("DM", "random", ce_weight=1.0)
    for changes, needed in (({"min_start_epoch": 1}, "--networks experts"), ({"later": 3}, "--ce_weight")):
        with pytest.raises(ValueError, match=f"changes nothing without {needed}"):
            script("DM", "nothing", **changes)
    with pytest.raises(ValueError, match="--bank holds class means, and --kernel gaussian needs each clip"):
        script("DM", "kernel", bank=2, kernel="gaussian")


def test_weights_of_classes_and_kernels_change_the_set(script):
    sets = [(script("DM", name, Iteration=2, **flags) / "synset.safetensors").read_bytes() for name, flags in {
        "plain": {}, "gaussian": {"kernel": "gaussian"}, "experts": {"networks": "experts"},
        "ce": {"networks": "experts", "ce_weight": 5.0},
        "ce_now": {"networks": "experts", "ce_weight": 5.0, "later": 0}}.items()]
    assert len(set(sets)) == 5


def test_the_class_loss_is_of_the_later_expert(script, monkeypatch):
    """With a weight so large that nothing else counts, the loss is the cross-entropy, summed over classes."""
    folder = script("DM", "ce", networks="experts", ce_weight=1e6, Iteration=1, min_start_epoch=2)
    line = lines(folder, "loss")[0] / 1e6
    spec = utils.get_spec("MotionDigits", 4, 16)
    start = script("DM", "start", Iteration=1, lr_img=1e-30)
    synset = load_synset(start / "synset.safetensors")[0]
    clips, classes = synset.render(*all_pairs(synset))
    found = []
    for file in sorted((script.experts / "MotionDigits" / NET).glob("*.safetensors")):
        expert = TensorFile(file)
        network = utils.get_network(NET, spec).eval()
        network.load_state_dict({name: expert.read(f"2/{name}") for name in expert.header["parameters"]})
        found.append(torch.nn.functional.cross_entropy(network(utils.per_sample(clips)), classes).item())
    assert min(abs(line - loss) for loss in found) < 1e-3


def test_steps_whose_loss_is_too_large_change_nothing(script, tmp_path, capsys):
    start = load_synset(script("MTT", "start", lr_img=1e-30, learn_rate=False) / "synset.safetensors")[0]
    folder = script("MTT", "skipped", max_loss=1e-9)
    assert torch.equal(load_synset(folder / "synset.safetensors")[0].videos, start.videos)
    assert lines(folder, "skipped") == [1] * 4 and len(set(lines(folder, "syn_lr"))) == 1
    assert json.loads((folder / "result.json").read_text())["skipped"] == 4
    assert "every step was skipped, its loss being above --max_loss 1e-09" in capsys.readouterr().err
    infinite = script("MTT", "infinite", max_loss=1.0, lr_teacher=1e20, syn_steps=1, learn_rate=False)
    assert lines(infinite, "skipped") == [1] * 4
    taken = script("MTT", "taken", max_loss=1e9)
    assert lines(taken, "skipped") == [] and not torch.equal(
        load_synset(taken / "synset.safetensors")[0].videos, start.videos)


def test_the_range_of_start_epochs_grows(script, monkeypatch):
    from distill_utils.trajectories import Experts
    seen, original = [], Experts.sample
    monkeypatch.setattr(Experts, "sample", lambda self, seed, index, bound=None: (
        seen.append(bound), original(self, seed, index, bound))[1])
    script("MTT", "grows", Iteration=5, first_max_start_epoch=1, expansion_end=3, max_start_epoch=2)
    assert seen == [1, 1, 1, 1, 2, 2, 2, 2, 2, 2]       # two experts a step
    with pytest.raises(ValueError, match="give both, or neither"):
        script("MTT", "half", first_max_start_epoch=1)
    with pytest.raises(ValueError, match="--first_max_start_epoch 5 is above --max_start_epoch 2"):
        script("MTT", "above", first_max_start_epoch=5, expansion_end=3)


def test_the_running_mean_of_a_set(script, monkeypatch):
    """By hand from the sets of runs of 0, 1 and 2 steps; broken off, it goes on."""
    sets = [load_synset(script("MTT", f"steps{n}", Iteration=n, eval_it=9) / "synset.safetensors")[0].videos
            for n in (1, 2, 3)]
    start = load_synset(script("MTT", "start", Iteration=1, lr_img=1e-30) / "synset.safetensors")[0].videos
    mean = start
    for it, videos in enumerate(sets):
        share = min(0.15, (1 + it) / (10 + it))
        mean = share * mean + (1 - share) * videos
    folder = script("MTT", "mean", Iteration=3, eval_it=9, ema=0.15)
    torch.testing.assert_close(load_synset(folder / "synset.safetensors")[0].videos, mean)
    break_off(monkeypatch, script, "MTT", "log", 2, Iteration=3, eval_it=9, ema=0.15)
    assert content(script("MTT", "broken", "--resume", Iteration=3, eval_it=9, ema=0.15)) == content(folder)


def test_hallucinators_are_pushed_apart(script):
    """Alone (no other rate counts), it lowers the cosine of what two of them make."""
    plain, apart = (script("S2D-MTT", name, hal_diversity=weight, lr_hal=0.01, lr_static=0, lr_dynamic=0, Iteration=3,
                           grad_clip=1) for name, weight in (("plain", 0), ("apart", 1e4)))
    cosines = []
    for folder in (plain, apart):
        synset = load_synset(folder / "synset.safetensors")[0]
        classes, slots = all_pairs(synset)
        a, b = (synset.render(classes, slots, variants=torch.full_like(classes, n))[0].flatten(1) for n in (0, 1))
        cosines.append(torch.cosine_similarity(a, b).mean().item())
    assert cosines[1] < cosines[0]
    with pytest.raises(ValueError, match="--hal_diversity 0.1 pushes several hallucinators apart"):
        script("S2D-MTT", "one", hal_diversity=0.1, n_hal=1)


# ---- rates ---------------------------------------------------------------------------------------------------------

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
