"""The bank of class means against a plain loop; what it is keyed by; stopped, grown and shared."""
import copy
import dataclasses
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import distill_DM
from conftest import NET
from distill_utils import bank as module
from distill_utils.bank import Bank, SampledMeans
from distill_utils.seeds import make_generator, seeded
from utils import get_dataset, get_network, per_sample

LOOP = ["--model", NET, "--num_eval", 1, "--epoch_eval_train", 1, "--device", "cpu", "--Iteration", 3, "--frames", 4,
        "--im_size", 16]


@pytest.fixture(scope="module")
def clips(few_digits):
    return get_dataset("MotionDigits", few_digits).train


def make_network(index, spec):
    return seeded_network(Bank.seed_of(index), spec)


def seeded_network(seed, spec):
    with seeded(seed):
        return get_network(NET, spec).requires_grad_(False)


def build(bank, batch_size=7):
    bank.build(lambda seed: seeded_network(seed, bank.clips.spec),
               lambda network, x: network.embed(per_sample(x)), "cpu", batch_size)
    return bank


def files(bank):
    return {path.name: path.read_bytes() for path in sorted(bank.folder.glob("*.safetensors"))}


def test_means_are_those_of_a_loop_over_clips_as_they_are_and_flipped(clips, tmp_path):
    bank = build(Bank(tmp_path, clips, 2))
    for number in (0, 1):
        network = make_network(number, clips.spec)
        for k in (0, 7):
            members = [i for i in range(len(clips)) if clips.labels[i] == k]
            rows = [network.embed(per_sample(x))[0] for i in members for x in (clips.get([i]), clips.get([i]).flip(-1))]
            torch.testing.assert_close(bank.load(number)[k], torch.stack(rows).mean(0), atol=1e-5, rtol=1e-4)
    assert not torch.equal(bank.load(0), bank.load(1))


def test_data_whose_classes_tell_left_from_right_are_not_flipped(clips, tmp_path):
    one_sided = copy.copy(clips)
    one_sided.spec = type(clips.spec)(**{**vars(clips.spec), "flip": False})
    bank = build(Bank(tmp_path, one_sided, 1))
    network = make_network(0, clips.spec)
    rows = network.embed(per_sample(clips.get((clips.labels == 3).nonzero()[:, 0])))
    torch.testing.assert_close(bank.load(0)[3], rows.mean(0), atol=1e-5, rtol=1e-4)


def test_the_batch_size_changes_nothing_but_rounding(clips, tmp_path):
    one, other = (build(Bank(tmp_path / str(size), clips, 1), size) for size in (1, 40))
    torch.testing.assert_close(one.load(0), other.load(0), atol=1e-5, rtol=1e-4)


def test_a_stopped_build_goes_on_and_a_larger_bank_adds_to_it(clips, tmp_path, monkeypatch):
    whole = files(build(Bank(tmp_path / "whole", clips, 5)))
    monkeypatch.setattr(module, "GROUP", 2)
    bank, sums, calls = Bank(tmp_path, clips, 3), module.mean_embeddings, []

    def stop_at_the_second(clips, networks, *args):
        calls.append(len(networks))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return sums(clips, networks, *args)

    monkeypatch.setattr(module, "mean_embeddings", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        build(bank)
    assert len(files(bank)) == 2
    build(bank)
    build(bank)
    assert calls == [2, 1, 1]       # the third call finds nothing missing
    assert files(build(Bank(tmp_path, clips, 5))) == whole


def test_every_network_has_its_turn_and_the_order_follows_the_seed(clips, tmp_path):
    bank = Bank(tmp_path, clips, 4)
    order = [bank.index(it) for it in range(8)]
    assert sorted(order[:4]) == sorted(order[4:]) == [0, 1, 2, 3]
    assert order == [bank.index(it) for it in range(8)] != [Bank(tmp_path, clips, 4, 1).index(it) for it in range(8)]


def test_other_data_networks_and_protocols_are_other_banks(clips, few_digits, tmp_path):
    keys = [{}, {"model": "ConvNet3D"}, {"model": NET}, {"model": NET, "protocol": "paper"}]
    folders = {Bank(tmp_path, clips, 1, **key).folder for key in keys}
    assert len(folders) == 4 and Bank(tmp_path, clips, 9).folder in folders
    shutil.copytree(few_digits / "MotionDigits", tmp_path / "again" / "MotionDigits")
    again = get_dataset("MotionDigits", tmp_path / "again")
    assert again.train.content() == clips.content() != again.test.content()
    sums = np.array(clips.sums)
    sums[-1] ^= 1
    for key, value in {"labels": clips.labels.flip(0), "names": clips.names[::-1], "sums": sums,
                       "spec": dataclasses.replace(clips.spec, flip=False)}.items():
        other = copy.copy(clips)
        setattr(other, key, value)
        assert other.content() != clips.content(), key


def test_a_complete_bank_is_read_where_nobody_may_write(clips, tmp_path, monkeypatch):
    whole = files(build(Bank(tmp_path, clips, 2)))
    monkeypatch.setattr(module, "locked", None)
    monkeypatch.setattr(Path, "mkdir", None)
    bank = build(Bank(tmp_path, clips, 2))
    assert files(bank) == whole and bank.load(1).shape[0] == clips.spec.num_classes


def test_a_file_of_another_network_is_named(clips, tmp_path):
    bank = build(Bank(tmp_path, clips, 2))
    shutil.copy(bank.path(1), bank.path(0))
    with pytest.raises(ValueError, match=r"0000\.safetensors cannot be read .*another network.*remove it"):
        bank.load(0)


def test_a_damaged_file_is_named(clips, tmp_path):
    bank = build(Bank(tmp_path, clips, 1))
    bank.path(0).write_bytes(b"none")
    with pytest.raises(ValueError, match=r"0000\.safetensors cannot be read .*made again"):
        bank.load(0)


@pytest.mark.parametrize("script", ["distill_DM.py", "distill_s2d_DM.py"])
def test_scripts_run_with_a_bank_and_share_it(script, run_here, few_digits, tmp_path):
    where = ["--data_path", few_digits, "--cache_path", tmp_path / "cache", "--bank", 2]
    lines, kept = [], []
    for name in ("a", "b"):
        out, _ = run_here(script, *LOOP, *where, "--save_path", tmp_path, "--name", name)
        lines.append(json.loads(out.split("RESULT ")[1]))
        kept.append({path: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("bank-*/*.safetensors")})
    assert len(kept[0]) == 2 and kept[0] == kept[1]
    assert lines[0]["loss_mean"] == lines[1]["loss_mean"]
    sets = [(tmp_path / lines[0]["method"] / name / "synset.safetensors").read_bytes() for name in "ab"]
    assert sets[0] == sets[1]


def test_a_bank_and_an_augmentation_contradict_each_other(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["distill_DM.py", "--bank", "5", "--dsa_strategy", "flip"])
    with pytest.raises(ValueError, match="--bank .*--dsa_strategy .*leave out one"):
        distill_DM.main()


def test_a_bank_is_keyed_by_what_the_means_depend_on(few_digits, tmp_path, monkeypatch):
    flags = [*LOOP, "--data_path", few_digits, "--cache_path", tmp_path / "cache", "--bank", 1, "--save_path", tmp_path]
    for change in ((), ("--precision", "bf16"), ("--protocol", "paper"), ("--chunk", 3), ("--set", "s2d")):
        monkeypatch.setattr(sys, "argv", ["distill_DM.py", *map(str, (*flags, "--precision", "fp32", "--Iteration", 1,
                                                                      "--overwrite", *change))])
        distill_DM.main()
    assert len(list((tmp_path / "cache").glob("bank-*"))) == 3


def test_both_sources_of_means_have_one_face(clips, tmp_path):
    """A sample of all clips has the means of the bank, where no clip is flipped and each has one start."""
    still = copy.copy(clips)
    still.spec = dataclasses.replace(clips.spec, flip=False, frames=clips.counts.max())
    bank = build(Bank(tmp_path, still, 3, seed=5))
    sampled = SampledMeans(still, per_class=4, seed=5)
    network = seeded_network(bank.network_seed(1), still.spec).requires_grad_(True)
    means = [source.means(1, range(2, 6), lambda x: network.embed(per_sample(x)), make_generator(0), "cpu")
             for source in (bank, sampled)]
    torch.testing.assert_close(*means, atol=1e-5, rtol=1e-4)
    assert means[0].shape[0] == 4 and not any(m.requires_grad for m in means)
    assert len({source.network_seed(it) for source in (bank, sampled) for it in range(3)}) == 6
