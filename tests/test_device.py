"""Nothing inside a loop waits for the device: on a GPU the next steps are queued while it computes.

Without a GPU this is seen on torch's device "meta", which computes nothing and from which nothing can be read.
"""
import sys
from contextlib import contextmanager, nullcontext
from copy import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

import buffer
import distill_DC
import distill_DM
import distill_MTT
import distill_s2d_DM
import distill_s2d_MTT
import utils
from conftest import NET, run_script
from distill_utils.augment import parse
from distill_utils.bank import Bank
from distill_utils.clips import ClassSampler, Clips
from distill_utils.device import set_kernels
from distill_utils.run import Run
from distill_utils.seeds import make_generator
from distill_utils.synset import StaticDynamicSet, VideoSet

META = torch.device("meta")
CUDA = (pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))


class NoWaiting(TorchDispatchMode):
    """Refuses what makes the CPU wait for the device: blocking copies to it, anything read from it, and indices on the
    CPU for a tensor on the device, which are copied there."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, function._schema.name
        tensors = [x for x in torch.utils._pytree.tree_leaves((args, kwargs)) if torch.is_tensor(x)]
        there = [x.device.type for x in tensors]
        if name in ("aten::_to_copy", "aten::copy_"):
            target = args[0].device if name == "aten::copy_" else torch.device(kwargs.get("device") or there[0])
            blocking = not (kwargs.get("non_blocking") or args[2:3] == (True,))
            assert not (blocking and there[-1] != target.type), f"a blocking copy from {there[-1]} to {target}"
        elif name.startswith("aten::index"):
            assert len(set(there)) == 1, f"{name} with indices on {there}"
        assert name not in ("aten::_local_scalar_dense", "aten::nonzero") or "meta" not in there, f"{name} reads"
        return function(*args, **kwargs)


def test_waiting_is_seen():
    x = torch.zeros(3, device="meta")
    for waits in (lambda: x.cpu(), lambda: torch.ones(3).to("meta"), lambda: x[torch.tensor([1])],
                  lambda: x.sum().item(), lambda: x.copy_(torch.ones(3)), lambda: x.nonzero()):
        with pytest.raises((AssertionError, NotImplementedError)), NoWaiting():
            waits()
    with NoWaiting():
        x.copy_(torch.ones(3), non_blocking=True)
        assert x[torch.tensor([1]).to("meta", non_blocking=True)].shape == (1,)


@pytest.fixture(autouse=True)
def frames_travel_once(monkeypatch):
    """The copy of all frames to the device, in the first iteration, may wait."""
    frames_on = Clips._frames_on

    def outside(*args):
        with _disable_current_modes():
            return frames_on(*args)

    monkeypatch.setattr(Clips, "_frames_on", outside)


@contextmanager
def no_waiting(device):
    if device.type == "meta":
        with NoWaiting():
            yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def device():
    return "meta"


@pytest.fixture
def loop_on(device, digits, monkeypatch, tmp_path):
    """Runs a script's loop on a device, without what reads a result: evaluation, log, checkpoints."""
    loop = []

    def iterations(self, n):
        for it in (1, 2, 3):        # the first and the last are scored; on CUDA all frames travel in the first
            with no_waiting(self.device) if it > 1 or self.device.type == "meta" else nullcontext():
                loop.append(it)
                yield it

    monkeypatch.setattr(Run, "loop", iterations)
    for name in ("evaluate", "log", "finish", "save"):
        monkeypatch.setattr(Run, name, lambda *args, **kwargs: None)
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *args: None)

    def call(script, *flags):
        monkeypatch.setattr(sys, "argv", [script.__name__, *map(str, (
            "--data_path", digits, "--save_path", tmp_path, "--Iteration", 9, "--device", device,
            "--clips_on", "device", "--precision", "fp32", "--num_eval", 1, *flags))])
        script.main()
        assert loop == [1, 2, 3]

    return call


def on_device(clips):
    clips = copy(clips)
    clips.location = "device"
    return clips


BOTH = pytest.mark.parametrize("device", ["meta", pytest.param("cuda", marks=CUDA)])
DSA = ["--dsa_strategy", "color_cutout_flip_crop_rotate"]
S2D = ["--vpc", 2, "--spc", 4, "--dpc", 4, "--n_hal", 2]


@BOTH
@pytest.mark.parametrize("script,flags", [
    (distill_DM, ["--model", NET, "--batch_real", 4, "--ipc", 2]),
    (distill_s2d_DM, ["--model", NET, "--batch_real", 4, "--chunk", 8, *S2D]),
    (distill_s2d_DM, ["--model", NET, "--protocol", "paper", "--optim", "sgd"]),
    (distill_DC, ["--model", "ConvNetD3W32", "--ipc", 2, "--outer_loop", 2, "--inner_loop", 1])],
    ids=["DM", "S2D-DM", "S2D-DM-paper", "DC"])
def test_no_iteration_waits(script, flags, loop_on):
    loop_on(script, *flags)


@pytest.mark.parametrize("script,flags", [
    (distill_DM, ["--model", NET, "--batch_real", 4, *DSA]),
    (distill_DC, ["--model", "ConvNetBN", "--ipc", 2, "--outer_loop", 1, "--inner_loop", 1, *DSA])], ids=["DM", "DC"])
def test_no_iteration_with_dsa_or_batch_norm_waits(script, flags, loop_on):
    """On "meta" alone: what kornia does on CUDA differs between its versions, and a batch norm layer is made with one
    short wait."""
    loop_on(script, *flags)


@BOTH
def test_no_iteration_with_a_bank_waits(loop_on, digits, monkeypatch, tmp_path):
    data, load, devices = utils.get_dataset("MotionDigits", digits), Bank.load, []
    monkeypatch.setattr(utils, "weights_digest", lambda network: "weights")      # cannot be read on "meta"
    bank = Bank(tmp_path, data.train, 2, model=NET, weights="weights", protocol="standard", dtype="torch.float32")
    # nothing can be computed on "meta", so the bank's files are made here
    bank.build(lambda seed: utils.get_network(NET, data.spec), lambda network, clips: network.embed(clips), "cpu", 64)
    monkeypatch.setattr(Bank, "load", lambda *args: devices.append((means := load(*args)).device.type) or means)
    loop_on(distill_s2d_DM, "--model", NET, "--bank", 2, "--cache_path", tmp_path)
    assert len(devices) >= 3 and "cpu" not in devices


@BOTH
@pytest.mark.parametrize("script,flags", [(distill_MTT, ["--ipc", 1]), (distill_s2d_MTT, [*S2D, "--batch_syn", 7])],
                         ids=["MTT", "S2D-MTT"])
def test_no_trajectory_waits(script, flags, loop_on, digits, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["buffer.py", *map(str, (
        "--data_path", digits, "--model", NET, "--num_experts", 1, "--train_epochs", 2, "--max_start_epoch", 1,
        "--batch_train", 256, "--device", "cpu", "--precision", "fp32", "--buffer_path", tmp_path / "buffers"))])
    buffer.main()
    loop_on(script, "--model", NET, "--max_start_epoch", 1, "--syn_steps", 3, "--train_lr", "--buffer_path",
            tmp_path / "buffers", *flags)


@pytest.mark.parametrize("kind", ["clips", "pixels", "s2d"])
def test_no_epoch_waits(kind, digit_data):
    spec = digit_data.spec
    train_on = {"clips": lambda: on_device(digit_data.train),
                "pixels": lambda: VideoSet(10, 2, spec.shape),
                "s2d": lambda: StaticDynamicSet(10, 2, 4, 4, spec.shape, n_hal=2)}[kind]()
    network, dsa = utils.get_network(NET, spec, META), parse("color_cutout_flip")
    step = utils.make_step(network, torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9))
    if kind != "clips":
        train_on.to(META)
    with NoWaiting():
        for epoch in range(2):
            batches = utils.train_batches(train_on, 16, make_generator(epoch), META, utils.per_sample, dsa)
            utils.train_epoch(network, batches, step)


def test_a_test_pass_is_read_once(digit_data, monkeypatch):
    network, seen = utils.get_network(NET, digit_data.spec, META), []
    clips = on_device(digit_data.test)
    network.register_forward_hook(lambda module, args, logits: seen.append(len(logits)))
    with pytest.raises(AssertionError, match="a blocking copy from meta to cpu"), NoWaiting():      # at the end
        utils.evaluate(network, clips, 64, device=META)
    assert sum(seen) == len(clips) and len(seen) == 7


@pytest.mark.parametrize("view", ["clip", "single", "static"])
def test_frames_that_lie_on_a_device_give_the_same_clips(view, digit_data):
    there = copy(digit_data.train)
    there.spec = replace(there.spec, view=view)
    on_device = copy(there)
    on_device._frames_on = lambda device: torch.from_numpy(there.frames[np.arange(len(there.frames))])
    for indices in ([3], [5, 5, 539, 0]):
        assert on_device.get(indices).equal(there.get(indices))
        assert on_device.get(indices, make_generator(1)).equal(there.get(indices, make_generator(1)))
    draws = [ClassSampler(clips).sample([7, 2], 60, make_generator(2)) for clips in (on_device, there)]
    assert draws[0].equal(draws[1])


@pytest.fixture
def kernels():
    """Puts back what set_kernels sets for the process."""
    flags = [(torch.backends.cudnn, name) for name in ("allow_tf32", "deterministic", "benchmark")]
    before = [getattr(*flag) for flag in flags]
    yield
    for flag, value in zip(flags, before, strict=True):
        setattr(*flag, value)


@pytest.mark.parametrize("precision,tf32", [("bf16", True), ("fp32", False)])
def test_tf32_unless_float32_is_asked_for(precision, tf32, kernels):
    set_kernels(precision, META)
    assert torch.backends.cudnn.allow_tf32 == tf32
    assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark


class Replayed(utils.GraphedStep):
    """Replays by calling, so that a CPU can."""

    def capture(self, *batch):
        hits = torch.zeros((), dtype=torch.long)
        return lambda: hits.copy_(self.step(*batch)), batch, hits


def test_graphed_steps_are_the_steps(digit_data):
    """Two batch sizes, and a rate that is cut: as an evaluation takes them."""
    clips, weights, hits = digit_data.train, [], []
    for graphed in (False, True):
        with utils.seeded(1):
            network = utils.get_network(NET, clips.spec).eval()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
        step = utils.make_step(network, optimizer)
        step = Replayed(step, optimizer) if graphed else step
        for epoch in range(8):
            for batch in torch.arange(8 * epoch, 8 * epoch + 8).split(5):
                labels = clips.labels[batch]
                hits.append(step(utils.per_sample(clips.get(batch)), labels, labels))
            if epoch == 5:
                optimizer.param_groups[0]["lr"] *= 0.1
        weights.append(torch.cat([value.detach().flatten() for value in network.parameters()]))
    assert weights[0].equal(weights[1]) and hits[:16] == hits[16:] and sum(hits) > 0
    assert len(step.graphs) == 2 and {rate for _, rate in step.graphs} == {0.1 * 0.05}


# ---- on a GPU -------------------------------------------------------------------------------------------------------

def cuda(test):
    for mark in CUDA:
        test = mark(test)
    return test


@cuda
@pytest.mark.parametrize("place", ["auto", "device", "host"])
def test_a_gpu_sees_the_clips_that_a_cpu_sees(place, digit_data):
    clips = copy(digit_data.train)
    clips.location = place
    draws = [ClassSampler(clips).sample(range(10), 16, make_generator(3), device).cpu() for device in ("cpu", "cuda")]
    torch.testing.assert_close(draws[1], draws[0], rtol=0, atol=1e-6)
    assert (not clips.on_device) == (place == "host")


@cuda
def test_clips_from_the_host_travel_while_the_device_computes(digit_data):
    """Many batches in flight at once: none is overwritten before it is used."""
    clips = copy(digit_data.train)
    clips.location, big = "host", torch.randn(4096, 4096, device="cuda")
    batches = torch.arange(540).split(9)
    sums = []
    for batch in batches:
        big = big @ big / 4096
        sums.append(clips.get(batch, device="cuda").sum((1, 2, 3, 4)))
    torch.testing.assert_close(torch.cat(sums).cpu(), clips.get(range(540)).sum((1, 2, 3, 4)), rtol=1e-4, atol=1e-1)


@cuda
def test_a_seed_gives_the_same_bytes_on_a_gpu(digits, tmp_path):
    sets = []
    for name in "ab":
        run_script("distill_s2d_DM.py", "--model", NET, "--data_path", digits, "--save_path", tmp_path, "--name", name,
                   "--Iteration", 3, "--num_eval", 1, "--epoch_eval_train", 3, "--device", "cuda", "--batch_real", 8)
        sets.append((tmp_path / "S2D-DM" / name / "synset.safetensors").read_bytes())
    assert sets[0] == sets[1]


@cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cuda_graphs_give_the_same_network(dtype, digit_data, kernels):
    set_kernels("bf16", META)
    synset, weights = VideoSet(10, 2, digit_data.spec.shape), []
    synset.videos.data = digit_data.train.random_clips(2, make_generator(0)).flatten(0, 1)
    for graphs in (False, True):
        network = utils.train_network(synset.to("cuda"), digit_data.spec, NET, epochs=12, batch_size=16, device="cuda",
                                      dtype=dtype, graphs=graphs)
        weights.append(torch.cat([value.detach().flatten() for value in network.parameters()]))
    assert weights[0].equal(weights[1])


@cuda
def test_bfloat16_and_tf32_are_close_to_float32_on_a_gpu(digit_data, kernels):
    clips = utils.per_sample(digit_data.train.get(range(0, 540, 9)).cuda())
    labels = digit_data.train.labels[::9]
    with utils.seeded(0, "cuda"):
        network = utils.get_network("ConvNet3D", digit_data.spec, "cuda").eval()
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        set_kernels("fp32" if dtype == torch.float32 else "bf16", META)
        loss = torch.nn.functional.cross_entropy(utils.in_precision(network, dtype)(clips), labels.cuda())
        grads = torch.autograd.grad(loss, tuple(network.parameters()))
        results.append((loss.item(), torch.cat([grad.flatten() for grad in grads])))
    (exact, whole), (close, whole16) = results
    assert close == pytest.approx(exact, rel=1e-3)
    assert torch.nn.functional.cosine_similarity(whole, whole16, dim=0) > 0.99
