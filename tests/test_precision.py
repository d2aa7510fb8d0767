"""--precision: what is computed in bfloat16 stays close to float32, and weights and results are float32."""
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from conftest import NET, run_script
from distill_utils.device import in_precision, resolve_precision
from distill_utils.matching import class_means, dm_loss
from distill_utils.seeds import make_generator, seeded
from networks import NETWORKS, Dispatch, modality
from utils import evaluate, evaluate_synset, get_network, make_step, per_sample, train_batches, train_epoch

BF16 = torch.bfloat16


def cosine(a, b):
    return F.cosine_similarity(a.flatten().double(), b.flatten().double(), dim=0)


@pytest.fixture(scope="module")
def clips(digit_data):
    return per_sample(digit_data.train.get(range(0, 540, 9))), digit_data.train.labels[::9]


@pytest.mark.parametrize("size", [32, 16])
@pytest.mark.parametrize("name", [NET, "ConvNet3D", "ConvNet3DD1", "VideoConvNetMeanW32", "VideoConvNetGRUW32"])
def test_loss_and_gradients_are_those_of_float32(name, size, digit_data, clips):
    """Each parameter's gradient: the CPU's kernels were seen to give wrong ones for maps of one pixel. They differ by
    more than rounding, since ties of a maximum fall otherwise."""
    with seeded(0):
        network = get_network(name, replace(digit_data.spec, size=size)).eval()     # no dropout: masks would differ
    x, results = F.interpolate(clips[0].flatten(0, 1), size).unflatten(0, clips[0].shape[:2]), []
    for dtype in (torch.float32, BF16):
        loss = F.cross_entropy(in_precision(network, dtype)(x), clips[1])
        results.append((loss, torch.autograd.grad(loss, tuple(network.parameters()))))
    (loss, gradients), (loss16, gradients16) = results
    assert loss16 != loss and abs(loss16 / loss - 1) < 1e-3
    whole, whole16 = (torch.cat([g.flatten() for g in gradients]) for _, gradients in results)
    for exact, close in zip(gradients, gradients16, strict=True):
        assert close.dtype == torch.float32 and (exact - close).norm() < 0.2 * exact.norm() + 0.001 * whole.norm()
    assert cosine(whole, whole16) > 0.995


def test_gradients_of_a_network_that_has_learned(digit_data, clips):
    """At random weights the gradients of the classes all but cancel, and bfloat16 changes what is left about as much as
    noise of one part in 512 on the clips does in float32; after an epoch neither does."""
    with seeded(0):
        network = get_network(NET, digit_data.spec).eval()
    cosines = []
    for epoch in range(2):
        noisy, gradients = clips[0] * (1 + torch.randn(clips[0].shape, generator=make_generator(epoch)) * 2 ** -9), []
        for x, dtype in ((clips[0], torch.float32), (clips[0], BF16), (noisy, torch.float32)):
            loss = F.cross_entropy(in_precision(network, dtype)(x), clips[1])
            gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, tuple(network.parameters()))]))
        cosines.append([cosine(gradients[0], other) for other in gradients[1:]])
        step = make_step(network, torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9))
        train_epoch(network, train_batches(digit_data.train, 32, make_generator(epoch), "cpu", per_sample), step)
        network.eval()
    (first, noise_at_first), later = cosines
    assert 1 - first < 3 * (1 - noise_at_first) < 0.01 and min(later) > 0.999


def test_dm_with_real_features_in_bfloat16(digit_data, clips):
    with seeded(1):
        network = get_network(NET, digit_data.spec).requires_grad_(False)
    real, synthetic = clips[0].unflatten(0, (10, 6)), clips[0][:20].unflatten(0, (10, 2)).clone().requires_grad_()
    exact, close = (dm_loss(network.embed, class_means(in_precision(network.embed, dtype), real), synthetic)
                    for dtype in (torch.float32, BF16))
    assert close != exact and abs(close / exact - 1) < 1e-3
    assert cosine(*(torch.autograd.grad(loss, synthetic)[0] for loss in (exact, close))) > 0.999


def test_the_weights_stay_float32_and_small_steps_are_not_lost(digit_data, clips):
    with seeded(2):
        network = get_network(NET, digit_data.spec)
    before = [p.detach().clone() for p in network.parameters()]
    train_epoch(network, [clips], make_step(network, torch.optim.SGD(network.parameters(), lr=1e-6), BF16))
    for old, new in zip(before, network.parameters(), strict=True):
        assert new.dtype == torch.float32 and new.is_contiguous() and not torch.equal(old, new)


def test_an_evaluation_in_bfloat16_repeats_and_is_close(digit_data):
    with seeded(3):
        network = get_network(NET, digit_data.spec)
    exact, close, again = (evaluate(network, digit_data.test, dtype=dtype) for dtype in (torch.float32, BF16, BF16))
    assert close.loss == again.loss != exact.loss and close.loss == pytest.approx(exact.loss, rel=1e-3)
    assert abs(close.top1 - exact.top1) < 0.02
    few = digit_data._replace(test=digit_data.test)
    first, second = (evaluate_synset(few.train, few, NET, epochs=1, dtype=BF16) for _ in range(2))
    assert first.loss == second.loss


@pytest.mark.parametrize("name", sorted(name for name in NETWORKS if modality(name) == "video"))
def test_every_video_network_computes_in_bfloat16(name, digit_data):
    with seeded(0):
        network = get_network(name, digit_data.spec)
    x = torch.randn(2, *digit_data.spec.shape)
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


def test_augmentation_and_standardisation_are_in_float32(few_digits, tmp_path, monkeypatch):
    import sys

    import distill_DM
    from distill_utils.augment import Augmentation
    seen, apply = [], Augmentation.apply
    monkeypatch.setattr(Augmentation, "apply", lambda self, x, draw: seen.append(x.dtype) or apply(self, x, draw))
    monkeypatch.setattr(sys, "argv", ["distill_DM.py", *map(str, (
        "--model", NET, "--data_path", few_digits, "--save_path", tmp_path, "--Iteration", 1, "--num_eval", 1,
        "--batch_real", 2, "--epoch_eval_train", 1, "--device", "cpu", "--dsa_strategy", "scale",
        "--precision", "bf16"))])
    distill_DM.main()
    assert len(seen) > 2 and set(seen) == {torch.float32}


@pytest.mark.parametrize("name", [NET, "VideoConvNetMeanW32"])
def test_a_replica_computes_in_the_type_of_its_clips(name, digit_data):
    """Its thread does not know the type of the autocast around it."""
    with seeded(0):
        network = get_network(name, digit_data.spec).eval()
    x = torch.randn(2, *digit_data.spec.shape)
    for features, wanted in ((False, network), (True, network.embed)):
        assert Dispatch(network)(x.to(BF16), features).float().equal(in_precision(wanted, BF16)(x))


def test_runs_and_experts_of_before_the_flag_are_of_float32(few_digits, tmp_path):
    flags = ["--model", NET, "--data_path", few_digits, "--save_path", tmp_path, "--Iteration", 2, "--num_eval", 1,
             "--batch_real", 2, "--epoch_eval_train", 1, "--device", "cpu", "--name", "x"]
    run_script("distill_DM.py", *flags, "--precision", "fp32")
    file = tmp_path / "DM" / "x" / "checkpoint.pt"
    checkpoint = torch.load(file, weights_only=True)
    assert checkpoint["args"].pop("precision") == "fp32" and checkpoint["args"].pop("bank") is None
    torch.save(checkpoint, file)
    done = run_script("distill_DM.py", *flags, "--precision", "bf16", "--resume", check=False)
    assert "--precision was 'fp32' and is now 'bf16'" in done.stderr
    assert '"precision": "fp32"' in run_script("distill_DM.py", *flags, "--precision", "fp32", "--resume").stdout
