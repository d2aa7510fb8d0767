"""Protocols, training and testing: what an evaluation computes, and what it must never depend on."""
import copy
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import distill_DM
import utils
from conftest import NET
from distill_utils import check
from distill_utils.args import check_args, data_settings
from distill_utils.augment import parse
from distill_utils.dataset import DATASETS, get_spec
from distill_utils.labels import label_loss
from distill_utils.seeds import make_generator, seeded
from distill_utils.synset import Hallucinator, ImageSet, StaticDynamicSet, VideoSet
from networks import Parallel, modality
from utils import (
    POOLS,
    PROTOCOLS,
    Data,
    check_network,
    evaluate,
    evaluate_synset,
    get_eval_pool,
    get_network,
    make_optimizer,
    per_batch,
    per_sample,
    train_network,
)


@pytest.fixture(scope="module")
def tiny(digit_data):
    """Three training and three test clips a class."""
    splits = []
    for clips in (digit_data.train, digit_data.test):
        few = copy.copy(clips)
        keep = torch.cat([(clips.labels == k).nonzero()[:3, 0] for k in range(10)])
        few.labels, few.first, few.counts = clips.labels[keep], clips.first[keep], clips.counts[keep]
        splits.append(few)
    return Data(digit_data.spec, *splits)


def real_set(tiny, ipc=1):
    synset = VideoSet(10, ipc, tiny.spec.shape)
    synset.videos.data = tiny.train.random_clips(ipc, torch.Generator().manual_seed(0)).flatten(0, 1)
    return synset


@pytest.fixture(scope="module")
def network(tiny):
    with seeded(0):
        return get_network(NET, tiny.spec)


# ---- testing ------------------------------------------------------------------------------------------------------

def test_evaluate_equals_a_loop_over_single_clips(tiny, network):
    top1 = top5 = loss = 0
    per_class, confusion = torch.zeros(10), torch.zeros(10, 10, dtype=torch.long)
    network.eval()
    for i in range(30):
        with torch.no_grad():
            x = tiny.test.get([i])
            logits = network((x - x.mean()) / (x.std() + 1e-5))[0]
        label = int(tiny.test.labels[i])
        order = logits.argsort(descending=True).tolist()
        top1 += order[0] == label
        top5 += label in order[:5]
        per_class[label] += (order[0] == label) / 3
        confusion[label, order[0]] += 1
        loss += -F.log_softmax(logits, 0)[label].item()
    result = evaluate(network, tiny.test, batch_size=7)
    assert result.top1 == top1 / 30 and result.top5 == top5 / 30
    assert result.loss == pytest.approx(loss / 30, rel=1e-4)
    torch.testing.assert_close(result.per_class, per_class)
    assert torch.equal(result.confusion, confusion)


def test_standard_predictions_do_not_depend_on_the_rest_of_the_batch(tiny, network):
    results = [evaluate(network, tiny.test, batch_size=size) for size in (1, 11, 30)]
    assert len({(r.top1, r.top5) for r in results}) == 1
    assert results[0].loss == pytest.approx(results[2].loss, rel=1e-5)
    clips = tiny.test.get(range(30))
    paper = PROTOCOLS["paper"].evaluation
    assert not torch.allclose(paper(clips)[:9], paper(clips[:9]))       # the published way does depend on it


def test_standard_tests_the_centre_clip_once_and_paper_random_clips_three_times(tiny, network, monkeypatch):
    calls = []
    get = type(tiny.test).get

    def record(self, indices, generator=None, *args, **kwargs):
        calls.append((len(indices), generator))
        return get(self, indices, generator, *args, **kwargs)

    monkeypatch.setattr(type(tiny.test), "get", record)
    evaluate(network, tiny.test)
    assert calls == [(30, None)]
    calls.clear()
    evaluate(network, tiny.test, protocol="paper")
    assert [n for n, _ in calls] == [30, 30, 30] and all(generator is not None for _, generator in calls)


def test_paper_tests_64_clips_at_a_time_class_by_class_in_any_order(digit_data, network, monkeypatch):
    """As a batch is standardised as a whole, its clips decide what a network sees."""
    one_by_one = copy.copy(digit_data.test)     # a clip of each class, then the next of each
    turn = torch.cat([torch.arange(n) for n in torch.bincount(one_by_one.labels)])
    order = turn[one_by_one.labels.argsort(stable=True).argsort()].argsort(stable=True)
    one_by_one.labels, one_by_one.first, one_by_one.counts = (
        values[order] for values in (one_by_one.labels, one_by_one.first, one_by_one.counts))
    assert sorted(one_by_one.labels[:10].tolist()) == list(range(10))
    seen, get = [], type(one_by_one).get

    def record(self, indices, *args, **kwargs):
        seen.append(self.labels[indices].tolist())
        return get(self, indices, *args, **kwargs)

    monkeypatch.setattr(type(one_by_one), "get", record)
    result = evaluate(network, one_by_one, batch_size=7, protocol="paper", passes=1)
    assert [len(labels) for labels in seen] == [64] * 6 + [36] and sum(seen, []) == sorted(one_by_one.labels.tolist())
    seen.clear()
    listed = evaluate(network, digit_data.test, batch_size=256, protocol="paper", passes=1)
    assert result.loss == listed.loss and torch.equal(result.per_class, listed.per_class)
    seen.clear()
    evaluate(network, one_by_one, batch_size=200)
    assert [len(labels) for labels in seen] == [200, 200, 20] and sum(seen, []) == one_by_one.labels.tolist()


def test_a_run_is_told_where_the_published_one_trained_on_other_clips(digits, few_digits, monkeypatch, capsys, parse):
    published, command = PROTOCOLS["paper"].train_clips["HMDB51"]
    assert published == 5236 and DATASETS["HMDB51"].clips[1][0] == 3570
    assert command.startswith("python -m distill_utils.check ") and parse(check, command.split()[3:]).train == "all"
    assert data_settings(parse(distill_DM, ["--protocol", "paper"]))["protocol"] == "paper"
    paper = PROTOCOLS["paper"]._replace(train_clips={"MotionDigits": (600, "make them")})
    monkeypatch.setitem(PROTOCOLS, "paper", paper)
    for path, name, protocol, told in (
            (digits, "MotionDigits", "paper", True), (digits, "singleMotionDigits", "paper", True),
            (digits, "MotionDigits", "standard", False), (few_digits, "MotionDigits", "paper", False)):
        utils.get_dataset(name, path, protocol=protocol)
        said = capsys.readouterr().err
        assert ("make them writes that split" in said) == told
        assert not told or f"{name} has the 540 training clips" in said and "with 600:" in said


def test_a_class_without_clips_is_nan_and_top5_of_few_classes_works(tiny, network):
    few = copy.copy(tiny.test)
    few.labels, few.first, few.counts = few.labels[3:], few.first[3:], few.counts[3:]
    result = evaluate(network, few)
    assert result.per_class[0].isnan() and not result.per_class[1:].isnan().any()


# ---- training -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("protocol,epochs,rates", [
    ("standard", 6, [0.1] * 3 + [0.01] * 3), ("standard", 1, [0.1]), ("paper", 6, [0.1] * 5 + [0.01] * 2)])
def test_epochs_and_learning_rates(tiny, monkeypatch, protocol, epochs, rates):
    seen = []
    monkeypatch.setattr(utils, "make_step", lambda net, optimizer, dtype, loss_of: optimizer)
    monkeypatch.setattr(utils, "train_epoch", lambda net, batches, step: seen.append(step.param_groups[0]["lr"]))
    train_network(real_set(tiny), tiny.spec, NET, epochs=epochs, lr=0.1, protocol=protocol)
    assert seen == pytest.approx(rates)


def test_the_result_is_of_the_network_after_its_last_epoch(tiny, monkeypatch):
    order = []
    train, test = utils.train_epoch, utils.evaluate
    monkeypatch.setattr(utils, "train_epoch", lambda *a: (order.append("train"), train(*a))[1])
    monkeypatch.setattr(utils, "evaluate", lambda *a, **k: (order.append("test"), test(*a, **k))[1])
    result = evaluate_synset(real_set(tiny), tiny, NET, epochs=3)
    assert order == ["train"] * 3 + ["test"]
    again = evaluate(train_network(real_set(tiny), tiny.spec, NET, epochs=3), tiny.test)
    assert (result.top1, result.loss) == (again.top1, again.loss)


@pytest.mark.parametrize("kind", ["pixels", "images", "s2d", "real"])
def test_evaluation_follows_its_seed_and_touches_nothing_global(tiny, kind):
    train_on = {"pixels": lambda: real_set(tiny), "images": lambda: ImageSet(10, 1, tiny.spec.shape[1:]),
                "s2d": lambda: StaticDynamicSet(10, 1, 2, 2, tiny.spec.shape), "real": lambda: tiny.train}[kind]()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = evaluate_synset(train_on, tiny, NET, epochs=2, seed=1)
    torch.randn(7)
    torch.manual_seed(5)
    second = evaluate_synset(train_on, tiny, NET, epochs=2, seed=1)
    other = evaluate_synset(train_on, tiny, NET, epochs=2, seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert (first.top1, first.loss) == (second.top1, second.loss) and first.loss != other.loss
    assert type(first) is utils.EvalResult and first.per_class.shape == (10,)


def test_training_on_a_set_learns_its_classes(tiny):
    net = train_network(real_set(tiny), tiny.spec, NET, epochs=80)
    with torch.no_grad():
        predicted = net.eval()(per_sample(real_set(tiny).videos)).argmax(1)
    assert (predicted == torch.arange(10)).float().mean() >= 0.8


def test_hallucinated_clips_are_made_in_batches_without_a_graph(tiny, monkeypatch):
    calls = []
    forward = Hallucinator.forward
    monkeypatch.setattr(Hallucinator, "forward", lambda self, static, dynamic: (
        calls.append((len(static), torch.is_grad_enabled())), forward(self, static, dynamic))[1])
    synset = StaticDynamicSet(10, 2, 2, 2, tiny.spec.shape)
    evaluate_synset(synset, tiny, NET, epochs=3, batch_size=16)
    assert calls == [(16, False), (4, False)] * 3


def test_standardising():
    x = torch.randn(4, 2, 3, 5, 5) * torch.arange(1, 5).view(-1, 1, 1, 1, 1) + 7
    y = per_sample(x)
    torch.testing.assert_close(y.mean((1, 2, 3, 4)), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.std((1, 2, 3, 4)), torch.ones(4), atol=1e-4, rtol=0)
    assert torch.isfinite(per_sample(torch.zeros(2, 3, 4, 4))).all()     # a blank clip
    assert float(per_batch(x).mean()) == pytest.approx(0, abs=1e-5)
    assert torch.equal(PROTOCOLS["paper"].matching(x), x) and torch.equal(PROTOCOLS["standard"].matching(x), y)


# ---- tables and checks --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("mode,takes_what", [(m, t) for m, pool in POOLS.items() for t in pool])
def test_every_pool_names_networks_of_its_kind(mode, takes_what):
    assert all(modality(name) == takes_what for name in POOLS[mode][takes_what])
    model = {"video": "ConvNet3D", "image": "ConvNet"}[takes_what]
    pool = get_eval_pool(mode, model)
    assert set(POOLS[mode][takes_what]) <= set(pool) and len(pool) == len(set(pool))
    if model in pool:
        assert pool[0] == model


def test_single_pools_and_unknown_modes():
    assert get_eval_pool("SS", "ConvNetBN") == ["ConvNetBN"] and get_eval_pool("S", "ConvNetBN") == ["ConvNet"]
    assert get_eval_pool("S", "ConvNet3D") == ["ConvNet3D"]
    with pytest.raises(ValueError, match="'Q' .*S, SS, M"):
        get_eval_pool("Q", "ConvNet3D")
    with pytest.raises(ValueError, match="--eval_mode 'N' .*videos"):
        get_eval_pool("N", "ConvNet3D")


@pytest.mark.parametrize("dataset", DATASETS)
def test_networks_are_checked_against_the_view(dataset):
    spec = get_spec(dataset)
    fits, other = ("ConvNet", "ConvNet3D") if spec.view == "single" else ("ConvNet3D", "ConvNet")
    check_network(fits, spec, dataset)
    with pytest.raises(ValueError, match=f"--model {other} takes .*{fits}"):
        check_network(other, spec, dataset)
    with pytest.raises(ValueError, match="ConvNet9D"):
        check_network("ConvNet9D", spec, dataset)


def test_arguments_are_checked_before_any_work():
    args = SimpleNamespace(dataset="UCF102", frames=None, im_size=None, model=NET, eval_mode="SS", split=None,
                           split_file=None, classes=None)
    with pytest.raises(ValueError, match="UCF102.*miniUCF101"):
        check_args(args)


@pytest.mark.parametrize("device,count", [("cpu", 0), ("cuda", 2)])
def test_cuda_graphs_need_one_cuda_device(device, count, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    args = SimpleNamespace(dataset="MotionDigits", frames=None, im_size=None, model=NET, eval_mode="SS", split=None,
                           split_file=None, classes=None, dsa_strategy="none", dsa_param="", cuda_graphs=True,
                           device=device)
    with pytest.raises(ValueError, match="--cuda_graphs needs one CUDA device: give --device cuda:0"):
        check_args(args)


def test_several_cuda_devices_get_replicas(monkeypatch, tiny):
    assert not isinstance(get_network(NET, tiny.spec, dist=True), Parallel)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(utils.networks, "lookup", lambda name: lambda spec: nn.Identity())
    monkeypatch.setattr(utils.networks, "Parallel", lambda network: ("parallel", network))
    assert get_network(NET, tiny.spec, "cuda", dist=True)[0] == "parallel"
    assert isinstance(get_network(NET, tiny.spec, "cuda"), nn.Identity)


def test_the_optimizer_leaves_out_what_has_rate_zero_or_is_frozen(tiny):
    synset = StaticDynamicSet(10, 1, 1, 1, tiny.spec.shape)
    rates = {"lr_static": 0, "lr_dynamic": 0.5, "lr_hal": 0.1}
    groups = make_optimizer("sgd", rates, synset, 0.9).param_groups
    assert [group["params"] for group in groups] == [[synset.dynamic], list(synset.hallucinators.parameters())]
    assert (groups[0]["lr"], groups[0]["momentum"], groups[1]["lr"]) == (0.5, 0.9, 0.1)
    frozen = StaticDynamicSet(10, 1, 1, 1, tiny.spec.shape, train_static=False)
    optimizer = make_optimizer("adam", rates | {"lr_static": 1}, frozen)
    assert isinstance(optimizer, torch.optim.Adam)
    assert not any(tensor is frozen.static for group in optimizer.param_groups for tensor in group["params"])


@pytest.mark.parametrize("device,parallel", [("cuda", True), ("cuda:0", False), ("cuda:1", False), ("cpu", False)])
def test_only_the_device_cuda_means_all_of_them(tiny, monkeypatch, device, parallel):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(utils.networks, "lookup", lambda name: lambda spec: nn.Identity())
    monkeypatch.setattr(utils.networks, "Parallel", lambda network: ("parallel", network))
    assert isinstance(utils.get_network(NET, tiny.spec, device, dist=True), tuple) == parallel
    assert not isinstance(utils.get_network(NET, tiny.spec, device), tuple)


@pytest.mark.parametrize("dynamic_init", ["noise", "real"])
def test_s2d_starts_from_frames_of_the_clips_whose_movement_it_takes(tiny, dynamic_init):
    def started(static=None):
        synset = StaticDynamicSet(10, 2, 2, 2, tiny.spec.shape, hal_init="identity", dynamic_init=dynamic_init)
        if static is not None:
            synset.static.data, synset.has_static = static, True
        synset.start(tiny.train, 3)
        return synset

    synset, again = started(), started()
    real = tiny.train.random_clips(2, make_generator(3)).flatten(0, 1)
    assert torch.equal(synset.static, real[:, 4])
    clips, _ = synset.render(*utils.all_pairs(synset))
    if dynamic_init == "real":
        torch.testing.assert_close(clips.mean(2), real.mean(2), rtol=1e-4, atol=1e-5)
    else:
        assert abs(synset.dynamic.mean().item()) < 0.02 and synset.dynamic.std().item() == pytest.approx(1, abs=0.02)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), synset.parameters(), strict=True))
    static = torch.randn(20, *tiny.spec.shape[1:])
    assert torch.equal(started(static).static, static)


@pytest.mark.parametrize("kind", ["set", "clips"])
def test_networks_are_trained_on_augmented_clips(tiny, kind):
    train_on = real_set(tiny) if kind == "set" else tiny.train
    plain, flipped = (next(utils.train_batches(train_on, 8, torch.Generator().manual_seed(0), "cpu", dsa=dsa))[0]
                      for dsa in (None, parse("flip", "flip=1")))
    assert torch.equal(flipped, plain.flip(-1)) and not torch.equal(flipped, plain)


def test_batches_and_steps_take_the_targets_that_a_set_renders(tiny):
    """Rows of probabilities train as class numbers do where they are one-hot."""
    weights = []
    for kind in ("class", "probabilities"):
        synset = VideoSet(10, 1, tiny.spec.shape, label_kind=kind)
        synset.start(tiny.train, 0)
        if kind != "class":
            synset.labels.data = torch.eye(10)
        with seeded(0):
            net = get_network(NET, tiny.spec)
        step = utils.make_step(net, torch.optim.SGD(net.parameters(), lr=0.1), loss_of=label_loss("ce", kind))
        batches = list(utils.train_batches(synset, 4, torch.Generator().manual_seed(1), "cpu", per_sample))
        assert [targets.dim() for _, targets, _ in batches] == [1 if kind == "class" else 2] * 3
        with seeded(0):     # dropout
            hits = utils.train_epoch(net, batches, step)
        weights.append((torch.cat([p.detach().flatten() for p in net.parameters()]), hits))
    torch.testing.assert_close(*weights)
