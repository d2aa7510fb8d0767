"""What runs, experts and tables take for the same: clips and files by what they hold, never by a path."""
import re
import shutil

import pytest
import torch

import summarize
from conftest import NET
from distill_utils.dataset import check_older
from distill_utils.synset import load_synset
from runs import content, make_experts


@pytest.fixture
def own_data(few_digits, tmp_path):
    """A folder of one's own that a test may change."""
    shutil.copytree(few_digits / "MotionDigits", tmp_path / "mine")
    (tmp_path / "mine" / "motiondigits_splits1.csv").rename(tmp_path / "mine" / "split.csv")
    return tmp_path / "mine"


def edit_split(folder, change):
    file = folder / "split.csv"
    rows = [line.split(",") for line in file.read_text().splitlines()]
    file.write_text("\n".join(",".join(row) for row in [rows[0], *change(rows[1:])]) + "\n")


def exchange_labels(rows):
    other = {"ZeroUp": "ZeroDown", "ZeroDown": "ZeroUp"}
    return [[name, other.get(label, label), split] for name, label, split in rows]


def other_frames(folder):
    for file in (folder / "jpegs_32" / "v_ZeroUp_g08_c01").iterdir():
        shutil.copy(file.parent.with_name("v_OneUp_g08_c01") / file.name, file)


@pytest.mark.parametrize(("change", "said"), [
    (lambda folder: edit_split(folder, exchange_labels), "train clips have other labels.*test clips have other labels"),
    (lambda folder: edit_split(folder, lambda rows: [[name, label, {"train": "test", "test": "train"}[split]]
                                                     for name, label, split in rows]), "40 train clips then, 20 now"),
    (lambda folder: edit_split(folder, lambda rows: rows[:-1]), "then, .* now"),
    (other_frames, "the train clips have other frames")])
def test_a_run_does_not_go_on_with_changed_data(script, own_data, monkeypatch, change, said):
    folder = script("DM", "x", dataset=own_data, Iteration=2)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    change(own_data)
    with pytest.raises(ValueError, match=f"(?s)checkpoint.pt is of other clips.*{said}.*--overwrite"):
        script("DM", "x", "--resume", dataset=own_data)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    script("DM", "x", "--overwrite", dataset=own_data, Iteration=2)


def test_a_data_set_is_the_same_wherever_it_lies_and_however_it_is_spelled(script, own_data, tmp_path, monkeypatch):
    wanted = content(script("DM", "whole", dataset=own_data))
    script("DM", "x", dataset=own_data, Iteration=2)
    own_data.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    files, result, log = content(script("DM", "x", "--resume", dataset="./moved/"))
    assert files[1:] == wanted[0][1:] and log == wanted[2]
    assert result["data"] == wanted[1]["data"] and result["top1_mean"] == wanted[1]["top1_mean"]
    sets = [load_synset(tmp_path / "DM" / name / "synset.safetensors")[0].videos for name in ("whole", "x")]
    assert torch.equal(*sets)


def test_experts_know_their_clips_and_not_the_path(script, own_data, tmp_path, monkeypatch):
    experts = make_experts(own_data.parent, tmp_path / "buffers", dataset=own_data)
    monkeypatch.chdir(tmp_path)
    script("MTT", "x", dataset="mine/", buffer_path=experts)
    make_experts(own_data.parent, experts, dataset="./mine")       # finds them all made
    own_data.rename(tmp_path / "renamed")
    folder = experts / "mine" / NET
    script("MTT", "y", dataset="renamed", buffer_path=folder)
    edit_split(tmp_path / "renamed", exchange_labels)
    with pytest.raises(ValueError, match=r"expert_0000.* is of other clips .*train clips have other labels.*--buffer"):
        script("MTT", "z", dataset="renamed", buffer_path=folder)
    (tmp_path / "renamed").rename(own_data)
    with pytest.raises(ValueError, match=r"buffers/mine/.* is of other clips .*other labels"):
        make_experts(own_data.parent, experts, dataset="mine")


def test_files_that_flags_name_may_move_and_not_change(script, tmp_path):
    static = script("DC", "static", ipc=4) / "synset.safetensors"
    other = script("DC", "other", ipc=4, seed=1) / "synset.safetensors"
    shutil.copy(static, tmp_path / "a.safetensors")
    S2D = {"vpc": 2, "spc": 4, "dpc": 2}
    script("S2D-DM", "x", path_static=tmp_path / "a.safetensors", Iteration=2, **S2D)
    (tmp_path / "a.safetensors").rename(tmp_path / "b.safetensors")
    script("S2D-DM", "x", "--resume", path_static=tmp_path / "b.safetensors", **S2D)
    with pytest.raises(ValueError, match=r"--path_static \(its content\) was '\w+' and is now '\w+'"):
        script("S2D-DM", "x", "--resume", path_static=other, **S2D)
    with pytest.raises(ValueError, match=r"--path_static \(its content\) was '\w+' and is now None"):
        script("S2D-DM", "x", "--resume", **S2D)
    script("S2D-DM", "y", Iteration=2, **S2D)
    with pytest.raises(ValueError, match=r"--path_static \(its content\) was None and is now"):
        script("S2D-DM", "y", "--resume", path_static=static, **S2D)


def test_a_static_memory_of_other_clips_is_told(script, own_data, capsys):
    static = script("DC", "static", ipc=4, dataset=own_data) / "synset.safetensors"
    flags = {"path_static": static, "vpc": 2, "spc": 4, "dpc": 2, "dataset": own_data, "Iteration": 1}
    script("S2D-DM", "x", **flags)
    assert "was made of other clips" not in capsys.readouterr().err
    edit_split(own_data, lambda rows: [row for row in rows if not row[0].endswith("g08_c02")])
    script("S2D-DM", "y", **flags)
    said = f"note: the static memory {static} was made of other clips than this run has: 40 train clips then, 30 now"
    assert said in capsys.readouterr().err


def test_other_data_of_one_name_are_another_table(script, own_data, tmp_path):
    script("DM", "a", dataset=own_data, Iteration=1)
    script("DC", "b", dataset=own_data, Iteration=1)        # single frames of the same clips
    files = sorted(tmp_path.glob("*/*/result.json"))
    assert summarize.table([summarize.read(file) for file in files]).count("| method |") == 1
    edit_split(own_data, lambda rows: [row for row in rows if not row[0].endswith("g08_c02")])
    script("DM", "c", dataset=own_data, Iteration=1)
    table = summarize.table([summarize.read(file) for file in sorted(tmp_path.glob("*/*/result.json"))])
    assert table.count("| method |") == 2 and len(set(re.findall("data [0-9a-f]{16}", table))) == 2


def test_labels_beside_a_set_of_others_may_not_change_either(script, tmp_path):
    torch.save(torch.randn(20, 4, 3, 16, 16), tmp_path / "images_best.pt")
    torch.save(torch.arange(10).repeat(2), tmp_path / "labels_best.pt")
    script("score", "x", synset=tmp_path / "images_best.pt")
    script("score", "x", "--resume", synset=tmp_path / "images_best.pt")
    torch.save(torch.arange(10).repeat_interleave(2), tmp_path / "labels_best.pt")
    with pytest.raises(ValueError, match=r"--labels \(its content\) was '\w+' and is now '\w+'"):
        script("score", "x", "--resume", synset=tmp_path / "images_best.pt")


def remember_nothing_of_the_clips(folder, **args):
    """Makes a checkpoint one of an earlier program."""
    saved = torch.load(folder / "checkpoint.pt", weights_only=True)
    del saved["clips"]
    saved["args"] |= args
    torch.save(saved, folder / "checkpoint.pt")


def test_what_was_made_with_other_class_numbers_or_networks_does_not_go_on(script, monkeypatch):
    for dataset, said in (("UCF101", "HammerThrow and Hammering"), ("Kinetics400", "clips of Kinetics were flipped")):
        with pytest.raises(ValueError, match=f"experts was made when {said}"):
            check_older("experts", {"dataset": dataset})
    check_older("experts", {"dataset": "HMDB51", "protocol": "standard", "decay": True})
    with pytest.raises(ValueError, match="experts was made when --decay with --protocol paper"):
        check_older("experts", {"dataset": "HMDB51", "protocol": "paper", "decay": True})
    remember_nothing_of_the_clips(script("DM", "x", "--overwrite", Iteration=2), dataset="miniUCF101")
    with pytest.raises(ValueError, match="--dataset was 'miniUCF101' and is now 'MotionDigits'"):
        script("DM", "x", "--resume")
    remember_nothing_of_the_clips(script("DM", "x", "--overwrite", Iteration=2))
    asked = []
    with monkeypatch.context() as patch:
        patch.setattr("distill_utils.run.check_older", lambda what, made_with: asked.append(made_with["dataset"]))
        script("DM", "x", "--resume")
    assert asked == ["MotionDigits"]
    folder = script("DM", "y", model="VideoConvNetGRU_small", Iteration=2)
    remember_nothing_of_the_clips(folder, model="VideoConvNetGRU")
    with pytest.raises(ValueError, match=r"checkpoint.pt was made when VideoConvNetGRU was another network"):
        script("DM", "y", "--resume", model="VideoConvNetGRU")
    remember_nothing_of_the_clips(script("DM", "z", Iteration=2), eval_mode="M")
    with pytest.raises(ValueError, match=r"when VideoConvNet\w+ was another network"):
        script("DM", "z", "--resume", eval_mode="M")


def test_experts_that_were_made_anew_do_not_continue_a_run(script, tiny_experts, few_digits, tmp_path):
    script("MTT", "x", Iteration=1)
    moved = tmp_path / "moved"
    shutil.copytree(tiny_experts, moved)
    script("MTT", "x", "--resume", Iteration=2, buffer_path=moved)
    other = make_experts(few_digits, tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match="expert_0000.safetensors is not what it was when this run began"):
        script("MTT", "x", "--resume", Iteration=3, buffer_path=other)


def test_a_score_goes_on_only_with_the_set_it_began_with(script, tmp_path):
    folder = script("DM", "x", Iteration=1)
    flags = {"synset": folder / "synset.safetensors"}
    script("score", "s", **flags)
    assert script("score", "s", "--resume", **flags)
    script("DM", "x", "--overwrite", Iteration=1, seed=1)
    with pytest.raises(ValueError, match="another experiment: --synset .its content."):
        script("score", "s", "--resume", **flags)


def test_a_checkpoint_of_another_experiment_is_refused_with_the_difference(script):
    folder = script("DM", "x", Iteration=1)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(ValueError, match="another experiment: --lr_img was 1.0 and is now 2.0"):
        script("DM", "x", "--resume", lr_img=2)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
