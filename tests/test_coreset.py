"""Selection baselines against brute force: every candidate at every step, full distance matrices, exhaustive optima."""

from itertools import combinations
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from conftest import NET
from distill_coreset import read_weights
from distill_utils.coreset import METHODS, herding, k_center, random_choice
from distill_utils.dataset import get_spec
from utils import get_network

SPEC = get_spec("MotionDigits")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(num_samples, dim, seed, offset=0.0):
    return torch.randn(num_samples, dim, generator=generator(seed), dtype=torch.float64) + offset


def distances(features):
    return (features[:, None] - features[None]).norm(dim=2)


def cover_radius(matrix, chosen):
    return matrix[:, list(chosen)].min(1).values.max().item()


def herding_by_hand(features, n):
    chosen = []
    for _ in range(n):
        rest = [i for i in range(len(features)) if i not in chosen]
        chosen.append(min(rest, key=lambda i: (features[[*chosen, i]].mean(0) - features.mean(0)).norm().item()))
    return chosen


def k_center_by_hand(features, n):
    matrix = distances(features)
    chosen = [(features - features.mean(0)).norm(dim=1).argmin().item()]
    for _ in range(n - 1):
        rest = [i for i in range(len(features)) if i not in chosen]
        chosen.append(max(rest, key=lambda i: min(matrix[i, j].item() for j in chosen)))
    return chosen


@pytest.mark.parametrize("offset", [0.0, 1e7])  # so far from the origin, x^2 + y^2 - 2xy cancels even in float64
@pytest.mark.parametrize("seed", range(3))
def test_herding_is_the_best_of_all_candidates_at_each_step(seed, offset):
    features = draw(15, 6, seed, offset)
    assert herding(features, 15).tolist() == herding_by_hand(features, 15)


@pytest.mark.parametrize("offset", [0.0, 1e7])
@pytest.mark.parametrize("n", range(1, 6))
def test_k_center_is_the_farthest_point_of_the_full_matrix(n, offset):
    for seed in range(5):
        features = draw(20, 6, seed, offset)
        assert k_center(features, n).tolist() == k_center_by_hand(features, n)


@pytest.mark.parametrize("n", range(1, 5))
def test_k_center_covers_within_twice_the_optimum(n):
    for seed in range(5):
        features = draw(9, 2, seed)
        matrix = distances(features)
        best = min(cover_radius(matrix, subset) for subset in combinations(range(9), n))
        assert cover_radius(matrix, k_center(features, n)) <= 2 * best + 1e-12


def test_k_center_keeps_its_precision_in_float32_far_from_the_origin():
    # In float32 the expanded form loses these distances altogether: 1e6 squared leaves no bit for 1, 2 and 4.
    features = torch.tensor([[0.0], [1.0], [2.0], [7.0]]) + 1e6
    assert k_center(features, 3).tolist() == [2, 3, 0]


def test_herding_gives_ties_to_the_lowest_index():
    assert herding(torch.tensor([[1.0], [-1.0], [1.0], [-1.0]]), 4).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("features", [torch.ones(7, 3), torch.tensor([[0.0], [1.0], [0.0], [1.0], [1.0]])])
def test_duplicates_never_repeat_an_index(name, features):
    for n in range(1, len(features) + 1):
        chosen = METHODS[name](features, n, generator())
        assert chosen.dtype == torch.long and chosen.shape == (n,)
        assert len(set(chosen.tolist())) == n


@pytest.mark.parametrize("name", METHODS)
def test_a_smaller_choice_is_the_start_of_a_larger_one(name):
    features = draw(12, 4, 1)
    assert METHODS[name](features, 12, generator())[:5].tolist() == METHODS[name](features, 5, generator()).tolist()


@pytest.mark.parametrize("method", [herding, k_center])
def test_permuted_samples_give_the_permuted_choice(method):
    features, order = draw(30, 8, 2), torch.randperm(30, generator=generator(3))
    assert order[method(features[order], 10)].tolist() == method(features, 10).tolist()


def test_random_choice_follows_its_generator_and_no_other():
    features, state = draw(100, 2, 0), torch.get_rng_state()
    first = random_choice(features, 10, generator(5))
    assert first.tolist() == random_choice(features, 10, generator(5)).tolist()
    assert first.tolist() != random_choice(features, 10, generator(6)).tolist()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", METHODS)
def test_inputs_are_left_alone_and_may_need_gradients(name):
    features = torch.randn(6, 3, generator=generator()).half().requires_grad_()
    before = features.detach().clone()
    assert not METHODS[name](features, 3, generator()).requires_grad
    assert torch.equal(features.detach(), before)


@pytest.mark.parametrize("name", METHODS)
def test_errors_name_the_numbers_and_the_way_out(name):
    with pytest.raises(ValueError, match=r"choose 8 .* has 7: lower --ipc"):
        METHODS[name](torch.ones(7, 3), 8, generator())
    with pytest.raises(ValueError, match=r"choose 0 .*--ipc must be at least 1"):
        METHODS[name](torch.ones(7, 3), 0, generator())
    with pytest.raises(ValueError, match=r"\(N, D\).*\(7,\)"):
        METHODS[name](torch.ones(7), 1, generator())
    for value in (torch.nan, torch.inf):
        features = torch.ones(7, 3)
        features[4, 1] = value
        with pytest.raises(ValueError, match="row 4"):
            METHODS[name](features, 2, generator())


# ---- weights of a file ------------------------------------------------------------------------------------------

WEIGHTS = get_network(NET, SPEC).state_dict()
FIRST = next(iter(WEIGHTS))


def test_weights_of_a_file_are_those_of_the_network(tmp_path):
    save_file(WEIGHTS, tmp_path / "x.safetensors")
    torch.save(WEIGHTS, tmp_path / "x.pt")
    for name in ("x.safetensors", "x.pt"):
        read = read_weights(tmp_path / name, NET, SPEC)
        assert read.keys() == WEIGHTS.keys() and all(torch.equal(read[key], WEIGHTS[key]) for key in read)


@pytest.mark.parametrize("change,message", [
    ({FIRST: WEIGHTS[FIRST] / 0}, f"its tensor {FIRST} holds values that are not finite"),
    ({FIRST: WEIGHTS[FIRST] * 1e37}, f"its tensor {FIRST} holds values that are .*too large"),
    ({FIRST: WEIGHTS[FIRST].to(torch.complex64)}, f"its {FIRST} holds torch.complex64"),
    ({FIRST: WEIGHTS[FIRST].int()}, f"its {FIRST} holds torch.int32"),
    ({FIRST: torch.zeros(1).expand(10 ** 6, 10 ** 6)}, f"its {FIRST} shows .*a view that repeats them"),
    ({FIRST: WEIGHTS[FIRST][:1].clone()}, f"its tensor {FIRST} is torch.float32"),
    ({FIRST: "a"}, f"its {FIRST} is a str"), ({"more": torch.zeros(1)}, "it has a tensor 'more', unlike the network"),
    (FIRST, f"it has no tensor '{FIRST}', unlike the network"), ([1], "it is a list"), (b"", "it is empty"),
    (b"hello", "not written by torch.save"), ({FIRST: Path("x")}, "objects other than tensors")])
def test_weights_that_are_not_the_networks_are_named(tmp_path, change, message):
    path = tmp_path / "x.pt"
    if isinstance(change, bytes):
        path.write_bytes(change)
    else:
        torch.save(WEIGHTS | change if isinstance(change, dict) else change if isinstance(change, list) else
                   {key: value for key, value in WEIGHTS.items() if key != change}, path)
    with pytest.raises(ValueError, match=f"--pretrained_path {path} is not a state dict of {NET} .*{message}") as error:
        read_weights(path, NET, SPEC)
    assert "weights_only" not in str(error.value)


@pytest.mark.parametrize("content,message", [(b"", "it is empty"), (b"hello world", "no safetensors file")])
def test_a_file_of_weights_that_is_none_is_named(tmp_path, content, message):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=f"x.safetensors is not a state dict .*{message}"):
        read_weights(tmp_path / "x.safetensors", NET, SPEC)
    with pytest.raises(ValueError, match="is not a state dict .*it is a folder"):
        read_weights(tmp_path, NET, SPEC)
