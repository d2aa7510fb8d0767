"""The class means of real clips that DM compares with: of a fresh sample each iteration, or from a bank made once.

DM draws a network and compares the class means of its embeddings of real and of synthetic clips (arXiv 2110.04181, eq.
4). SampledMeans and Bank answer the same two questions of an iteration: which seed its network is drawn with, and what
the class means of real clips are under it.

The real means depend on nothing that is learned. For P networks, numbered and seeded once for all runs, a Bank computes
them over all training clips; an iteration then draws one of the P, and costs the synthetic clips alone. A bank is a
folder beside the cache, one file a network, so that it is made by any run that needs it, goes on where it was stopped,
and grows when a later run asks for more.
"""
import hashlib
import json
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F

from distill_utils import parallel
from distill_utils.clips import ClassSampler
from distill_utils.files import locked, remove, replacing, unfinished
from distill_utils.matching import class_means
from distill_utils.progress import progress
from distill_utils.seeds import derive_seed, make_generator
from distill_utils.tensors import TensorFile, save_tensors

FORMAT = 1      # raise when what `embed` gives, or the view of the clips, changes: banks are then made anew
GROUP = 8       # networks that share one pass over the clips


class SampledMeans:
    """A fresh network and `per_class` real clips of each class in every iteration, as published. chunk: how many clips
    are in memory as floats at a time, or those of one class."""

    def __init__(self, clips, per_class, seed, chunk=640):
        self.sampler, self.per_class, self.seed = ClassSampler(clips), per_class, seed
        self.classes = max(1, chunk // per_class)       # at a time

    def network_seed(self, iteration):
        return derive_seed(self.seed, iteration, "network")

    def skip(self, classes, generator):
        """Leaves the generator as `means` would, for classes of other ranks."""
        self.sampler.skip(classes, self.per_class, generator)

    def means(self, iteration, classes, embed, generator, device, of=class_means, segment=(0, 1)):
        """(len(classes), D) without a graph: the generator says which clips, embed is of the iteration's network. of:
        `embed_classes` gives the embeddings themselves (len(classes), per_class, D). segment: of the clips."""
        parts = [classes[first:first + self.classes] for first in range(0, len(classes), self.classes)]
        with torch.no_grad():
            return torch.cat([of(embed, self.sampler.sample(part, self.per_class, generator, device, segment))
                              for part in parts])


class Bank:
    """Class means (K, D) of the training clips under `size` networks.

    clips: Clips. seed: of the run, which says in which order networks come. key: what else the means depend on
    (network, protocol, precision, ...), as JSON can hold it; a bank made with anything else is another folder. Clips
    are seen in the test view, as they are and flipped left-right where the data set allows it: the mean that the
    sampled batches of DM estimate, but for their random starts.
    """
    per_class = None        # no clip is sampled

    def __init__(self, folder, clips, size, seed=0, **key):
        self.clips, self.size, self.seed, self.loaded = clips, size, seed, {}
        self.key = json.dumps(key, sort_keys=True)
        digest = hashlib.sha256(f"{FORMAT} {self.key} {clips.content()}".encode()).hexdigest()[:16]
        self.folder = Path(folder) / f"bank-{Path(clips.spec.folder).name}-{digest}"

    def index(self, iteration):
        """Which network an iteration uses: each once before any comes again."""
        round_, turn = divmod(iteration, self.size)
        return int(torch.randperm(self.size, generator=make_generator(self.seed, "bank", round_))[turn])

    @staticmethod
    def seed_of(index):
        """The seed of a network, in every bank."""
        return derive_seed("bank", index)

    def network_seed(self, iteration):
        return self.seed_of(self.index(iteration))

    def skip(self, classes, generator):
        """Nothing is drawn."""

    def means(self, iteration, classes, embed, generator, device, of=class_means):
        """(len(classes), D); what makes them is not needed."""
        return self.load(self.index(iteration), device)[classes.start:classes.stop]

    def path(self, index):
        return self.folder / f"{index:04d}.safetensors"

    def load(self, index, device="cpu"):
        """(K, D) of a network, read once. ValueError that names the file if it cannot be read."""
        if index in self.loaded:
            return self.loaded[index]
        try:
            file = TensorFile(self.path(index))
            if file.header != {"number": index, "bank": self.folder.name}:
                raise ValueError("it is of another network or another bank")
            means = file.read("means")
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.path(index)} cannot be read ({error}): remove it, and it is made again by the "
                             "same command with --resume") from error
        self.loaded[index] = means.to(device, non_blocking=True)
        return self.loaded[index]

    def build(self, make_network, embed, device, batch_size):
        """Makes what is missing; of several processes one does, and the others wait; of the ranks of one run each makes
        a share. make_network(seed) -> a network; embed(network, clips) -> (B, D)."""
        def find_missing():
            return [index for index in range(self.size) if not self.path(index).is_file()]

        if not parallel.any_of(bool(find_missing())):   # a complete one may lie in a folder where nobody may write
            return
        batches, first_rank = torch.arange(len(self.clips)).split(batch_size), parallel.rank() == 0
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder / ".lock") if first_rank else nullcontext():
            if first_rank:
                remove(*unfinished(self.folder))
            if first_rank and not (self.folder / "bank.json").is_file():
                with replacing(self.folder / "bank.json") as temporary:
                    temporary.write_text(self.key + "\n", encoding="utf-8")
            missing = parallel.collect(find_missing())[0]       # by the first, which holds the lock
            missing = [missing[i] for i in parallel.share(len(missing))]
            with progress(total=len(missing) * len(self.clips), desc="bank of class means", unit="clip",
                          disable=not missing) as bar:
                for first in range(0, len(missing), GROUP):
                    indices = missing[first:first + GROUP]
                    networks = [make_network(self.seed_of(index)) for index in indices]
                    rows = mean_embeddings(self.clips, networks, embed, device, batches, bar)
                    for index, means in zip(indices, rows, strict=True):
                        save_tensors(self.path(index), {"means": means}, number=index, bank=self.folder.name)
            parallel.wait()


@torch.no_grad()
def mean_embeddings(clips, networks, embed, device, batches, bar):
    """The class means (K, D) of each network, over all clips and, where they may be flipped, over both."""
    member = F.one_hot(clips.labels, clips.spec.num_classes).float().to(device)        # (N, K)
    sums, flips = [0] * len(networks), (False, True) if clips.spec.flip else (False,)
    for batch in batches:
        samples, members = clips.get(batch, device=device), member[batch.to(device, non_blocking=True)]
        for flip in flips:
            samples = samples.flip(-1) if flip else samples
            for i, network in enumerate(networks):
                sums[i] = sums[i] + members.T @ embed(network, samples)
        bar.update(len(batch) * len(networks))
    return [(total / (len(flips) * member.sum(0)[:, None])).cpu() for total in sums]
