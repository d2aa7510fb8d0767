"""--precision: what is computed in bfloat16 stays close to float32, and weights and results are float32.

A CPU that does not multiply in bfloat16 takes up to 40 times as long for it, so clips are few, and small where nothing
depends on their size.
"""
import sys

import pytest
import torch
import torch.nn.functional as F

import distill_DM
from conftest import NET
from distill_utils.device import in_precision, resolve_precision
from distill_utils.matching import class_means, dm_loss
from distill_utils.seeds import make_generator, seeded
from networks import NETWORKS, Dispatch, modality
from utils import (
    evaluate,
    evaluate_synset,
    get_dataset,
    get_network,
    get_spec,
    make_step,
    per_sample,
    train_batches,
    train_epoch,
)

BF16 = torch.bfloat16
TINY = {"frames": 4, "im_size": 16}
SPEC = get_spec("MotionDigits", **TINY)


def cosine(a, b):
    return F.cosine_similarity(a.flatten().double(), b.flatten().double(), dim=0)


@pytest.fixture(scope="module")
def clips(few_digits):
    """Four clips a class, of 8 frames and 32 pixels, and their labels; classes come one after the other."""
    train = get_dataset("MotionDigits", few_digits).train
    return per_sample(train.get(range(40))), train.labels


@pytest.fixture(scope="module")
def tiny(few_digits):
    """The data set of those clips and two test clips a class, of 4 frames and 16 pixels."""
    return get_dataset("MotionDigits", few_digits, **TINY)


@pytest.fixture
def distill(few_digits, tmp_path, monkeypatch):
    """Runs distill_DM.py in this process."""
    def call(*words):
        monkeypatch.setattr(sys, "argv", ["distill_DM.py", *map(str, (
            "--model", NET, "--data_path", few_digits, "--save_path", tmp_path, "--num_eval", 1, "--batch_real", 2,
            "--epoch_eval_train", 1, "--device", "cpu", "--frames", 4, "--im_size", 16, *words))])
        distill_DM.main()
    return call


@pytest.mark.parametrize("size", [32, 16])
@pytest.mark.parametrize("name", [NET, "ConvNet3D", "ConvNet3DD1", "VideoConvNetMeanW32", "VideoConvNetGRUW32"])
def test_loss_and_gradients_are_those_of_float32(name, size, clips):
    """Each parameter's gradient: the CPU's kernels were seen to give wrong ones for maps of one pixel. They differ by
    more than rounding, since ties of a maximum fall otherwise."""
    with seeded(0):
        network = get_network(name, get_spec("MotionDigits", 8, size)).eval()      # no dropout: masks would differ
    x, labels = (part[::size // 8] for part in clips)       # of large clips one a class, of small ones two
    x, results = F.interpolate(x.flatten(0, 1), size).unflatten(0, x.shape[:2]), []
    for dtype in (torch.float32, BF16):
        loss = F.cross_entropy(in_precision(network, dtype)(x), labels)
        results.append((loss, torch.autograd.grad(loss, tuple(network.parameters()))))
    (loss, gradients), (loss16, gradients16) = results
    whole, whole16 = (torch.cat([g.flatten() for g in gradients]) for _, gradients in results)
    assert not whole16.equal(whole) and abs(loss16 / loss - 1) < 1e-3
    for exact, close in zip(gradients, gradients16, strict=True):
        assert close.dtype == torch.float32 and (exact - close).norm() < 0.2 * exact.norm() + 0.001 * whole.norm()
    assert cosine(whole, whole16) > 0.995


def test_gradients_of_a_network_that_has_learned(tiny):
    """At random weights the gradients of the classes all but cancel, and bfloat16 changes what is left about as much as
    noise of one part in 512 on the clips does in float32; once the network has learned neither does."""
    with seeded(0):
        network = get_network(NET, SPEC).eval()
    network.dropout.p = 0       # with it or in float32, each kind of processor would come to other weights
    x, labels = per_sample(tiny.train.get(range(40))), tiny.train.labels
    noisy = [x * (1 + torch.randn(x.shape, generator=make_generator(seed)) * 2 ** -9) for seed in range(5)]

    def gradient(clips, dtype=torch.float32):
        loss = F.cross_entropy(in_precision(network, dtype)(clips), labels)
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, tuple(network.parameters()))])

    def effects():
        """1 - cosine of the gradient in bfloat16, and the mean of those of the noisy clips."""
        exact, close = gradient(x), gradient(x, BF16)
        assert not close.equal(exact)
        return 1 - cosine(exact, close), 1 - torch.stack([cosine(exact, gradient(clips)) for clips in noisy]).mean()

    first, of_noise = effects()
    assert first < 3 * of_noise < 0.01
    step = make_step(network.double(), torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9))
    for epoch in range(10):
        train_epoch(network, train_batches(tiny.train, 8, make_generator(epoch), "cpu",
                                           lambda clips: per_sample(clips.double())), step)
    network.float().eval()
    assert F.cross_entropy(network(x), labels) < 1.5 and max(effects()) < 0.001


def test_dm_with_real_features_in_bfloat16(tiny):
    with seeded(1):
        network = get_network(NET, SPEC).requires_grad_(False)
    clips = per_sample(tiny.train.get(range(40)))
    real, synthetic = clips.unflatten(0, (10, 4)), clips[:20].unflatten(0, (10, 2)).clone().requires_grad_()
    exact, close = (dm_loss(network.embed, class_means(in_precision(network.embed, dtype), real), synthetic)
                    for dtype in (torch.float32, BF16))
    assert close != exact and abs(close / exact - 1) < 1e-3
    assert cosine(*(torch.autograd.grad(loss, synthetic)[0] for loss in (exact, close))) > 0.999


def test_the_weights_stay_float32_and_small_steps_are_not_lost(clips):
    (inputs, labels), weights = [part[::4] for part in clips], []
    batch = inputs, labels, labels
    for dtype in (torch.float32, BF16):
        with seeded(2):     # dropout too
            network = get_network(NET, get_spec("MotionDigits"))
            before = [p.detach().clone() for p in network.parameters()]
            train_epoch(network, [batch], make_step(network, torch.optim.SGD(network.parameters(), lr=1e-6), dtype))
        weights.append(list(network.parameters()))
    for old, new in zip(before, weights[1], strict=True):
        assert new.dtype == torch.float32 and new.is_contiguous() and not torch.equal(old, new)
    assert not all(map(torch.equal, *weights))      # gradients were those of bfloat16


def test_an_evaluation_in_bfloat16_repeats_and_is_close(tiny):
    with seeded(3):
        network = get_network(NET, SPEC)
    exact, close, again = (evaluate(network, tiny.train, dtype=dtype) for dtype in (torch.float32, BF16, BF16))
    assert close.loss == again.loss != exact.loss and close.loss == pytest.approx(exact.loss, rel=1e-3)
    assert close.top1 == exact.top1
    exact, close, again = (evaluate_synset(tiny.train, tiny, NET, epochs=1, dtype=dtype)
                           for dtype in (torch.float32, BF16, BF16))
    assert close.loss == again.loss != exact.loss and close.loss == pytest.approx(exact.loss, rel=1e-2)


@pytest.mark.parametrize("name", sorted(name for name in NETWORKS if modality(name) == "video"))
def test_every_video_network_computes_in_bfloat16(name):
    with seeded(0):
        network = get_network(name, SPEC)
    x = torch.randn(2, *SPEC.shape)
    for function in (network, network.embed):
        assert in_precision(function, BF16)(x).dtype == torch.float32
        assert in_precision(function, torch.float32) == function


def test_auto_follows_the_processor(monkeypatch):
    device = torch.device("cpu")
    for fast, wanted in ((True, BF16), (False, torch.float32)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda fast=fast: fast)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        assert resolve_precision("auto", device) == wanted
        assert resolve_precision("bf16", device) == BF16 and resolve_precision("fp32", device) == torch.float32


def test_augmentation_and_standardisation_are_in_float32(distill, monkeypatch):
    from distill_utils.augment import Augmentation
    seen, apply = [], Augmentation.apply
    monkeypatch.setattr(Augmentation, "apply", lambda self, x, draw: seen.append(x.dtype) or apply(self, x, draw))
    distill("--Iteration", 1, "--dsa_strategy", "scale", "--precision", "bf16")
    assert len(seen) > 2 and set(seen) == {torch.float32}


@pytest.mark.parametrize("name", [NET, "VideoConvNetMeanW32"])
def test_a_replica_computes_in_the_type_of_its_clips(name):
    """Its thread does not know the type of the autocast around it."""
    with seeded(0):
        network = get_network(name, SPEC).eval()
    x = torch.randn(2, *SPEC.shape)
    for features, wanted in ((False, network), (True, network.embed)):
        assert Dispatch(network)(x.to(BF16), features).float().equal(in_precision(wanted, BF16)(x))


def test_runs_and_experts_of_before_the_flag_are_of_float32(distill, tmp_path, capsys):
    flags = ["--Iteration", 2, "--name", "x"]
    distill(*flags, "--precision", "fp32")
    file = tmp_path / "DM" / "x" / "checkpoint.pt"
    checkpoint = torch.load(file, weights_only=True)
    assert checkpoint["args"].pop("precision") == "fp32" and checkpoint["args"].pop("bank") is None
    torch.save(checkpoint, file)
    with pytest.raises(ValueError, match="--precision was 'fp32' and is now 'bf16'"):
        distill(*flags, "--precision", "bf16", "--resume")
    capsys.readouterr()
    distill(*flags, "--precision", "fp32", "--resume")
    assert '"precision": "fp32"' in capsys.readouterr().out
