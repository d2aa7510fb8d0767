"""Selection baselines against brute force: every candidate at every step, full distance matrices, exhaustive optima."""

from itertools import combinations

import pytest
import torch

from distill_utils.coreset import METHODS, herding, k_center, random_choice


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
