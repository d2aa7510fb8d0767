"""Sizes before a run: memory, bytes and operations of a student's step and of an expert, computed from shapes alone.

Networks and sets are on the device "meta", which holds no values: nothing is read, trained or written.
"""
from copy import deepcopy

import torch
from torch.utils.flop_counter import FlopCounterMode

from distill_utils.matching import student_loss
from distill_utils.storage import storage_bytes
from distill_utils.synset import all_pairs
from distill_utils.trajectories import epochs_to_keep


def trajectory_matching(network, synset, spec, *, store, matching, batch, syn_steps, unroll, students, max_start_epoch,
                        expert_epochs):
    """What trajectory matching will take, as a dict. network: on "meta". synset: as it will be trained. matching: how
    clips are standardised. batch: clips of a student's step, or None for all. students: of the whole run."""
    total = synset.num_classes * synset.num_slots
    batch = min(batch or total, total)
    copy = deepcopy(synset).to("meta")
    parameters = sum(value.numel() for value in network.parameters())
    graphs = 1 if unroll == "adjoint" else syn_steps
    snapshots = epochs_to_keep(max_start_epoch + expert_epochs, max_start_epoch, expert_epochs)
    return {
        "parameters": parameters, "set_bytes": storage_bytes(synset, store, spec), "clips_per_step": batch,
        "expert_bytes": 4 * parameters * len(snapshots),
        # measured on a CPU: beside the graphs, about two more of the kind while one is walked back
        "estimated_peak_memory_bytes": int((graphs + 2) * step_bytes(network, copy, batch, matching)
                                           + 4 * parameters * (syn_steps + 8)),
        "operations": students * syn_steps * step_operations(network, copy, batch, matching, unroll)}


def step_operations(network, synset, batch, matching, unroll):
    """Floating point operations of one student's step, out and back."""
    theta = tuple(network.parameters())
    classes, slots = all_pairs(synset, "meta")
    with FlopCounterMode(display=False) as counter:
        for again in (False, True) if unroll == "adjoint" else (True,):     # once more to walk back
            clips, targets = synset.render(classes[:batch], slots[:batch])
            loss = student_loss(network, theta, matching(clips), targets)
            step = torch.autograd.grad(loss, theta, create_graph=again)
        torch.autograd.grad(sum((change * change.detach()).sum() for change in step), (*theta, *synset.parameters()),
                            allow_unused=True)
    return counter.get_total_flops()


def step_bytes(network, synset, batch, matching):
    """Bytes that the graph of one student's step holds."""
    saved = {}

    def note(tensor):
        saved[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    classes, slots = all_pairs(synset, "meta")
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        clips, targets = synset.render(classes[:batch], slots[:batch])
        loss = student_loss(network, tuple(network.parameters()), matching(clips), targets)
        torch.autograd.grad(loss, tuple(network.parameters()), create_graph=True)
        return sum(saved.values())


def training_operations(network, spec, clips):
    """Floating point operations of training on so many clips once."""
    with FlopCounterMode(display=False) as counter:
        loss = network(torch.zeros(1, *spec.shape, device="meta")).sum()
        torch.autograd.grad(loss, tuple(network.parameters()))
    return clips * counter.get_total_flops()
