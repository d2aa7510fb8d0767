"""A bank of class means: all that DM needs of the real clips, computed once for many random networks.

DM draws a network and compares the class means of its embeddings of real and of synthetic clips (arXiv 2110.04181, eq.
4). The real means depend on nothing that is learned. For P networks, numbered and seeded once for all runs, they are
computed here over all training clips; an iteration then draws one of the P, and costs the synthetic clips alone.

A bank is a folder beside the cache, one file a network, so that it is made by any run that needs it, goes on where it
was stopped, and grows when a later run asks for more.
"""
import hashlib
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from distill_utils.files import locked, replacing
from distill_utils.run import derive_seed, generator, progress

FORMAT = 1      # raise when what `embed` gives, or the view of the clips, changes: banks are then made anew
GROUP = 8       # networks that share one pass over the clips


class Bank:
    """Class means (K, D) of the training clips under `size` networks.

    clips: Clips. key: what else the means depend on (network, protocol, precision, ...), as JSON can hold it; a bank
    made with anything else is another folder. Clips are seen in the test view, as they are and flipped left-right
    where the data set allows it: the mean that the sampled batches of DM estimate, but for their random starts.
    """

    def __init__(self, folder, clips, size, **key):
        self.clips, self.size, self.held = clips, size, {}
        key = json.dumps(key, sort_keys=True)
        digest = hashlib.sha256(f"{FORMAT} {key} {clips_digest(clips)}".encode()).hexdigest()[:16]
        self.folder = Path(folder) / f"bank-{Path(clips.spec.folder).name}-{digest}"
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "bank.json").is_file():
            with replacing(self.folder / "bank.json") as temporary:
                temporary.write_text(key + "\n", encoding="utf-8")

    @staticmethod
    def seed(number):
        """Of network `number`, in every bank."""
        return derive_seed("bank", number)

    def draw(self, seed, iteration):
        """The number of the network of an iteration: each once before any comes again."""
        round_, turn = divmod(iteration, self.size)
        return int(torch.randperm(self.size, generator=generator(seed, "bank", round_))[turn])

    def path(self, number):
        return self.folder / f"{number:04d}.safetensors"

    def means(self, number, device="cpu"):
        """(K, D) of network `number`, read once. ValueError that names the file if it cannot be read."""
        if number in self.held:
            return self.held[number]
        try:
            self.held[number] = load_file(self.path(number))["means"].to(device, non_blocking=True)
            return self.held[number]
        except (SafetensorError, KeyError) as error:
            raise ValueError(f"{self.path(number)} cannot be read ({error}): remove it, and it is made "
                             "again") from error

    def build(self, make_network, embed, device, batch_size):
        """Makes what is missing; of several processes one does, and the others wait. make_network(number) -> a
        network; embed(network, clips) -> (B, D)."""
        batches = torch.arange(len(self.clips)).split(batch_size)
        with locked(self.folder / ".lock"):
            missing = [number for number in range(self.size) if not self.path(number).is_file()]
            for unfinished in self.folder.glob(".*.tmp-*"):     # of a process that was killed: we hold the lock
                unfinished.unlink()
            with progress(total=len(missing) * len(self.clips), desc="bank of class means", unit="clip",
                          disable=not missing) as bar:
                for first in range(0, len(missing), GROUP):
                    numbers = missing[first:first + GROUP]
                    networks = [make_network(number) for number in numbers]
                    rows = mean_embeddings(self.clips, networks, embed, device, batches, bar)
                    for number, means in zip(numbers, rows, strict=True):
                        with replacing(self.path(number)) as temporary:
                            save_file({"means": means}, temporary)


@torch.no_grad()
def mean_embeddings(clips, networks, embed, device, batches, bar):
    """The class means (K, D) of each network, over all clips and, where they may be flipped, over both."""
    member = F.one_hot(clips.labels, clips.spec.num_classes).float().to(device)        # (N, K)
    sums, views = [0] * len(networks), 1 + clips.spec.flip
    for batch in batches:
        shown, members = clips.get(batch, device=device), member[batch.to(device, non_blocking=True)]
        for view in range(views):
            shown = shown.flip(-1) if view else shown
            for i, network in enumerate(networks):
                sums[i] = sums[i] + members.T @ embed(network, shown)
        bar.update(len(batch) * len(networks))
    return [(total / (views * member.sum(0)[:, None])).cpu() for total in sums]


def clips_digest(clips):
    """Of names, labels, view, and up to 1,000 frames spread over the clips: tells data sets apart wherever they lie."""
    spec, frames = clips.spec, clips.frames
    about = (spec.view, spec.frames, spec.size, spec.flip, spec.mean, spec.std, len(frames))
    digest = hashlib.sha256(f"{about} {clips.names} {clips.labels.tolist()} {clips.counts.tolist()}".encode())
    for i in np.linspace(0, len(frames) - 1, min(len(frames), 1000)).astype(int):
        digest.update(np.ascontiguousarray(frames[i]))
    return digest.hexdigest()
