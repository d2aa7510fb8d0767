"""The losses: pure functions of tensors and networks."""
from contextlib import contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch.func import functional_call

DISTANCES = ("ours", "mse", "cos")
UNROLLS = ("adjoint", "full")


def class_means(embed, clips):
    """Mean embedding of each class: embed (B, ...) -> (B, D), clips (K, N, ...) -> (K, D)."""
    return embed(clips.flatten(0, 1)).unflatten(0, clips.shape[:2]).mean(1)


def dm_loss(embed, real_means, synthetic):
    """Squared distance between the class means of embeddings, summed over classes.

    embed: (B, T, C, H, W) -> (B, D). real_means (K, D): `class_means` of real clips. synthetic: (K, S, T, C, H, W).
    Returns a scalar. All classes go through one forward pass, which equals a loop over classes because the networks
    that DM draws have no layer that mixes samples.
    Zhao and Bilen, "Dataset Condensation with Distribution Matching", arXiv 2110.04181, eq. 4.
    """
    return (class_means(embed, synthetic) - real_means).square().sum()


def chunked_gradient(loss_of, clips, chunk):
    """Backpropagates a loss that is a sum over classes into whatever `clips` (K, S, T, C, H, W) were rendered from;
    returns the loss, detached.

    loss_of(clips of some classes, classes: range) -> scalar. Only `chunk` classes are held as floats and as a graph at
    a time: the gradient with respect to the clips is gathered chunk by chunk, and is exact.
    """
    leaf = clips.detach().requires_grad_()
    total = 0
    for first in range(0, len(clips), chunk):
        classes = range(first, min(first + chunk, len(clips)))
        loss = loss_of(leaf[first:classes.stop], classes)
        loss.backward()
        total = total + loss.detach()
    clips.backward(leaf.grad)
    return total


def gradients(network, samples, targets, create_graph=False):
    """Gradients of the cross-entropy with respect to the network's parameters, a tuple of tensors.

    targets: what a set's `render` gives, class numbers (B,) or rows (B, K) that sum to 1.
    """
    loss = F.cross_entropy(network(samples), targets)
    return torch.autograd.grad(loss, tuple(network.parameters()), create_graph=create_graph)


def _batchnorms(network):
    return [module for module in network.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]


def has_batchnorm(network):
    return bool(_batchnorms(network))


@torch.no_grad()
def freeze_batchnorm(network, images):
    """Sets the statistics of batch norm layers from a batch of all classes, then keeps them: gradients of one class at
    a time would otherwise see the statistics of that class."""
    network.train()
    network(images)
    for module in _batchnorms(network):
        module.eval()


def freeze_dropout(network):
    """Switches dropout off until `network.train()`: the gradients of real and synthetic samples would differ by their
    masks alone."""
    for module in network.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.eval()


def dc_loss(real, synthetic, distance="ours"):
    """Distance between two lists of gradients, summed over layers. Returns a scalar.

    "ours": 1 - cosine for each output channel, for weights only (biases and norm gains, one number a channel, have no
    direction to compare). "mse" and "cos" take all gradients as one vector.
    Zhao, Mopuri and Bilen, "Dataset Condensation with Gradient Matching", arXiv 2006.05929, eq. 9 and section 3.
    """
    if distance == "ours":
        loss = 0
        for a, b in zip(real, synthetic, strict=True):
            if a.dim() > 1:
                loss = loss + (1 - _cosine(a.flatten(1), b.flatten(1))).sum()
        return loss
    a, b = (torch.cat([g.flatten() for g in grads]) for grads in (real, synthetic))
    if distance == "mse":
        return (a - b).square().sum()
    if distance == "cos":
        return 1 - _cosine(a, b)
    raise ValueError(f"unknown --dis_metric {distance!r}: choose one of {', '.join(DISTANCES)}")


def _cosine(a, b, eps=1e-6):
    """Cosine along the last dimension. eps is added to the product of the norms, as in DC: a channel whose gradient is
    zero then costs 1 and has a finite derivative."""
    return (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1) + eps)


def student_loss(network, theta, clips, targets):
    """Cross-entropy of `network` with theta in place of its own parameters, differentiable twice in theta and clips.

    theta: tuple of tensors in the order of `network.parameters()`, as trajectories are stored. targets: class numbers
    (B,) or rows (B, K). Returns a scalar.
    """
    names = (name for name, _ in network.named_parameters())
    return F.cross_entropy(functional_call(network, dict(zip(names, theta, strict=True)), (clips,)), targets)


def mtt_gradient(step_loss, start, target, steps, lr, parameters, unroll="adjoint"):
    """Trajectory matching: (loss, gradients of the parameters, gradient of lr), all without a graph.

    The student takes `steps` SGD steps theta <- theta - lr * grad step_loss(theta, i) from `start`; the loss is
    ||theta_N - target||^2 / ||start - target||^2. step_loss(theta, i): the scalar loss on synthetic batch i, with a
    graph to theta and to the parameters. start, target, theta: tuples of tensors in network order. lr: scalar tensor.
    parameters: leaf tensors of the synthetic set; one that no batch renders gets zeros.

    unroll "adjoint" keeps theta_0 ... theta_N-1 as numbers and walks back with one step's graph at a time, for any N.
    It calls step_loss twice for each i but the last, and both calls must draw the same slots and the same dropout mask.
    "full" keeps the graphs of all steps. Both are exact and agree to rounding error. Raises ValueError where the loss
    is 0 / 0.
    Cazenavette et al., "Dataset Distillation by Matching Training Trajectories", arXiv 2203.11932, eq. 2.
    """
    if unroll not in UNROLLS:
        raise ValueError(f"unknown unroll {unroll!r}: choose one of {', '.join(UNROLLS)}")
    start, target = (tuple(tensor.detach() for tensor in tensors) for tensors in (start, target))
    scale = float(_squared_distance(start, target))     # where they are: no waiting for the device of the set
    start, target = (tuple(tensor.to(lr.device, non_blocking=True) for tensor in tensors)
                     for tensors in (start, target))
    if scale == 0:
        raise ValueError("start and target hold the same weights, so the loss ||theta_N - target||^2 / ||start - "
                         "target||^2 is 0 / 0: take a target that is later on the trajectory, or another expert")
    walk = _adjoint if unroll == "adjoint" else _full_unroll
    distance, gradients, lr_gradient = walk(step_loss, start, target, steps, lr.detach(), tuple(parameters))
    return distance / scale, tuple(gradient / scale for gradient in gradients), lr_gradient / scale


@contextmanager
def _without_graph(parameters):
    """Where the set is rendered for its values alone."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _adjoint(step_loss, start, target, steps, lr, parameters):
    """Squared distance of theta_N from target and its gradients; back from adjoint = d distance / d theta_N by

        s = <adjoint, grad step_loss(theta_i, i)>,  d/d parameters -= lr ds/d parameters,  d/d lr -= s,
        adjoint <- adjoint - lr ds/d theta_i.

    s is differentiated in reverse over reverse. Reverse over forward (dual numbers) is no faster, and in torch 2.14 it
    fails for cross_entropy and gives wrong derivatives for batch and layer norm without a word.
    """
    trajectory, theta = [], start
    for i in range(steps):
        trajectory.append(tuple(tensor.requires_grad_() for tensor in theta))
        last = i == steps - 1       # walked back next: its graph is kept, and those of the others are made again
        with nullcontext() if last else _without_graph(parameters):
            step = torch.autograd.grad(step_loss(trajectory[-1], i), trajectory[-1], create_graph=last)
        theta = tuple(tensor.detach() - lr * change.detach() for tensor, change in zip(theta, step, strict=True))
    distance = _squared_distance(theta, target)
    adjoint = tuple(2 * (a - b) for a, b in zip(theta, target, strict=True))
    gradients, lr_gradient = [torch.zeros_like(tensor) for tensor in parameters], torch.zeros_like(lr)
    for i in reversed(range(steps)):
        theta = trajectory.pop()
        if i < steps - 1:
            step = torch.autograd.grad(step_loss(theta, i), theta, create_graph=True)
        s = sum((a * b).sum() for a, b in zip(adjoint, step, strict=True))
        back = torch.autograd.grad(s, (*theta, *parameters), materialize_grads=True)
        lr_gradient -= s.detach()
        adjoint = tuple(a - lr * b for a, b in zip(adjoint, back, strict=False))
        for gradient, change in zip(gradients, back[len(theta):], strict=True):
            gradient -= lr * change
    return distance, gradients, lr_gradient


def _full_unroll(step_loss, start, target, steps, lr, parameters):
    """The same by one graph of all steps and one backward pass: what `_adjoint` is tested against."""
    theta, lr = tuple(tensor.requires_grad_() for tensor in start), lr.requires_grad_()
    for i in range(steps):
        step = torch.autograd.grad(step_loss(theta, i), theta, create_graph=True)
        theta = tuple(tensor - lr * change for tensor, change in zip(theta, step, strict=True))
    distance = _squared_distance(theta, target)
    *gradients, lr_gradient = torch.autograd.grad(distance, (*parameters, lr), materialize_grads=True)
    return distance.detach(), gradients, lr_gradient


def _squared_distance(theta, target):
    return sum((a - b).square().sum() for a, b in zip(theta, target, strict=True))


def add_gradients(parameters, gradients, share=1.0):
    """Adds the share of each gradient to `grad` of its parameter."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        gradient = share * gradient
        parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
