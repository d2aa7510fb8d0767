"""The losses: pure functions of tensors and networks."""
import torch
import torch.nn.functional as F

DISTANCES = ("ours", "mse", "cos")


def class_means(embed, clips):
    """Mean embedding of each class: embed (B, ...) -> (B, D), clips (K, N, ...) -> (K, D)."""
    return embed(clips.flatten(0, 1)).unflatten(0, clips.shape[:2]).mean(1)


def dm_loss(embed, real, synthetic):
    """Squared distance between the class means of embeddings, summed over classes.

    embed: (B, T, C, H, W) -> (B, D). real: (K, R, T, C, H, W). synthetic: (K, S, T, C, H, W). Returns a scalar. No
    graph is kept of the real branch. All classes go through one forward pass, which equals a loop over classes because
    the networks that DM draws have no layer that mixes samples.
    Zhao and Bilen, "Dataset Condensation with Distribution Matching", arXiv 2110.04181, eq. 4.
    """
    with torch.no_grad():
        target = class_means(embed, real)
    return (class_means(embed, synthetic) - target).square().sum()


def dm_gradient(embed, clips, draw_real, chunk):
    """Backpropagates `dm_loss` into whatever `clips` (K, S, T, C, H, W) were rendered from; returns the loss, detached.

    draw_real(classes) -> (k, R, T, C, H, W). Only `chunk` classes are held as floats and as a graph at a time: the loss
    is a sum over classes, so the gradient with respect to the clips is gathered chunk by chunk, and is exact.
    """
    leaf = clips.detach().requires_grad_()
    total = 0
    for classes in torch.arange(len(clips)).split(chunk):
        loss = dm_loss(embed, draw_real(classes), leaf[classes[0]:classes[-1] + 1])
        loss.backward()
        total = total + loss.detach()
    clips.backward(leaf.grad)
    return total


def gradients(network, images, labels, create_graph=False):
    """Gradients of the cross-entropy with respect to the network's parameters, a tuple of tensors."""
    loss = F.cross_entropy(network(images), labels)
    return torch.autograd.grad(loss, tuple(network.parameters()), create_graph=create_graph)


@torch.no_grad()
def freeze_batchnorm(network, images):
    """Sets the statistics of batch norm layers from a batch of all classes, then keeps them: gradients of one class at
    a time would otherwise see the statistics of that class. Networks without batch norm are left alone."""
    norms = [module for module in network.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    if norms:
        network.train()
        network(images)
        for module in norms:
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
