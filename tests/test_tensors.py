"""Damage to a file of tensors is noticed, whatever byte it hits, and older files are read as they are."""
import json
from contextlib import suppress

import pytest
import torch
from safetensors.torch import save_file

from distill_utils.tensors import Damaged, TensorFile, check_archive, load_plain, save_tensors

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(5, dtype=torch.bfloat16), "c": torch.tensor(7),
           "d": torch.ones(3, dtype=torch.bool)}


def test_what_was_saved_comes_back_with_its_header_and_the_same_bytes(tmp_path):
    for name in "xy":
        save_tensors(tmp_path / name, TENSORS, epochs=[0, 2], what="é", rate=1e-5)
    file = TensorFile(tmp_path / "x")
    assert file.header == {"epochs": [0, 2], "what": "é", "rate": 1e-5} and file.shape("a") == (2, 3)
    for name, value in file.read_all().items():
        assert torch.equal(value, TENSORS[name]) and value.dtype == TENSORS[name].dtype
        assert file.size(name) == value.numel() * value.element_size()
    assert sorted(file.names()) == sorted(TENSORS) and (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


def test_every_flipped_bit_is_noticed_or_changes_nothing(tmp_path):
    path = tmp_path / "x"
    save_tensors(path, TENSORS, epochs=[0, 2])
    whole, silent = path.read_bytes(), []
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1 << position % 8]) + whole[position + 1:])
        try:
            file = TensorFile(path)
            back = file.read_all()
        except Exception:       # safetensors and json notice what they cannot read, the sums the rest
            continue
        # where the name of an entry was hit, the rest is as it was: no header at all is what its readers refuse
        same = file.header.get("epochs", [0, 2]) == [0, 2] and back.keys() == TENSORS.keys() and all(
            torch.equal(value, TENSORS[name]) for name, value in back.items())
        silent += [] if same else [whole[max(0, position - 9):position + 9]]
    assert silent == []


def test_a_changed_value_is_named_and_one_read_twice_is_compared_once(tmp_path):
    path = tmp_path / "x"
    save_tensors(path, TENSORS)
    content = bytearray(path.read_bytes())
    content[content.rindex(b"\x00\x00\xa0\x40")] ^= 1       # the 5.0 of a
    path.write_bytes(content)
    file = TensorFile(path)
    assert torch.equal(file.read("b"), TENSORS["b"]) and torch.equal(file.read("b"), TENSORS["b"])
    with pytest.raises(Damaged, match="x is damaged: a is not what was written"):
        file.read("a")


def test_no_bit_of_the_end_of_an_archive_ends_in_a_traceback(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"a": torch.arange(50.0)}, path)
    whole = path.read_bytes()
    for bit in range(8 * 90):
        content = bytearray(whole)
        content[-1 - bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        with suppress(ValueError):      # Damaged, or read as it was
            assert torch.equal(load_plain(path)["a"], torch.arange(50.0))


@pytest.mark.parametrize("sums", [[], "x", 3])
def test_sums_of_another_kind_are_damage(tmp_path, sums):
    save_file(TENSORS, tmp_path / "x", metadata={"header": json.dumps({"sums": sums})})
    with pytest.raises(Damaged, match="x is damaged"):
        TensorFile(tmp_path / "x")


def test_a_header_whose_sum_is_no_longer_called_so_is_damaged(tmp_path):
    save_tensors(tmp_path / "x", TENSORS)
    (tmp_path / "x").write_bytes((tmp_path / "x").read_bytes().replace(b'\\"sum\\"', b'\\"sul\\"'))
    with pytest.raises(Damaged, match="its header"):
        TensorFile(tmp_path / "x")


def test_files_without_check_sums_are_read(tmp_path):
    save_file(TENSORS, tmp_path / "x", metadata={"header": json.dumps({"kind": "expert"})})
    save_file(TENSORS, tmp_path / "y")
    assert TensorFile(tmp_path / "x").header == {"kind": "expert"} and TensorFile(tmp_path / "y").header == {}
    assert TensorFile(tmp_path / "y").read_all().keys() == TENSORS.keys()


def test_flips_in_what_torch_saved_are_noticed(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"a": torch.arange(50.0)}, path)
    check_archive(path)
    whole = path.read_bytes()
    at = whole.index(torch.arange(50.0).numpy().tobytes())
    for position in range(at, at + 200, 7):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1:])
        load_plain(path, compare=False)        # torch does not notice
        with pytest.raises(Damaged, match=r"x\.pt is damaged"):
            check_archive(path)
    path.write_bytes(b"no archive")
    check_archive(path)
