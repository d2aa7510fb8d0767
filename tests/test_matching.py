"""The losses against naive loops and finite differences."""
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from distill_utils.matching import (
    DISTANCES,
    chunked_gradient,
    class_means,
    dc_loss,
    diversity_loss,
    dm_loss,
    embed_classes,
    freeze_batchnorm,
    freeze_dropout,
    gradients,
    mmd_loss,
)
from distill_utils.synset import StaticDynamicSet, VideoSet, all_pairs
from networks import NETWORKS

SPEC = SimpleNamespace(num_classes=3, frames=4, size=16, channels=3)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return NETWORKS["ConvNet3DD2W16"](SPEC).double()


def clips(k, n, seed=0):
    return torch.randn(k, n, 4, 3, 16, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive_dm(embed, real, synthetic):
    """The published loop: one class at a time, one clip at a time."""
    loss = 0
    for k in range(len(real)):
        a = sum(embed(clip[None])[0] for clip in real[k]) / len(real[k])
        b = sum(embed(clip[None])[0] for clip in synthetic[k]) / len(synthetic[k])
        loss = loss + ((a - b) ** 2).sum()
    return loss


def test_dm_loss_equals_the_loop_over_classes(network):
    real, synthetic = clips(3, 5), clips(3, 2, seed=1).requires_grad_()
    loss = dm_loss(network.embed, class_means(network.embed, real), synthetic)
    naive = naive_dm(network.embed, real, synthetic)
    torch.testing.assert_close(loss, naive)
    torch.testing.assert_close(torch.autograd.grad(loss, synthetic), torch.autograd.grad(naive, synthetic))


def test_mmd_is_the_mean_of_all_kernels(network):
    """By a loop over pairs, with the kernel as it is usually written; two samples that are one cost nothing."""
    real, synthetic = clips(3, 4), clips(3, 2, seed=1).requires_grad_()
    loss, naive = mmd_loss(network.embed, embed_classes(network.embed, real), synthetic), 0

    def kernel(a, b):
        a, b = a / a.norm(), b / b.norm()
        return (-(a - b).square().sum() / 2).exp()

    for k in range(3):
        r, s = ([network.embed(clip[None])[0] for clip in part[k]] for part in (real, synthetic))
        naive = naive + sum(kernel(a, b) for a in r for b in r) / 16 + sum(kernel(a, b) for a in s for b in s) / 4
        naive = naive - 2 * sum(kernel(a, b) for a in r for b in s) / 8
    torch.testing.assert_close(loss, naive)
    torch.testing.assert_close(torch.autograd.grad(loss, synthetic), torch.autograd.grad(naive, synthetic))
    same = mmd_loss(network.embed, embed_classes(network.embed, real), real)
    assert abs(same.item()) < 1e-12 < loss.item()


def test_diversity_is_the_mean_cosine_of_all_pairs():
    features = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    naive = [torch.cosine_similarity(features[i, b], features[j, b], 0)
             for i in range(3) for j in range(i) for b in range(5)]
    torch.testing.assert_close(diversity_loss(features), sum(naive) / len(naive))


def dm(network, real):
    """What DM gives `chunked_gradient`."""
    return lambda synthetic, classes: dm_loss(network.embed, class_means(network.embed, real[classes]), synthetic)


@pytest.mark.parametrize("chunk", [1, 2, 3, 7])
@pytest.mark.parametrize("kind", ["pixels", "s2d"])
def test_the_chunked_gradient_is_exact_for_every_chunk(network, kind, chunk):
    if kind == "pixels":
        synset = VideoSet(3, 2, (4, 3, 16, 16)).double()
    else:
        synset = StaticDynamicSet(3, 2, 4, 2, (4, 3, 16, 16), n_hal=2).double()
    for i, tensor in enumerate(synset.parameters()):
        tensor.data = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(i), dtype=torch.float64)
    real = clips(3, 5)

    def render():
        return synset.render(*all_pairs(synset), torch.Generator().manual_seed(7))[0].unflatten(0, (3, 2))

    wanted = naive_dm(network.embed, real, render())
    grads = torch.autograd.grad(wanted, list(synset.parameters()))
    loss = chunked_gradient(dm(network, real), render(), chunk)
    torch.testing.assert_close(loss, wanted.detach())
    for tensor, grad in zip(synset.parameters(), grads, strict=True):
        torch.testing.assert_close(tensor.grad, grad)


def test_the_chunked_gradient_matches_finite_differences(network):
    synset, real = StaticDynamicSet(3, 1, 1, 1, (4, 3, 16, 16)).double(), clips(3, 2)
    for i, tensor in enumerate(synset.parameters()):
        tensor.data = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(i), dtype=torch.float64)

    def loss():
        rendered = synset.render(*all_pairs(synset))[0][:, None]
        return chunked_gradient(dm(network, real), rendered, 2)

    loss()
    for name, tensor in synset.named_parameters():
        direction = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
        exact, eps = (tensor.grad * direction).sum(), 1e-6
        with torch.no_grad():
            kept = tensor.clone()
        values = []
        for sign in (1, -1):
            tensor.data = kept + sign * eps * direction
            values.append(loss())
        tensor.data = kept
        torch.testing.assert_close((values[0] - values[1]) / (2 * eps), exact, rtol=1e-5, atol=1e-7, msg=name)
        synset.zero_grad()
        loss()


def naive_dc(real, synthetic, distance):
    if distance == "ours":
        loss = 0
        for a, b in zip(real, synthetic, strict=True):
            if a.dim() == 1:
                continue
            for row_a, row_b in zip(a.reshape(len(a), -1), b.reshape(len(b), -1), strict=True):
                loss += 1 - (row_a @ row_b) / (row_a.norm() * row_b.norm() + 1e-6)
        return loss
    a, b = (torch.cat([g.reshape(-1) for g in grads]) for grads in (real, synthetic))
    return ((a - b) ** 2).sum() if distance == "mse" else 1 - (a @ b) / (a.norm() * b.norm() + 1e-6)


@pytest.mark.parametrize("distance", DISTANCES)
def test_dc_loss_equals_the_loop_over_channels(distance):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).double()
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    real = gradients(network, torch.randn(5, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1]))
    actual = gradients(network, images, torch.tensor([0, 1]), create_graph=True)
    loss, naive = dc_loss(real, actual, distance), naive_dc(real, actual, distance)
    torch.testing.assert_close(loss, naive)
    torch.testing.assert_close(torch.autograd.grad(loss, images, retain_graph=True), torch.autograd.grad(naive, images))
    same = dc_loss(real, real, distance)
    assert abs(same.item()) < 1e-3 < loss.item()


def test_dc_loss_gradient_reaches_the_images_by_finite_differences():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Sigmoid(), nn.Linear(5, 2)).double()
    labels, images = torch.tensor([0, 1]), torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    real = gradients(network, torch.randn(4, 3, 2, 2, dtype=torch.float64), torch.tensor([0, 1, 0, 1]))
    assert torch.autograd.gradcheck(lambda x: dc_loss(real, gradients(network, x, labels, True)), images)


def test_a_gradient_of_zero_gives_a_finite_loss():
    zero, some = [torch.zeros(2, 3, requires_grad=True)], [torch.randn(2, 3)]
    loss = dc_loss(some, zero)
    assert torch.isfinite(torch.autograd.grad(loss, zero)[0]).all() and loss.item() == 2


def test_unknown_distance_lists_the_choices():
    with pytest.raises(ValueError, match="ours, mse, cos"):
        dc_loss([torch.ones(2, 2)], [torch.ones(2, 2)], "l3")


def test_batch_norm_is_frozen_at_the_statistics_of_all_classes():
    network = nn.Sequential(nn.BatchNorm1d(2, momentum=1.0))
    freeze_batchnorm(network, torch.tensor([[0.0, 1.0], [2.0, 3.0]]))
    assert network[0].running_mean.tolist() == [1.0, 2.0]
    before = network[0].running_mean.clone()
    network(torch.full((4, 2), 9.0))
    assert torch.equal(network[0].running_mean, before)


def test_with_dropout_frozen_a_batch_has_the_gradients_of_itself():
    network = NETWORKS["ConvNet3DD2W16"](SPEC).double().train()
    samples, labels = clips(1, 4)[0], torch.tensor([0, 1, 2, 0])
    for frozen in (False, True):
        if frozen:
            freeze_dropout(network)
        once, again = (gradients(network, samples, labels) for _ in range(2))
        assert all(map(torch.equal, once, again)) == frozen
    assert network.train().dropout.training
