"""Files that commit 1dccf62 left go on working: checkpoints, sets, experts, banks and caches.

files_of_1dccf62.zip holds what its scripts left on `few_digits` (3 frames of 8 pixels, a CPU, float32): in half/ runs
of two iterations, their experts and bank; in whole/ the sets of the same runs after four iterations.
"""
import sys
import zipfile
from pathlib import Path

import pytest
import torch

import buffer
import distill_coreset
import distill_DC
import distill_DM
import distill_MTT
import distill_s2d_DM
import distill_s2d_MTT
import evaluate
import utils
from conftest import NET
from distill_utils.synset import load_synset
from distill_utils.trajectories import check_settings

FLAGS = ["--device", "cpu", "--precision", "fp32", "--frames", 3, "--im_size", 8, "--num_eval", 1,
         "--epoch_eval_train", 1, "--name", "x"]
MTT = ["--max_start_epoch", 1]
RUNS = {    # as they were begun
    "DC": (distill_DC, ["--model", "ConvNetD2W32", "--ipc", 2, "--lr_img", 0.1, "--inner_loop", 1, "--batch_real", 2]),
    "DM": (distill_DM, ["--model", NET, "--lr_img", 1, "--batch_real", 2]),
    "S2D-DM": (distill_s2d_DM, ["--model", NET, "--lr_dynamic", 1, "--lr_hal", 0.01, "--bank", 2]),
    "MTT": (distill_MTT, ["--model", NET, "--lr_img", 100, "--train_lr", *MTT]),
    "S2D-MTT": (distill_s2d_MTT, ["--model", NET, "--lr_dynamic", 10, "--lr_hal", 0.001, "--store", "uint8", *MTT]),
    "herding": (distill_coreset, ["--model", NET, "--method", "herding", "--train_epochs", 1])}
PNG = bytes.fromhex("89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c633821a701"
                    "0002c0010fda4081b90000000049454e44ae426082")


@pytest.fixture
def old(tmp_path):
    with zipfile.ZipFile(Path(__file__).parent / "files_of_1dccf62.zip") as file:
        file.extractall(tmp_path)
    return tmp_path


def run(module, monkeypatch, *flags):
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, (*FLAGS, *flags))])
    module.main()


@pytest.mark.parametrize("method", RUNS)
def test_a_run_that_was_begun_then_ends_as_it_would_have(method, old, few_digits, monkeypatch):
    module, flags = RUNS[method]
    if method != "herding":
        flags = [*flags, "--Iteration", 4, "--eval_it", 2, "--cache_path", old / "half" / "cache"]
    if method.endswith("MTT"):
        flags = [*flags, "--buffer_path", old / "half" / "buffers"]
    run(module, monkeypatch, *flags, "--resume", "--data_path", few_digits, "--save_path", old / "half")
    ours, theirs = (load_synset(old / side / method / "x" / "synset.safetensors") for side in ("half", "whole"))
    new = {key: ours[1].pop(key) for key in (       # not remembered then
        "clips", "recipe", "labelled", "teacher", "dm_networks", "dm_kernel", "dm_n_real",
        "through_store")}
    assert new["clips"]["count"] == 40 and new["recipe"]["epochs"] == 1 and ours[1] == theirs[1]
    for name, value in theirs[0].state_dict().items():      # another processor may round otherwise
        torch.testing.assert_close(ours[0].state_dict()[name], value, rtol=1e-3, atol=1e-3)


def test_such_a_run_does_not_go_on_with_other_flags(old, few_digits, monkeypatch):
    for flags, message in ((["--lr_img", 2], "--lr_img was 1.0 and is now 2.0"),
                           (["--classes", "ZeroUp,ZeroDown"], "--classes .its content. was None and is now 'ZeroUp, "),
                           (["--precision", "bf16"], "--precision was 'fp32' and is now 'bf16'")):
        with pytest.raises(ValueError, match=message):
            run(distill_DM, monkeypatch, *RUNS["DM"][1], "--resume", "--data_path", few_digits, "--save_path",
                old / "half", *flags)
    run(distill_DM, monkeypatch, *RUNS["DM"][1], "--resume", "--data_path", few_digits, "--save_path", old / "half",
        "--Iteration", 2, "--chunk", 7)      # the advice where memory ran out


def test_the_momentum_of_the_rate_was_that_of_the_pair(old, few_digits, monkeypatch):
    for method, was in (("MTT", 0.5), ("S2D-MTT", 0.9)):
        module, flags = RUNS[method]
        with pytest.raises(ValueError, match=f"--lr_momentum was {was} and is now 0.7"):
            run(module, monkeypatch, *flags, "--resume", "--data_path", few_digits, "--save_path", old / "half",
                "--buffer_path", old / "half" / "buffers", "--lr_momentum", 0.7)


@pytest.mark.parametrize("method", RUNS)
def test_a_set_of_then_is_scored(method, old, few_digits, monkeypatch):
    own = ["--model", NET] if method != "DC" else ["--model", "ConvNetD2W32", "--dataset", "singleMotionDigits"]
    run(evaluate, monkeypatch, "--synset", old / "whole" / method / "x" / "synset.safetensors", *own, "--data_path",
        few_digits, "--save_path", old)
    assert (old / "score" / "x" / "result.json").is_file()


def test_experts_of_then_are_not_made_again_and_none_of_other_settings_is_added(old, few_digits, monkeypatch):
    path = old / "half" / "buffers"
    flags = ["--data_path", few_digits, "--model", NET, "--train_epochs", 1, "--max_start_epoch", 1, "--batch_train", 8,
             "--expert_dtype", "bfloat16", "--num_experts", 1, "--buffer_path", path, *FLAGS[:8]]
    before = {file.name: file.read_bytes() for file in path.rglob("*.safetensors")}

    def make(*more):
        monkeypatch.setattr(sys, "argv", ["buffer.py", *map(str, (*flags, *more))])
        buffer.main()

    make()
    assert {file.name: file.read_bytes() for file in path.rglob("*.safetensors")} == before
    with pytest.raises(ValueError, match="--classes was None and is now 'ZeroUp, ZeroDown'"):
        make("--classes", "ZeroUp,ZeroDown")
    with pytest.raises(ValueError, match="--lr_teacher was 0.01 and is now 0.5"):
        make("--lr_teacher", 0.5)
    with pytest.raises(ValueError, match="holds experts of another run"):
        check_settings(path / "MotionDigits" / NET, {})


def test_clips_are_identified_as_they_were(tmp_path):
    """Or runs, experts and banks would be refused or made again. Change it with CACHE_FORMAT alone."""
    rows = [(f"{label}_{split}", label, split) for label in "ab" for split in ("train", "test")]
    for name, _, _ in rows:
        folder = tmp_path / "mine" / "frames" / name
        folder.mkdir(parents=True)
        for i in (1, 2):
            (folder / f"{i}.png").write_bytes(PNG)
    (tmp_path / "mine" / "split.csv").write_text("\n".join(map(",".join, [("folder_name", "label", "split"), *rows])))
    data = utils.get_dataset(str(tmp_path / "mine"), tmp_path, frames=2, im_size=4)
    assert data.train.content() == "3a9b2f6929404ab6bc47d58109873023d704da3603423c1bb37b2e23cad06742"
