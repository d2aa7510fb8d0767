"""Every network of the table gives logits, features and gradients; ConvNet3D is the published one; Parallel works."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

import networks
from networks import NETWORKS, ConvNet3D, Parallel, lookup, modality, space_to_depth_conv

SIZES = (16, 28, 32, 48, 64, 96, 112, 128, 224)
LENGTHS = (1, 2, 4, 8, 15, 16, 17, 32)
VIDEO = [name for name in NETWORKS if modality(name) == "video"]
IMAGE = [name for name in NETWORKS if modality(name) == "image"]
CLASSES = 5


def make_spec(frames=8, size=32, num_classes=CLASSES, channels=3):
    return SimpleNamespace(num_classes=num_classes, frames=frames, size=size, channels=channels)


def make(name, spec, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return lookup(name)(spec)


def batch_shape(name, spec, batch=2):
    frames = (spec.frames,) if modality(name) == "video" else ()
    return batch, *frames, spec.channels, spec.size, spec.size


def make_batch(name, spec, batch=2, seed=1):
    return torch.randn(batch_shape(name, spec, batch), generator=torch.Generator().manual_seed(seed))


def count(net):
    return sum(p.numel() for p in net.parameters())


def meta(name, spec):
    """The network and a batch of two, with shapes and no numbers: no memory, no work."""
    with torch.device("meta"):
        return lookup(name)(spec), torch.empty(batch_shape(name, spec))


# The table


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_features_and_gradient(name):
    spec = make_spec()
    net, x = make(name, spec).eval(), make_batch(name, spec).requires_grad_()
    assert net.modality == modality(name)
    logits, features = net(x), net.embed(x)
    assert logits.shape == (2, CLASSES) and torch.isfinite(logits).all()
    assert features.ndim == 2 and len(features) == 2 and torch.isfinite(features).all()
    # Two clips do not look the same, nor do the features of one.
    assert (features[0] - features[1]).abs().max() > 1e-4 and features.std(1).min() > 1e-4
    if not isinstance(net, ConvNet3D):  # which has its own tests below
        torch.testing.assert_close(net.classifier(features), logits)
        assert not any(isinstance(module, nn.Dropout) for module in net.modules())
    (grad,) = torch.autograd.grad(logits.logsumexp(1).sum(), x)
    assert torch.isfinite(grad).all() and (grad.flatten(1).abs().amax(1) > 0).all()
    # A prediction is a clip's own: the other clips of the batch have no part in it.
    with torch.no_grad():
        torch.testing.assert_close(net(x[:1]), logits[:1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", IMAGE)
def test_image_networks_at_larger_sizes(name):
    for size in (64, 96, 112):
        net, x = meta(name, make_spec(size=size))
        assert net(x).shape == (2, CLASSES)


@pytest.mark.parametrize("name", IMAGE)
def test_image_networks_on_one_small_image(name):
    for spec in (make_spec(size=16), make_spec(size=28, channels=1)):
        net, x = make(name, spec).eval(), make_batch(name, spec, batch=1)
        with torch.no_grad():
            assert torch.isfinite(net(x)).all()
            # No map was normalised to nothing on its way.
            assert net.embed(x).std() > 1e-4


@pytest.mark.parametrize("name", ["ConvNet3D", "ConvNet3DD2", "ConvNet3DD1"])
def test_convnet3d_at_every_size_and_length(name):
    net, _ = meta(name, make_spec())  # one network for them all
    for size in SIZES:
        for frames in LENGTHS:
            x = torch.empty(2, frames, 3, size, size, device="meta")
            assert net(x).shape == (2, CLASSES)


@pytest.mark.parametrize("name", [name for name in VIDEO if name.endswith("W32") and "ConvNet3D" not in name])
def test_networks_per_frame_at_every_size_and_length(name):
    # Time and space meet in no layer here: each on its own will do.
    for size in SIZES:
        net, x = meta(name, make_spec(1, size))
        assert net(x).shape == (2, CLASSES)
    for frames in LENGTHS:
        spec = make_spec(frames, 16)
        with torch.no_grad():
            assert make(name, spec)(make_batch(name, spec)).shape == (2, CLASSES)


@pytest.mark.parametrize("frames, size", [(1, 16), (2, 28), (15, 48), (17, 32)])
def test_convnet3d_trains_on_odd_clips(frames, size):
    spec = make_spec(frames, size)
    net, x = make("ConvNet3DW16", spec).train(), make_batch("ConvNet3DW16", spec)
    net(x).sum().backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.any() for p in net.parameters())


def test_same_seed_same_weights():
    for name in ("ConvNet3DW16", "VideoConvNetGRUW32", "MLP", "ConvNetD4", "LeNet", "VGG11", "ResNet18"):
        one, same, other = (make(name, make_spec(2, 16), seed).state_dict() for seed in (3, 3, 4))
        assert all(torch.equal(one[key], same[key]) for key in one)
        assert any(not torch.equal(one[key], other[key]) for key in one)


def test_unknown_name_lists_the_choices():
    for fail in (lookup, modality):
        with pytest.raises(ValueError, match="'ConvNet4D'") as error:
            fail("ConvNet4D")
        assert all(name in str(error.value) for name in NETWORKS)


@pytest.mark.parametrize(
    "name, size, parameters, features",
    [
        ("ConvNet", 32, 320_010, 2048),
        ("ConvNet", 28, 320_010, 2048),  # padded to 32
        ("ConvNetD4", 112, 510_090, 6272),
        ("LeNet", 32, 62_006, 84),
        ("VGG11BN", 32, 9_231_114, 512),
        ("ResNet18BN", 32, 11_173_962, 512),
        ("ResNet18BN_AP", 32, 11_250_762, 8192),
        ("ConvNetD5", 112, 606_730, 1152),
        ("ConvNetD7", 128, 892_170, 128),
    ],
)
def test_known_sizes_of_image_networks(name, size, parameters, features):
    spec = make_spec(size=size, num_classes=10)
    net, x = meta(name, spec)
    assert count(net) == parameters
    assert net.embed(x).shape == (2, features)


@pytest.mark.parametrize("name", [name for name in IMAGE if name.startswith("ResNet")])
def test_resnet_knows_the_side_of_its_maps(name):
    for size in (9, 28, 112):  # its norm layers are chosen by it
        net, x = meta(name, make_spec(size=size))
        assert net.features(x).shape[-1] == net.features[-1].side


@pytest.mark.parametrize("name", ["ResNet18_AP", "ResNet18BN_AP"])
def test_the_classifier_of_resnet18_ap_sees_the_whole_map(name):
    net, x = make(name, make_spec()).eval(), make_batch(name, make_spec())
    with torch.no_grad():
        maps = net.features(x)
        assert maps.shape == (2, 512, 4, 4) and torch.equal(net.embed(x), maps.flatten(1))
        assert torch.equal(net(x), F.linear(maps.flatten(1), net.classifier.weight, net.classifier.bias))


# Networks per frame


@pytest.mark.parametrize("frames, size", [(8, 64), (16, 64), (16, 112)])
@pytest.mark.parametrize("kind, parameters, features", [
    ("GRU", 28_668_466, 1024), ("RNN", 9_790_002, 1024), ("LSTM", 537_645_618, 8192), ("Mean", 709_170, 8192)])
def test_networks_per_frame_have_the_published_sizes(kind, parameters, features, frames, size):
    net, x = meta(f"VideoConvNet{kind}", make_spec(frames, size, num_classes=50))
    assert count(net) == parameters and net.embed(x).shape == (2, features)


@pytest.mark.parametrize("frames, parameters", [(16, 848_434), (8, 782_898)])
def test_the_published_mlp_has_a_weight_for_each_feature_and_frame(frames, parameters):
    net, x = meta("VideoConvNetMLP", make_spec(frames, 112, num_classes=50))     # published: 16 frames
    assert count(net) == parameters and net.embed(x).shape == (2, 8192)
    small = make_spec(frames=3, size=16)
    net, x = make("VideoConvNetMLP", small), make_batch("VideoConvNetMLP", small)
    with torch.no_grad():
        frames = torch.stack([net.features(x[:, t]).flatten(1) for t in range(3)])
        weighted = sum(weights * frame for weights, frame in zip(net.over_time.weight, frames, strict=True))
        torch.testing.assert_close(net.embed(x), weighted + net.over_time.bias)
    weights = net.over_time.weight.detach()
    assert float(weights.std()) == pytest.approx(1, abs=0.1) and abs(float(weights.mean())) < 0.1


@pytest.mark.parametrize("name", [f"VideoConvNet{kind}" for kind in networks.PUBLISHED_OVER_TIME])
def test_published_networks_per_frame_see_the_central_64_pixels(name):
    if name == "VideoConvNetLSTM":
        pytest.skip("two gigabytes of weights; it is cropped as the others are")
    larger, central = make_spec(2, 72, channels=1), make_spec(2, 64, channels=1)
    net, same = make(name, larger).eval(), make(name, central).eval()
    x = make_batch(name, larger)
    with torch.no_grad():
        assert torch.equal(net(x), same(x[..., 4:68, 4:68]))
        assert torch.equal(net.embed(x), same.embed(x[..., 4:68, 4:68]))


def test_our_own_networks_per_frame_see_the_whole_clip():
    for name in (name for name in VIDEO if "VideoConvNet" in name and name.endswith(("_small", "W32"))):
        net, x = meta(name, make_spec(2, 72))
        assert net.features(x.flatten(0, 1)).shape[-1] == 9 and net.side == 72


# ConvNet3D


@pytest.mark.parametrize("frames, size, features", [(16, 112, 2048), (8, 64, 256)])
def test_convnet3d_is_the_published_one(frames, size, features):
    spec = make_spec(frames, size, num_classes=50)
    net, x = meta("ConvNet3D", spec)
    assert count(net) == 3_647_666
    assert net(x).shape == (2, 50) and net.embed(x).shape == (2, features)
    norms = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
    assert not any(isinstance(module, norms) for module in net.modules())
    assert not list(net.buffers())


@pytest.mark.parametrize("frames, size", [(16, 112), (8, 64)])
def test_convnet3d_against_its_description(frames, size):
    spec = make_spec(frames, size, num_classes=50)
    net, x = make("ConvNet3D", spec).eval(), make_batch("ConvNet3D", spec, batch=1)
    w1, b1, w2, b2, w3, b3, w4, b4 = net.parameters()
    with torch.no_grad():
        map_ = x.permute(0, 2, 1, 3, 4)
        map_ = F.max_pool3d(F.conv3d(map_, w1, b1, (1, 2, 2), (1, 3, 3)).relu(), (1, 2, 2))
        map_ = F.max_pool3d(F.conv3d(map_, w2, b2, (1, 2, 2), (1, 3, 3)).relu(), (2, 2, 2))
        map_ = F.max_pool3d(F.conv3d(map_, w3, b3, (1, 2, 2), (1, 3, 3)).relu(), (2, 2, 2))
        torch.testing.assert_close(net.embed(x), map_.reshape(1, -1))
        pooled = F.avg_pool3d(map_, (2, 2, 2) if size > 64 else (2, 1, 1), stride=1)
        assert pooled.shape[3:] == (1, 1)
        logits = torch.einsum("bcthw,kc->bkt", pooled, w4[:, :, 0, 0, 0]) + b4[:, None]
        torch.testing.assert_close(net(x), logits.amax(2))


def test_convnet3d_uses_dropout_in_forward_alone():
    spec = make_spec()
    net, x = make("ConvNet3D", spec).train(), make_batch("ConvNet3D", spec)
    with torch.no_grad():
        assert not torch.equal(net(x), net(x))
        features = net.embed(x)
        net.eval()
        assert torch.equal(net(x), net(x)) and torch.equal(net.embed(x), features)


def test_widths_scale_alike():
    def widths(name):
        return [p.shape[0] for p in make(name, make_spec()).parameters() if p.ndim == 5]

    assert widths("ConvNet3D") == [64, 128, 128, CLASSES]
    assert widths("ConvNet3DW16") == [16, 32, 32, CLASSES]
    assert widths("ConvNet3DD1") == [64, CLASSES]
    assert widths("ConvNet3DD2W32") == [32, 64, CLASSES]


# What the matching methods ask of a network


@pytest.mark.parametrize("name", [f"VideoConvNet{kind}{ours}" for kind in ("RNN", "LSTM", "GRU")
                                  for ours in ("", "_small", "W32")])
def test_recurrent_features_are_torchs_own(name):
    spec = make_spec(frames=5, size=16)
    net = make(name, spec)
    cell = net.over_time.cell
    kind = type(cell).__name__.removesuffix("Cell")
    whole = getattr(nn, kind)(cell.input_size, cell.hidden_size, batch_first=True)
    whole.load_state_dict({f"{key}_l0": value for key, value in cell.state_dict().items()})
    x = make_batch(name, spec)
    with torch.no_grad():
        frames = torch.stack([net.features(x[:, t]).flatten(1) for t in range(5)], 1)
        outputs = whole(frames)[0]
        published = name.endswith(kind)
        torch.testing.assert_close(net.embed(x), outputs.mean(1) if published else outputs[:, -1])


def second_derivative(name, device):
    spec = make_spec(frames=4)
    net, x = make(name, spec).to(device), make_batch(name, spec).to(device).requires_grad_()
    loss = F.cross_entropy(net(x), torch.tensor([0, 1], device=device))
    grads = torch.autograd.grad(loss, list(net.parameters()), create_graph=True)
    return torch.autograd.grad(sum(g.square().sum() for g in grads), x)[0]


MATCHED = ["ConvNet3DW16", "ConvNetD4W32"] + [f"VideoConvNet{kind}{ours}" for ours in ("W32", "")
                                              for kind in ("Mean", "MLP", "RNN", "LSTM", "GRU")]


@pytest.mark.parametrize("name", MATCHED)
def test_gradients_have_gradients(name):
    grad = second_derivative(name, "cpu")
    assert torch.isfinite(grad).all() and grad.abs().max() > 0


@pytest.mark.parametrize("name", MATCHED)
def test_weights_can_be_handed_in(name):
    spec = make_spec(frames=4)
    net, other = make(name, spec, seed=0).eval(), make(name, spec, seed=1).eval()
    x = make_batch(name, spec)
    with torch.no_grad():
        torch.testing.assert_close(functional_call(net, dict(other.named_parameters()), (x,)), other(x))


# Data parallel


def test_parallel_sends_forward_and_embed_through_the_replicas(monkeypatch):
    calls = []
    forward = nn.DataParallel.forward

    def counted(self, *inputs, **kwargs):
        calls.append(inputs[0].shape)
        # A keyword would reach a device that gets no clip of a small batch.
        assert not kwargs
        return forward(self, *inputs, **kwargs)

    monkeypatch.setattr(nn.DataParallel, "forward", counted)
    spec = make_spec()
    net, x = make("ConvNet3DW16", spec).eval(), make_batch("ConvNet3DW16", spec)
    parallel = Parallel(net, device_ids=[]).eval()
    with torch.no_grad():
        assert torch.equal(parallel(x), net(x)) and len(calls) == 1
        assert torch.equal(parallel.embed(x), net.embed(x)) and len(calls) == 2


def test_parallel_holds_the_plain_network_once():
    net = make("ConvNet3DW16", make_spec())
    parallel = Parallel(net, device_ids=[])
    assert parallel.module is net and parallel.modality == "video"
    assert [id(p) for p in parallel.parameters()] == [id(p) for p in net.parameters()]
    assert len(parallel.state_dict()) == len(net.state_dict())
    assert not parallel.eval().module.training


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", MATCHED)
def test_gradients_have_gradients_on_a_gpu(name):
    grad = second_derivative(name, "cuda")
    assert torch.isfinite(grad).all() and grad.abs().max() > 0


@pytest.mark.cuda
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("name", ["ConvNet3DW16", "VideoConvNetLSTMW32", "ConvNetD4W32"])
@pytest.mark.parametrize("batch", [1, 5])
def test_parallel_uses_every_gpu(name, batch):
    spec = make_spec()
    net, x = make(name, spec).cuda().eval(), make_batch(name, spec, batch).cuda()
    parallel, devices = Parallel(net), set()
    hook = nn.modules.module.register_module_forward_pre_hook(lambda module, args: devices.add(args[0].device))
    try:
        with torch.no_grad():
            torch.testing.assert_close(parallel(x), net(x), rtol=1e-3, atol=1e-4)
            devices.clear()
            features = parallel.embed(x)
            assert len(devices) == len(x.chunk(torch.cuda.device_count()))
            torch.testing.assert_close(features, net.embed(x), rtol=1e-3, atol=1e-4)
    finally:
        hook.remove()


@pytest.mark.parametrize("size", [(8, 8), (9, 9), (7, 12), (1, 2), (16, 5)])
def test_the_space_to_depth_conv_is_the_convolution(size):
    """Values, gradients and second derivatives."""
    torch.manual_seed(0)
    conv = torch.nn.Conv3d(3, 4, (3, 7, 7), stride=(1, 2, 2), padding=(1, 3, 3)).double()
    x = torch.randn(2, 3, 5, *size, dtype=torch.float64, requires_grad=True)
    results = []
    for function in (conv, lambda x: space_to_depth_conv(conv, x)):
        y = function(x)
        gradients = torch.autograd.grad(torch.tanh(y).square().sum(), (x, conv.weight, conv.bias), create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in gradients), (x, conv.weight, conv.bias))
        results.append((y, *gradients, *second))
    torch.testing.assert_close(results[1], results[0])


def test_clips_that_are_learned_go_through_the_space_to_depth_conv(monkeypatch):
    seen, spec = [], SimpleNamespace(num_classes=2, frames=4, size=16, channels=3)
    monkeypatch.setattr(networks, "space_to_depth_conv", lambda conv, x: seen.append(x.shape) or conv(x))
    network, x = NETWORKS["ConvNet3DD2W16"](spec), torch.randn(1, 4, 3, 16, 16)
    network(x)
    assert not seen
    network(x.requires_grad_())
    assert seen == [(1, 3, 4, 16, 16)]      # the first layer only


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cpu_takes_a_few_clips_at_a_time_to_the_same_values_and_gradients(dtype, monkeypatch):
    spec, taken, of_all = make_spec(4, 20), [], ConvNet3D._feature_map
    network = lookup("ConvNet3DD2W16")(spec)
    clips = make_batch("ConvNet3DD2W16", spec, 7).to(dtype).requires_grad_()
    monkeypatch.setattr(ConvNet3D, "_feature_map", lambda self, x: taken.append(len(x)) or of_all(self, x))

    def results():
        out = network.embed(clips)
        return out, *torch.autograd.grad(out.float().square().sum(), (clips, *network.convs.parameters()))

    whole = results()
    monkeypatch.setattr(networks, "CACHE", 3 * 16 * 4 * 20 * 20)
    for a, b in zip(whole, results(), strict=True):
        assert (a - b).norm() < (1e-5 if dtype == torch.float32 else 1e-2) * a.norm()
    assert taken == [7, 3, 3, 1] and network.embed(clips[:0]).shape == (0, whole[0].shape[1])
