"""The bank of class means against a plain loop; what it is keyed by; stopped, grown and shared."""
import copy
import json
import sys

import pytest
import torch

from conftest import NET, run_script
from distill_utils import bank as module
from distill_utils.bank import Bank, clips_digest
from utils import get_dataset, get_network, open_bank, per_sample, seeded

LOOP = ["--model", NET, "--num_eval", 1, "--epoch_eval_train", 1, "--device", "cpu", "--Iteration", 3]


@pytest.fixture(scope="module")
def clips(few_digits):
    return get_dataset("MotionDigits", few_digits).train


def make_network(number, spec):
    with seeded(Bank.seed(number)):
        return get_network(NET, spec).requires_grad_(False)


def build(bank, batch_size=7):
    bank.build(lambda number: make_network(number, bank.clips.spec),
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
            torch.testing.assert_close(bank.means(number)[k], torch.stack(rows).mean(0), atol=1e-5, rtol=1e-4)
    assert not torch.equal(bank.means(0), bank.means(1))


def test_data_whose_classes_tell_left_from_right_are_not_flipped(clips, tmp_path):
    one_sided = copy.copy(clips)
    one_sided.spec = type(clips.spec)(**{**vars(clips.spec), "flip": False})
    bank = build(Bank(tmp_path, one_sided, 1))
    network = make_network(0, clips.spec)
    rows = network.embed(per_sample(clips.get((clips.labels == 3).nonzero()[:, 0])))
    torch.testing.assert_close(bank.means(0)[3], rows.mean(0), atol=1e-5, rtol=1e-4)


def test_the_batch_size_changes_nothing_but_rounding(clips, tmp_path):
    one, other = (build(Bank(tmp_path / str(size), clips, 1), size) for size in (1, 40))
    torch.testing.assert_close(one.means(0), other.means(0), atol=1e-5, rtol=1e-4)


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
    order = [bank.draw(0, it) for it in range(8)]
    assert sorted(order[:4]) == sorted(order[4:]) == [0, 1, 2, 3]
    assert order == [bank.draw(0, it) for it in range(8)] != [bank.draw(1, it) for it in range(8)]


def test_other_data_networks_and_protocols_are_other_banks(clips, digit_data, tmp_path):
    keys = [{}, {"model": "ConvNet3D"}, {"model": NET}, {"model": NET, "protocol": "paper"}]
    folders = {Bank(tmp_path, clips, 1, **key).folder for key in keys}
    assert len(folders) == 4 and Bank(tmp_path, clips, 9).folder in folders
    assert clips_digest(clips) != clips_digest(digit_data.train)
    other = copy.copy(clips)
    other.labels = clips.labels.flip(0)
    assert clips_digest(other) != clips_digest(clips)
    assert clips_digest(get_dataset("MotionDigits", tmp_path / "again").train) == clips_digest(digit_data.train)


def test_a_damaged_file_is_named(clips, tmp_path):
    bank = build(Bank(tmp_path, clips, 1))
    bank.path(0).write_bytes(b"none")
    with pytest.raises(ValueError, match=r"0000\.safetensors cannot be read .*made again"):
        bank.means(0)


@pytest.mark.parametrize("script", ["distill_DM.py", "distill_s2d_DM.py"])
def test_scripts_run_with_a_bank_and_share_it(script, few_digits, tmp_path):
    where = ["--data_path", few_digits, "--cache_path", tmp_path / "cache", "--bank", 2]
    lines, kept = [], []
    for name in ("a", "b"):
        done = run_script(script, *LOOP, *where, "--save_path", tmp_path, "--name", name)
        lines.append(json.loads(done.stdout.split("RESULT ")[1]))
        kept.append({path: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("bank-*/*.safetensors")})
    assert len(kept[0]) == 2 and kept[0] == kept[1]
    assert lines[0]["loss_mean"] == lines[1]["loss_mean"]
    sets = [(tmp_path / lines[0]["method"] / name / "synset.safetensors").read_bytes() for name in "ab"]
    assert sets[0] == sets[1]


def test_a_bank_and_an_augmentation_contradict_each_other(few_digits, monkeypatch, capsys):
    import distill_DM
    from distill_utils.run import cli
    monkeypatch.setattr(sys, "argv", ["distill_DM.py", "--bank", "5", "--dsa_strategy", "flip"])
    with pytest.raises(SystemExit):
        cli(distill_DM.main)
    assert "--bank" in capsys.readouterr().err


def test_open_bank_is_keyed_by_what_the_means_depend_on(few_digits, tmp_path):
    from types import SimpleNamespace
    data = get_dataset("MotionDigits", few_digits)
    args = {"precision": "fp32", "protocol": "standard", "model": NET, "cache_path": tmp_path, "bank": 1, "chunk": 16}
    folders = {open_bank(SimpleNamespace(**args | change), data, torch.device("cpu")).folder
               for change in ({}, {"precision": "bf16"}, {"protocol": "paper"}, {"chunk": 3})}
    assert len(folders) == 3
