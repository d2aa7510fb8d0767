"""The published loops written plainly: what the other programs here are measured against, and oracles of the tests.

float32 throughout (on CUDA with TF32 in convolutions, torch's default, and deterministic kernels, as ours), real clips
preloaded as floats where the networks are, one class and one synthetic clip at a time, a DataLoader without workers, as
the public code of DC, DM, MTT and S2D does it. What is computed is what the toolbox computes with `--precision fp32`;
nothing here is made slower than it is written down in a paper or its code.
"""
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Network(nn.Module):
    """The weights of a ConvNet3D in the layers as they are written down: convolution, ReLU, pool."""

    def __init__(self, network):
        super().__init__()
        self.convs, self.dropout, self.classifier = network.convs, network.dropout, network.classifier

    def feature_map(self, x):
        x = x.transpose(1, 2)
        for i, conv in enumerate(self.convs):
            x = F.relu(conv(x))
            x = F.max_pool3d(x, [min(k, left) for k, left in zip((2 if i else 1, 2, 2), x.shape[2:], strict=True)])
        return x

    def embed(self, x):
        return self.feature_map(x).flatten(1)

    def forward(self, x):
        x = self.feature_map(x)
        x = F.avg_pool3d(x, (min(2, x.shape[2]), *x.shape[3:]), stride=1)
        return self.classifier(self.dropout(x)).flatten(2).amax(2)


def standardise(x):
    """A clip, or a batch of them one by one, by its own mean and std."""
    if x.dim() == 4:
        return (x - x.mean()) / (x.std() + 1e-5)
    return torch.stack([standardise(clip) for clip in x])


def preload(clips, device="cpu"):
    """All clips of a split as floats (N, T, C, H, W) on the device, and their labels."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (clips.spec.mean, clips.spec.std))
    floats = torch.empty(len(clips), *clips.spec.shape)
    for i in range(len(clips)):
        floats[i] = (clips.read(*clips.sample_frames([i]))[0].float() / 255 - mean) / std
    return floats.to(device), clips.labels


def render(synset, k, slot):
    """One clip of a set with one static image and one memory a slot: pixels, or a Conv3d over image and memory."""
    if hasattr(synset, "videos"):
        return synset.videos[k * synset.num_slots + slot]
    dynamic = synset.dynamic[k, slot].transpose(0, 1)                               # (1, T, H, W)
    static = synset.static[k * synset.spc + slot][:, None].expand(-1, dynamic.shape[1], -1, -1)
    x = torch.cat([static, dynamic])[None]
    return synset.hallucinators[0].conv(x)[0].transpose(0, 1)                       # (T, C, H, W)


class SyntheticClips(Dataset):
    """A set for a DataLoader: each clip is made when it is asked for, with a graph, as S2D's evaluation does."""

    def __init__(self, synset):
        self.synset = synset

    def __len__(self):
        return self.synset.num_classes * self.synset.num_slots

    def __getitem__(self, i):
        k, slot = divmod(i, self.synset.num_slots)
        return render(self.synset, k, slot), k


class RealClips(Dataset):
    def __init__(self, floats, labels):
        self.floats, self.labels = floats, labels

    def __len__(self):
        return len(self.floats)

    def __getitem__(self, i):
        return self.floats[i], self.labels[i]


def dm_loss(network, floats, members, synset):
    """Loss of one DM iteration, class by class. members: for each class the numbers of its real clips."""
    loss = 0
    for k in range(synset.num_classes):
        real = standardise(floats[members[k]])
        synthetic = torch.stack([render(synset, k, slot) for slot in range(synset.num_slots)])
        with torch.no_grad():
            target = network.embed(real).mean(0)
        loss = loss + ((network.embed(standardise(synthetic)).mean(0) - target) ** 2).sum()
    return loss


def frepo_loss(network, floats, labels, synset, reg):
    """Loss of one FRePo iteration: kernel ridge regression in float64, with a graph through all synthetic clips.
    labels: class numbers of the real clips `floats`."""
    synthetic = torch.stack([render(synset, *divmod(i, synset.num_slots)) for i in range(len(synset.labels))])
    with torch.no_grad():
        real = network.embed(standardise(floats)).double()
    features, k = network.embed(standardise(synthetic)).double(), synset.num_classes
    kernel = features @ features.T
    ridge = reg * kernel.diagonal().mean() * torch.eye(len(kernel), device=kernel.device)
    predictions = real @ features.T @ torch.linalg.inv(kernel + ridge) @ synset.labels.double()
    regression = 0.5 * ((predictions - (F.one_hot(labels, k) - 1 / k)) ** 2).sum(1).mean()
    first, second = synset.labels.sort(1, descending=True).values[:, :2].T
    return regression - (first - second).clamp(max=1 / k).mean()


def frepo_train(network, synset, optimizer):
    """A step of FRePo's network on all clips of the set."""
    network.train()
    with torch.no_grad():
        clips = torch.stack([render(synset, *divmod(i, synset.num_slots)) for i in range(len(synset.labels))])
    loss = 0.5 * ((network(standardise(clips)) - synset.labels.detach()) ** 2).sum(1).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def train_epoch(network, dataset, order, optimizer, device="cpu"):
    """One epoch of cross-entropy steps over the batches of `order`."""
    network.train()
    for clips, labels in DataLoader(dataset, batch_sampler=order):
        clips, labels = clips.to(device), labels.to(device)
        loss = F.cross_entropy(network(standardise(clips)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test(network, dataset, batch_size, passes=3, device="cpu"):
    """Mean loss and top-1 of some passes over the test clips."""
    network.eval()
    loss, hits = 0, 0
    for _ in range(passes):
        for clips, labels in DataLoader(dataset, batch_size):
            clips, labels = clips.to(device), labels.to(device)
            with torch.no_grad():
                logits = network(standardise(clips))
            loss += F.cross_entropy(logits, labels, reduction="sum").item()
            hits += (logits.argmax(1) == labels).sum().item()
    return loss / passes / len(dataset), hits / passes / len(dataset)
