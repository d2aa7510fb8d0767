"""Neural feature regression: the loss against kernel ridge regression in numpy, its gradient in chunks, the pool."""
import copy
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import distill_FRePo
from conftest import NET
from distill_FRePo import Pool, rows_of
from distill_utils.device import in_precision
from distill_utils.labels import centred
from distill_utils.matching import frepo_gradient, frepo_loss
from distill_utils.seeds import make_generator, seeded
from distill_utils.synset import StaticDynamicSet, all_pairs, load_synset
from networks import NETWORKS
from runs import break_off, content

SPEC = SimpleNamespace(num_classes=3, frames=4, size=16, channels=3)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=make_generator(seed, *shape), dtype=torch.float64)


def by_hand(synthetic, labels, real, real_labels, reg):
    """Kernel ridge regression as a textbook has it, and the margin by a loop."""
    s, y, t, z = (x.numpy() for x in (synthetic, labels, real, real_labels))
    kernel = np.array([[a @ b for b in s] for a in s])
    ridge = reg * np.trace(kernel) / len(s) * np.eye(len(s))
    predictions = np.array([[a @ b for b in s] for a in t]) @ np.linalg.inv(kernel + ridge) @ y
    margins = [min(np.sort(row)[-1] - np.sort(row)[-2], 1 / len(row)) for row in y]
    return 0.5 * ((predictions - z) ** 2).sum(1).mean() - np.mean(margins)


@pytest.mark.parametrize("reg", [1e-6, 0.1])
def test_the_loss_is_kernel_ridge_regression(reg):
    case = random(5, 20), random(5, 4, seed=1), random(9, 20, seed=2), random(9, 4, seed=3)
    assert float(frepo_loss(*case, reg)) == pytest.approx(by_hand(*case, reg), rel=1e-6)


def test_on_raw_pixels_it_is_ridge_regression_of_pixels():
    """sklearn's, with its own solver."""
    from sklearn.linear_model import Ridge
    synthetic, real = random(6, 3, 5, 5).flatten(1), random(8, 3, 5, 5, seed=1).flatten(1)
    labels, real_labels = 100 * random(6, 4, seed=2), random(8, 4, seed=3)      # so that each margin counts as 1 / 4
    strength = 0.1 * float((synthetic @ synthetic.T).trace()) / 6
    ridge = Ridge(alpha=strength, fit_intercept=False, solver="svd", tol=1e-12).fit(synthetic.numpy(), labels.numpy())
    wanted = 0.5 * ((ridge.predict(real.numpy()) - real_labels.numpy()) ** 2).sum(1).mean() - 0.25
    assert float(frepo_loss(synthetic, labels, real, real_labels, 0.1)) == pytest.approx(wanted, rel=1e-6)


def test_real_clips_that_are_the_synthetic_ones_cost_nothing_as_the_ridge_goes_to_zero():
    clips, labels = random(5, 20), centred(torch.tensor([0, 1, 2, 3, 0]), 4).double()
    losses = [float(frepo_loss(clips, labels, clips, labels, reg)) + 0.25 for reg in (1e-1, 1e-3, 1e-6)]
    assert losses[0] > losses[1] > losses[2] and losses[2] == pytest.approx(0, abs=1e-6)


def test_float32_features_are_regressed_in_float64():
    """Two clips that differ by a hundredth of a percent: in float32 the solution would be noise."""
    synthetic = random(2, 500)
    synthetic[1] = synthetic[0] + 1e-4 * random(500, seed=1)
    case = synthetic.float().double(), random(2, 3, seed=2), random(4, 500, seed=3), random(4, 3, seed=4)
    small = [x.float() for x in case]
    assert float(frepo_loss(*small, 1e-9)) == pytest.approx(
        by_hand(*(x.double() for x in small), 1e-9), rel=1e-4)


@pytest.mark.parametrize("chunk", [1, 4, 5, 50])
def test_the_gradient_is_exact_in_chunks(chunk):
    with seeded(0):
        network = NETWORKS[NET](SPEC).double().eval()
    synset = StaticDynamicSet(3, 2, 4, 2, (4, 3, 16, 16), label_kind="centred", learn_labels=True).double()
    for value in synset.parameters():
        value.data = random(*value.shape)
    parameters = list(synset.parameters())
    real, real_labels = random(7, network.embed(torch.zeros(1, 4, 3, 16, 16).double()).shape[1]), random(7, 3, seed=1)

    def render():
        return synset.render(*all_pairs(synset), make_generator(3))

    clips, labels = render()
    wanted = torch.autograd.grad(frepo_loss(network.embed(clips), labels, real, real_labels, 1e-3), parameters)
    clips, labels = render()
    loss = frepo_gradient(network.embed, clips, labels, real, real_labels, 1e-3, chunk)
    for value, gradient in zip(parameters, wanted, strict=True):
        torch.testing.assert_close(value.grad, gradient, rtol=1e-6, atol=1e-9)
        assert gradient.abs().max() > 0
    assert not loss.requires_grad


def test_the_gradient_matches_finite_differences():
    case = [random(4, 10), random(4, 3, seed=1), random(6, 10, seed=2), random(6, 3, seed=3)]
    for which in (0, 1):
        value = case[which].clone().requires_grad_()
        gradient, = torch.autograd.grad(frepo_loss(*case[:which], value, *case[which + 1:], 0.05).double(), value)
        direction, sides = random(*value.shape, seed=7), []
        for sign in (1, -1):
            moved = case[which] + sign * 1e-3 * direction
            sides.append(by_hand(*case[:which], moved, *case[which + 1:], 0.05))
        assert float((gradient * direction).sum()) == pytest.approx((sides[0] - sides[1]) / 2e-3, rel=1e-3)


def test_features_that_are_all_alike_are_named():
    with pytest.raises(ValueError, match="lower --lr_pool, or raise --reg"):
        frepo_loss(torch.zeros(3, 5), random(3, 4), random(2, 5), random(2, 4), 1e-6)


# ---- the pool -----------------------------------------------------------------------------------------------------

def test_networks_of_a_pool_are_renewed_at_different_times():
    made = []

    def make(number, births):
        made.append((number, births))
        return torch.nn.Linear(2, 2)

    pool = Pool(make, 4, 8, 0.1)
    assert pool.updates == [0, 2, 4, 6] and made == [(0, 0), (1, 0), (2, 0), (3, 0)]
    drawn = {pool.draw(make_generator(i)) for i in range(60)}
    assert drawn == {0, 1, 2, 3}
    pool.updates[3] = 8
    assert pool.is_spent(3) and not pool.is_spent(2)
    old = pool[3]
    pool.renew(3)
    assert made[-1] == (3, 1) and pool[3] is not old and pool.updates == [0, 2, 4, 0]
    assert pool.optimizers[3].param_groups[0]["params"][0] is pool[3].weight


def test_a_pool_goes_on_from_its_state():
    def make(number, births):
        with seeded(10 * number + births):
            return torch.nn.Linear(3, 2)

    def train(pool, steps):
        for _ in range(steps):
            pool.optimizers[1].zero_grad()
            pool[1](torch.ones(1, 3)).square().sum().backward()
            pool.optimizers[1].step()
            pool.updates[1] += 1

    whole, first, second = (Pool(make, 2, 9, 0.1) for _ in range(3))
    whole.renew(0)
    train(whole, 4)
    first.renew(0)
    train(first, 2)
    second.load_state_dict(first.state_dict())
    train(second, 2)
    for a, b in zip(whole.networks, second.networks, strict=True):
        assert torch.equal(a.weight, b.weight)
    assert (whole.births, whole.updates) == (second.births, second.updates) == ([1, 0], [0, 8])


# ---- the script ---------------------------------------------------------------------------------------------------

def test_a_stopped_run_goes_on_with_its_pool(script, monkeypatch):
    """Networks are renewed before and after the stop."""
    flags = {"Iteration": 7, "eval_it": 4, "decay_it": 5}
    whole = script("S2D-FRePo", "whole", **flags)
    for call in (3, 6):
        break_off(monkeypatch, script, "S2D-FRePo", "log", call, **flags)
        assert content(script("S2D-FRePo", "broken", "--resume", **flags)) == content(whole)
        (whole.parent / "broken" / "checkpoint.pt").unlink()
        (whole.parent / "broken" / "result.json").unlink()
        (whole.parent / "broken" / "synset.safetensors").unlink()


def test_labels_are_learned_and_networks_trained_on_them(script, monkeypatch):
    steps, pool_step = [], distill_FRePo.pool_step

    def step(network, optimizer, clips, rows, count, dtype):
        assert network.training and all(value.requires_grad for value in network.parameters())
        before = copy.deepcopy(network)
        torch.manual_seed(5)
        pool_step(network, optimizer, clips, rows, count, dtype)
        torch.manual_seed(5)        # the loss is 0.5 * the sum over classes, in the mean over clips
        loss = 0.5 * (in_precision(before, dtype)(clips) - rows).square().sum(1).mean()
        wanted = torch.autograd.grad(loss, list(before.parameters()))
        for parameter, gradient in zip(network.parameters(), wanted, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)
        steps.append(count)

    with monkeypatch.context() as patch:
        patch.setattr(distill_FRePo, "pool_step", step)
        synset, header = load_synset(script("FRePo", "set", pool=1, pool_updates=9) / "synset.safetensors")
    assert steps == [3] * 4         # --batch_pool
    assert synset.label_kind == "centred" and header["recipe"]["loss"] == "mse"
    start = centred(torch.arange(10), 10)
    assert not torch.equal(synset.labels, start) and (synset.labels - start).abs().max() < 0.1
    assert torch.equal(rows_of(torch.arange(10), 10), start)


def test_mirrored_clips_are_refused_where_clips_are_never_flipped(script, monkeypatch):
    from distill_utils import dataset
    assert json.loads((script("FRePo", "both", "--use_flip") / "result.json").read_text())["method"] == "FRePo"
    spec = dataset.DATASETS["MotionDigits"]
    monkeypatch.setitem(dataset.DATASETS, "MotionDigits",
                        type(spec)(**{**vars(spec), "flip": False}))
    with pytest.raises(ValueError, match="--use_flip: clips of --dataset MotionDigits are never flipped"):
        script("FRePo", "never", "--use_flip")
