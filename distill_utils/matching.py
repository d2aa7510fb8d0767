"""The losses: pure functions of tensors and networks."""
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
import torch.nn.functional as F
from torch.func import functional_call

DISTANCES = ("ours", "mse", "cos")
UNROLLS = ("adjoint", "full")
KERNELS = ("mean", "gaussian")
MATCHES = ("last", "nearest")


def class_means(embed, clips):
    """Mean embedding of each class: embed (B, ...) -> (B, D), clips (K, N, ...) -> (K, D)."""
    return embed_classes(embed, clips).mean(1)


def dm_loss(embed, real_means, synthetic):
    """Squared distance between the class means of embeddings, summed over classes.

    embed: (B, T, C, H, W) -> (B, D). real_means (K, D): `class_means` of real clips. synthetic: (K, S, T, C, H, W).
    Returns a scalar. All classes go through one forward pass, which equals a loop over classes because the networks
    that DM draws have no layer that mixes samples.
    Zhao and Bilen, "Dataset Condensation with Distribution Matching", arXiv 2110.04181, eq. 4.
    """
    return (class_means(embed, synthetic) - real_means).square().sum()


def embed_classes(embed, clips):
    """Embeddings of the clips of each class: embed (B, ...) -> (B, D), clips (K, N, ...) -> (K, N, D)."""
    return embed(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])


def mmd_loss(embed, real, synthetic):
    """Squared maximum mean discrepancy of unit embeddings, summed over classes: mean k(r, r') + mean k(s, s')
    - 2 mean k(r, s) with the Gaussian kernel exp(-|a - b|^2 / 2), which of unit vectors is exp(cosine - 1).

    embed: (B, T, C, H, W) -> (B, D). real (K, R, D): `embed_classes` of real clips. synthetic (K, S, T, C, H, W).
    Returns a scalar. Gretton et al., "A Kernel Two-Sample Test", JMLR 13 (2012), eq. 5; it is twice the loss of NCFM
    (arXiv 2502.20653) without its root and its learned frequencies.
    """
    r, s = (F.normalize(features, dim=-1) for features in (real, embed_classes(embed, synthetic)))

    def mean_kernel(a, b):
        return (a @ b.mT - 1).exp().mean((1, 2))

    return (mean_kernel(r, r) + mean_kernel(s, s) - 2 * mean_kernel(r, s)).sum()


def diversity_loss(features):
    """Mean cosine of the features of one and the same clip under each two of several hallucinators: features
    (hallucinators, B, D). HaBa pushes them apart by it: Liu et al., "Dataset Distillation via Factorization", NeurIPS
    2022, arXiv 2210.16774."""
    unit = F.normalize(features, dim=-1)
    first, second = torch.triu_indices(len(unit), len(unit), offset=1)
    return (unit[first] * unit[second]).sum(-1).mean()


def classes_at_once(chunk, slots):
    """Of how many classes synthetic clips are in memory at a time: with what its gradient needs, a clip takes some
    eight times as much as one of `chunk` that is embedded alone. slots: clips of a class."""
    return max(1, chunk // (8 * slots))


def chunked_gradient(loss_of, clips, chunk, first_class=0):
    """Backpropagates a loss that is a sum over classes into whatever `clips` (K, S, T, C, H, W) were rendered from;
    returns the loss, detached.

    loss_of(clips of some classes, classes: range) -> scalar. first_class: that of the first of the clips. Only `chunk`
    classes are held as floats and as a graph at a time: the gradient with respect to the clips is gathered chunk by
    chunk, and is exact.
    """
    leaf = clips.detach().requires_grad_()
    total = 0
    for first in range(0, len(clips), chunk):
        classes = range(first, min(first + chunk, len(clips)))
        loss = loss_of(leaf[first:classes.stop], range(first_class + first, first_class + classes.stop))
        loss.backward()
        total = total + loss.detach()
    clips.backward(leaf.grad)
    return total


def frepo_loss(synthetic, labels, real, real_labels, reg=1e-6):
    """Kernel ridge regression from synthetic to real clips in a network's features: its loss, and the labels' margin.

    synthetic (N, D), real (M, D): embeddings; labels (N, K), real_labels (M, K): rows around 0. With K_ss = F_s F_s^T,
    K_ts = F_t F_s^T and predictions P = K_ts (K_ss + reg trace(K_ss) / N I)^-1 Y_s, the loss is the mean over real
    clips of 0.5 |P - Y_t|^2, plus the mean over synthetic clips of -min(largest - second largest label, 1 / K). Kernels
    and the solution are computed in float64: the condition number goes up to N / reg. Returns a scalar.
    Zhou, Nezhadarya and Ba, "Dataset Distillation using Neural Feature Regression", arXiv 2206.00719, eq. 2 and 3.
    """
    features, targets, real, real_labels = (x.double() for x in (synthetic, labels, real, real_labels))
    kernel = features @ features.T
    ridge = reg * kernel.trace() / len(kernel) * torch.eye(len(kernel), dtype=kernel.dtype, device=kernel.device)
    try:
        predictions = real @ features.T @ torch.linalg.solve(kernel + ridge, targets)
    except torch.linalg.LinAlgError as error:
        raise ValueError("the synthetic clips have no features that differ, so nothing can be predicted from them: the "
                         "networks of the pool are dead; lower --lr_pool, or raise --reg") from error
    regression = 0.5 * (predictions - real_labels).square().sum(1).mean()
    first, second = targets.topk(2, dim=1).values.T
    return (regression - (first - second).clamp(max=1 / targets.shape[1]).mean()).float()


def frepo_gradient(embed, clips, labels, real, real_labels, reg, chunk, join_rows=None):
    """Backpropagates `frepo_loss` into whatever clips (N, T, C, H, W) and labels (N, K) were rendered from; returns the
    loss, detached.

    embed: (B, T, C, H, W) -> (B, D), each row of its clip alone. The graph of only `chunk` clips is held at a time: the
    gradient with respect to the features is taken first, and is then carried on chunk by chunk, which is exact.
    join_rows: where clips and labels are a part of all, so that each of several processes has its own (parallel.py);
    real clips are all of them.
    """
    if len(clips) <= chunk and not join_rows:
        loss = frepo_loss(embed(clips), labels, real, real_labels, reg)
        loss.backward()
        return loss.detach()
    leaf, mine = clips.detach().requires_grad_(), slice(0, len(clips))
    with torch.no_grad():
        features = torch.cat([embed(part) for part in leaf.split(chunk)])
    if join_rows:
        features, mine = join_rows(features)
        others, _ = join_rows(labels)
        labels = torch.cat([others[:mine.start], labels, others[mine.stop:]])
    loss = frepo_loss(features.requires_grad_(), labels, real, real_labels, reg)
    loss.backward()
    for part, gradient in zip(leaf.split(chunk), features.grad[mine].split(chunk), strict=True):
        embed(part).backward(gradient)
    clips.backward(leaf.grad)
    return loss.detach()


def gradients(network, samples, targets, create_graph=False, loss_of=F.cross_entropy):
    """Gradients of a loss with respect to the network's parameters, a tuple of tensors.

    targets: what a set's `render` gives, class numbers (B,) or rows (B, K). loss_of(logits (B, K), targets) -> scalar.
    """
    loss = loss_of(network(samples), targets)
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


def student_loss(network, theta, clips, targets, loss_of=F.cross_entropy):
    """Loss of `network` with theta in place of its own parameters, differentiable twice in theta, clips and targets.

    theta: tuple of tensors in the order of `network.parameters()`, as trajectories are stored. targets: class numbers
    (B,) or rows (B, K). loss_of(logits (B, K), targets) -> scalar, which this returns.
    """
    names = (name for name, _ in network.named_parameters())
    return loss_of(functional_call(network, dict(zip(names, theta, strict=True)), (clips,)), targets)


def mtt_gradient(step_loss, start, target, steps, lr, parameters, unroll="adjoint", match="last", add_up=None):
    """Trajectory matching: (loss, gradients of the parameters, gradient of lr), all without a graph.

    The student takes `steps` SGD steps theta <- theta - lr * grad step_loss(theta, i) from `start`; the loss is
    ||theta_N - target||^2 / ||start - target||^2. step_loss(theta, i): the scalar loss on synthetic batch i, with a
    graph to theta and to the parameters. start, target, theta: tuples of tensors in network order. lr: scalar tensor.
    parameters: leaf tensors of the synthetic set; one that no batch renders gets zeros.

    unroll "adjoint" keeps theta_0 ... theta_N-1 as numbers and walks back with one step's graph at a time, for any N.
    It calls step_loss twice for each i but the last, and both calls must draw the same slots and the same dropout mask.
    "full" keeps the graphs of all steps. Both are exact and agree to rounding error. Raises ValueError where the loss
    is 0 / 0.
    add_up(tensors): only with "adjoint", where step_loss is of a part of each batch (parallel.py): replaces tensors by
    their sums over the parts. The gradients are then of this part; those of the whole are their sums.
    match "nearest" takes in place of theta_N the theta_1 ... theta_N with the smallest L1 distance from the target, as
    ATT does.
    Cazenavette et al., "Dataset Distillation by Matching Training Trajectories", arXiv 2203.11932, eq. 2. ATT: Liu et
    al., "Dataset Distillation by Automatic Training Trajectories", arXiv 2407.14245.
    """
    for name, value, values in (("unroll", unroll, UNROLLS), ("match", match, MATCHES)):
        if value not in values:
            raise ValueError(f"unknown {name} {value!r}: choose one of {', '.join(values)}")
    start, target = (tuple(tensor.detach() for tensor in tensors) for tensors in (start, target))
    scale = float(_squared_distance(start, target))     # where they are: no waiting for the device of the set
    start, target = (tuple(tensor.to(lr.device, non_blocking=True) for tensor in tensors)
                     for tensors in (start, target))
    if scale == 0:
        raise ValueError("start and target hold the same weights, so the loss ||theta_N - target||^2 / ||start - "
                         "target||^2 is 0 / 0: take a target that is later on the trajectory, or another expert")
    walk = partial(_adjoint, add_up=add_up) if unroll == "adjoint" else _full_unroll
    distance, gradients, lr_gradient = walk(step_loss, start, target, steps, lr.detach(), tuple(parameters), match)
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


def _adjoint(step_loss, start, target, steps, lr, parameters, match, add_up=None):
    """Squared distance of theta_N from target and its gradients; back from adjoint = d distance / d theta_N by

        s = <adjoint, grad step_loss(theta_i, i)>,  d/d parameters -= lr ds/d parameters,  d/d lr -= s,
        adjoint <- adjoint - lr ds/d theta_i.

    s is differentiated in reverse over reverse. Reverse over forward (dual numbers) is no faster, and in torch 2.14 it
    fails for cross_entropy and gives wrong derivatives for batch and layer norm without a word.
    """
    def whole(changes):
        changes = tuple(change.detach() for change in changes)
        if add_up:
            changes = tuple(change.clone() for change in changes)
            add_up(changes)
        return changes

    trajectory, theta = [], start
    for i in range(steps):
        trajectory.append(tuple(tensor.requires_grad_() for tensor in theta))
        last = i == steps - 1       # walked back next: its graph is kept, and those of the others are made again
        with nullcontext() if last else _without_graph(parameters):
            step = torch.autograd.grad(step_loss(trajectory[-1], i), trajectory[-1], create_graph=last)
        theta = tuple(tensor.detach() - lr * change for tensor, change in zip(theta, whole(step), strict=True))
    if match == "nearest":
        ends = [*trajectory[1:], theta]
        end = _nearest(ends, target)
        theta, trajectory = tuple(tensor.detach() for tensor in ends[end]), trajectory[:end + 1]
    distance = _squared_distance(theta, target)
    adjoint = tuple(2 * (a - b) for a, b in zip(theta, target, strict=True))
    gradients, lr_gradient = [torch.zeros_like(tensor) for tensor in parameters], torch.zeros_like(lr)
    for i in reversed(range(len(trajectory))):
        theta = trajectory.pop()
        if i < steps - 1:
            step = torch.autograd.grad(step_loss(theta, i), theta, create_graph=True)
        s = sum((a * b).sum() for a, b in zip(adjoint, step, strict=True))
        back = torch.autograd.grad(s, (*theta, *parameters), materialize_grads=True)
        lr_gradient -= s.detach()
        adjoint = tuple(a - lr * b for a, b in zip(adjoint, whole(back[:len(theta)]), strict=True))
        for gradient, change in zip(gradients, back[len(theta):], strict=True):
            gradient -= lr * change
    return distance, gradients, lr_gradient


def _full_unroll(step_loss, start, target, steps, lr, parameters, match):
    """The same by one graph of all steps and one backward pass: what `_adjoint` is tested against."""
    theta, lr, ends = tuple(tensor.requires_grad_() for tensor in start), lr.requires_grad_(), []
    for i in range(steps):
        step = torch.autograd.grad(step_loss(theta, i), theta, create_graph=True)
        theta = tuple(tensor - lr * change for tensor, change in zip(theta, step, strict=True))
        ends.append(theta)
    theta = ends[_nearest(ends, target)] if match == "nearest" else theta
    distance = _squared_distance(theta, target)
    *gradients, lr_gradient = torch.autograd.grad(distance, (*parameters, lr), materialize_grads=True)
    return distance.detach(), gradients, lr_gradient


@torch.no_grad()
def _nearest(ends, target):
    """Which of several weights has the smallest L1 distance from the target."""
    distances = [sum((a - b).abs().sum() for a, b in zip(theta, target, strict=True)) for theta in ends]
    return int(torch.stack(distances).argmin())


def _squared_distance(theta, target):
    return sum((a - b).square().sum() for a, b in zip(theta, target, strict=True))


def add_gradients(parameters, gradients, share=1.0):
    """Adds the share of each gradient to `grad` of its parameter."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        gradient = share * gradient
        parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
