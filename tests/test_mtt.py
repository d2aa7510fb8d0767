"""The trajectory matching gradient: the adjoint against the full unroll, finite differences and a naive loop."""
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from distill_utils.matching import UNROLLS, mtt_gradient, student_loss
from distill_utils.seeds import derive_seed, make_generator, seeded
from distill_utils.synset import ImageSet, StaticDynamicSet, VideoSet, all_pairs
from networks import NETWORKS, modality

NET = "ConvNet3DD2W16"
SPEC = SimpleNamespace(num_classes=2, frames=3, size=8, channels=3)
SHAPE = (SPEC.frames, SPEC.channels, SPEC.size, SPEC.size)
SETS = {"pixels": partial(VideoSet, 2, 2, SHAPE),
        "images": partial(ImageSet, 2, 2, SHAPE[1:]),
        "s2d": partial(StaticDynamicSet, 2, 2, 4, 2, SHAPE),
        "s2d, two hallucinators": partial(StaticDynamicSet, 2, 2, 4, 2, SHAPE, n_hal=2),
        "learned labels": partial(VideoSet, 2, 2, SHAPE, label_kind="logits", learn_labels=True)}
KINDS = ["pixels", "s2d", "s2d, two hallucinators", "learned labels"]
close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-12)


def noise(tensor, *purpose):
    return torch.randn(tensor.shape, generator=make_generator(*purpose), dtype=torch.float64)


def make_network(name=NET, seed=0):
    with seeded(seed):
        return NETWORKS[name](SPEC).double()


class Problem:
    """A student, a target a few noisy steps away, and a synthetic set of which each step sees another three clips."""

    def __init__(self, kind="pixels", network=NET, dropout=True, batch=3):
        self.network = make_network(network).train(dropout)
        self.synset = SETS[kind]().double()
        for name, tensor in self.synset.named_parameters():
            tensor.data = noise(tensor, name) * (0.3 if name.startswith("hallucinators") else 1)
        self.parameters = tuple(self.synset.parameters())
        self.start = tuple(tensor.detach().clone() for tensor in self.network.parameters())
        self.target = tuple(tensor + 0.003 * noise(tensor, i) for i, tensor in enumerate(self.start))
        self.lr, self.batch = torch.tensor(0.05, dtype=torch.float64), batch

    def inputs(self, i):
        """Synthetic batch i: (clips, labels), slots and hallucinators drawn."""
        classes, slots = all_pairs(self.synset)
        generator = make_generator("batch", i)
        chosen = torch.randperm(len(classes), generator=generator)[:self.batch]
        return self.synset.render(classes[chosen], slots[chosen], generator)

    def step_loss(self, theta, i):
        with seeded(derive_seed("dropout", i)):
            return student_loss(self.network, theta, *self.inputs(i), self.loss_of)

    def loss_of(self, logits, targets):
        return F.cross_entropy(logits, targets if targets.dim() == 1 else targets.softmax(1))

    def gradient(self, steps, unroll="adjoint", match="last"):
        return mtt_gradient(self.step_loss, self.start, self.target, steps, self.lr, self.parameters, unroll, match)

    def naive_loss(self, steps):
        """Plain SGD on the network's own parameters."""
        network = self.network
        with torch.no_grad():
            for tensor, value in zip(network.parameters(), self.start, strict=True):
                tensor.copy_(value)
        for i in range(steps):
            clips, labels = self.inputs(i)
            with seeded(derive_seed("dropout", i)):
                loss = self.loss_of(network(clips.detach()), labels.detach())
            network.zero_grad()
            loss.backward()
            with torch.no_grad():
                for tensor in network.parameters():
                    tensor -= self.lr * tensor.grad
        end = torch.cat([tensor.detach().flatten() for tensor in network.parameters()])
        start, target = (torch.cat([tensor.flatten() for tensor in side]) for side in (self.start, self.target))
        return (end - target).norm() ** 2 / (start - target).norm() ** 2


def check_finite_differences(problem, steps, directions=2, eps=1e-6):
    """The gradients, along random directions of each parameter and along lr, against differences of the naive loop."""
    _, gradients, lr_gradient = problem.gradient(steps)
    cases = [(problem.lr, lr_gradient, torch.ones_like(problem.lr))]
    for j, (tensor, gradient) in enumerate(zip(problem.parameters, gradients, strict=True)):
        assert gradient.abs().max() > 0
        cases += [(tensor.data, gradient, noise(tensor, "direction", j, k)) for k in range(directions)]
    for tensor, gradient, direction in cases:
        values = []
        for shift in (eps, -2 * eps, eps):      # the third one puts the tensor back
            tensor += shift * direction
            values.append(problem.naive_loss(steps))
        exact = (gradient * direction).sum()
        torch.testing.assert_close((values[0] - values[1]) / (2 * eps), exact, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("steps", [1, 2, 10])
@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_adjoint_equals_the_full_unroll(kind, dropout, steps):
    problem = Problem(kind, dropout=dropout)
    adjoint, full = problem.gradient(steps), problem.gradient(steps, "full")
    close(adjoint, full)
    close(adjoint[0], problem.naive_loss(steps))
    assert all(gradient.abs().max() > 0 for gradient in (*full[1], full[2]))
    assert not any(tensor.requires_grad for tensor in (adjoint[0], *adjoint[1], adjoint[2]))


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_adjoint_equals_finite_differences(kind, dropout, steps):
    check_finite_differences(Problem(kind, dropout=dropout), steps)


@pytest.mark.parametrize("nearest", [1, 2, 4])
def test_the_nearest_step_is_matched(nearest):
    """The target is near a step that the student passes: the gradients are those of so many steps."""
    problem = Problem("s2d")
    theta = problem.start
    for i in range(nearest):
        theta = tuple(tensor.detach().requires_grad_() for tensor in theta)
        step = torch.autograd.grad(problem.step_loss(theta, i), theta)
        theta = tuple(tensor - problem.lr * change for tensor, change in zip(theta, step, strict=True))
    problem.target = tuple(tensor.detach() + 1e-6 * noise(tensor, i) for i, tensor in enumerate(theta))
    wanted = problem.gradient(nearest)
    for unroll in UNROLLS:
        close(problem.gradient(4, unroll, "nearest"), wanted)
    assert nearest == 4 or problem.gradient(4)[0] > 10 * wanted[0]


@pytest.mark.parametrize("network", ["ConvNet3D", "ConvNet3DW16", "ConvNet3DD1", "VideoConvNetMeanW32",
                                     "VideoConvNetMLPW32", "VideoConvNetRNNW32", "VideoConvNetLSTMW32",
                                     "VideoConvNetGRUW32", "MLP", "ConvNetD3W32", "ConvNetBN", "ConvNetLN", "ConvNetAS",
                                     "ConvNetMP"])
def test_networks(network):
    """Both unrolls rest on torch's second derivatives of the layers, so each kind is held against differences too."""
    problem = Problem("pixels" if modality(network) == "video" else "images", network)
    close(problem.gradient(2), problem.gradient(2, "full"))
    check_finite_differences(problem, 2, directions=1)


def test_dropout_is_drawn_anew_each_step_and_the_same_on_both_passes():
    problem = Problem()
    problem.inputs = lambda i: problem.synset.render(*all_pairs(problem.synset))    # only masks differ between steps
    losses = [problem.step_loss(problem.start, i).item() for i in (0, 1, 0)]
    assert losses[0] != losses[1] and losses[0] == losses[2]
    problem.network.eval()
    assert problem.step_loss(problem.start, 0) == problem.step_loss(problem.start, 1) != losses[0]


def test_each_step_sees_its_own_batch():
    """Clip k of class 0 is rendered in step k alone, so its gradient vanishes where fewer steps are taken."""
    problem = Problem()
    problem.inputs = lambda i: problem.synset.render(torch.tensor([0, 1]), torch.tensor([i, 1]))
    one, two = (problem.gradient(steps)[1][0] for steps in (1, 2))
    assert one[0].abs().max() > 0 == one[1].abs().max() and two[1].abs().max() > 0
    close(two, problem.gradient(2, "full")[1][0])


@pytest.mark.parametrize("unroll", UNROLLS)
def test_a_parameter_that_no_batch_renders_gets_zeros(unroll):
    problem = Problem("s2d")
    unused = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    problem.parameters += (unused,)
    kept = problem.inputs
    problem.inputs = lambda i: kept(i) if i else (torch.ones(1, *SHAPE, dtype=torch.float64), torch.tensor([0]))
    gradients = problem.gradient(2, unroll)[1]      # step 0 renders nothing at all, step 1 the set
    assert torch.equal(gradients[-1], torch.zeros_like(unused))
    assert all(gradient.abs().max() > 0 for gradient in gradients[:-1])


def test_nothing_of_the_caller_changes():
    problem = Problem()
    tensors = (*problem.start, *problem.target, problem.lr, *problem.parameters, *problem.network.parameters())
    before = [(tensor.detach().clone(), tensor.requires_grad, tensor.grad) for tensor in tensors]
    for unroll in UNROLLS:
        problem.gradient(2, unroll)
    for tensor, (value, requires_grad, grad) in zip(tensors, before, strict=True):
        assert torch.equal(tensor, value) and tensor.requires_grad == requires_grad and tensor.grad is grad is None


def peak_saved_bytes(problem, steps, unroll):
    """Highest number of bytes that graphs hold at a time, beyond the tensors that exist anyway."""
    live = peak = 0

    class Saved:
        def __init__(self, tensor):
            nonlocal live, peak
            self.tensor = tensor
            live += tensor.nbytes
            peak = max(peak, live)

        def __del__(self):
            nonlocal live
            live -= self.tensor.nbytes

    with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
        problem.gradient(steps, unroll)
    return peak


def test_the_adjoint_holds_one_graph_for_any_number_of_steps():
    problem = Problem("s2d")
    adjoint = [peak_saved_bytes(problem, steps, "adjoint") for steps in (1, 2, 8)]
    full = [peak_saved_bytes(problem, steps, "full") for steps in (1, 2, 8)]
    assert adjoint[2] <= 1.01 * adjoint[1] and adjoint[1] <= 1.01 * adjoint[0] <= 1.1 * full[0]
    assert full[2] > 3.5 * full[1] > 6 * full[0]


def test_an_unknown_match_lists_the_choices():
    with pytest.raises(ValueError, match="unknown match 'all': choose one of last, nearest"):
        Problem().gradient(1, match="all")


def test_an_unknown_unroll_lists_the_choices():
    with pytest.raises(ValueError, match="'tesla'.* adjoint, full"):
        Problem().gradient(1, "tesla")


@pytest.mark.parametrize("unroll", UNROLLS)
def test_a_target_equal_to_the_start_says_what_to_do(unroll):
    problem = Problem()
    problem.target = problem.start
    with pytest.raises(ValueError, match="same weights.*take a target"):
        problem.gradient(1, unroll)


def test_theta_of_another_network_is_refused():
    problem = Problem()
    with pytest.raises(ValueError, match="zip"):
        problem.step_loss(problem.start[:-1], 0)
