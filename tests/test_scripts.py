"""Every script as a user runs it: in a process of its own, on tiny settings, and with bad input."""
import importlib
import json
import re
import sys

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from conftest import NET, ROOT, run_script
from distill_utils import args as flags
from distill_utils.args import cli
from distill_utils.synset import SETS, load_synset
from utils import get_dataset

SCORE = ["--num_eval", 2, "--epoch_eval_train", 1, "--device", "cpu"]
VIDEO = ["--model", NET, *SCORE]
LOOP = ["--Iteration", 2, "--eval_it", 1]
REAL = ["--batch_real", 2]
SCRIPTS = ("distill_coreset.py", "distill_DC.py", "distill_DM.py", "distill_s2d_DM.py", "evaluate.py", "distill_MTT.py",
           "distill_s2d_MTT.py", "distill_FRePo.py", "distill_s2d_FRePo.py")


@pytest.fixture(scope="module")
def results(few_digits, few_experts, tmp_path_factory):
    """Results of the whole chain, static stage to scores, run as by hand: name -> (last line, folder)."""
    MTT = ["--buffer_path", few_experts, "--max_start_epoch", 2, "--syn_steps", 2]
    out = tmp_path_factory.mktemp("out")
    where = ["--data_path", few_digits, "--save_path", out, "--name", "x"]
    static = out / "DC" / "x" / "synset.safetensors"
    chain = {
        "DC": ["distill_DC.py", "--ipc", 2, "--split_num", 2, "--model", "ConvNetD2W32", "--inner_loop", 1, *SCORE,
               *LOOP, *REAL],
        "static": ["evaluate.py", "--synset", static, *VIDEO],
        "S2D-DM": ["distill_s2d_DM.py", "--path_static", static, "--no_train_static", "--store", "uint8", *VIDEO,
                   *LOOP, *REAL],
        "DM": ["distill_DM.py", "--ipc", 2, "--init", "noise", "--optim", "adam", "--preload", *VIDEO, *LOOP, *REAL],
        "random": ["distill_coreset.py", "--method", "random", *VIDEO],
        "herding": ["distill_coreset.py", "--method", "herding", "--ipc", 2, "--train_epochs", 1, *VIDEO],
        "k-center": ["distill_coreset.py", "--method", "k-center", "--ipc", 3, "--pretrained_path",
                     out / "herding" / "x" / "network.safetensors", *VIDEO],
        "MTT": ["distill_MTT.py", *MTT, "--train_lr", "--dsa_strategy", "color_crop_cutout_flip_scale_rotate", *VIDEO,
                *LOOP],
        "S2D-MTT": ["distill_s2d_MTT.py", "--path_static", static, "--no_train_static", *MTT, *VIDEO, *LOOP],
        "full": ["evaluate.py", "--train_on", "full", "--batch_train", 64, *VIDEO],
    }
    lines = {}
    for name, (script, *args) in chain.items():
        done = run_script(script, *args, *where, cwd=out)
        assert "Traceback" not in done.stderr
        lines[name] = done.stdout.splitlines()[-1], out / name / "x"
    return lines


@pytest.mark.parametrize("name", ["DC", "static", "S2D-DM", "DM", "random", "herding", "k-center", "full", "MTT",
                                  "S2D-MTT"])
def test_the_last_line_is_the_result(results, name):
    line, folder = results[name]
    assert line.startswith("RESULT ")
    result = json.loads(line.removeprefix("RESULT "))
    assert result == json.loads((folder / "result.json").read_text())
    assert result["method"] == name and result["num_networks"] == 2 and 0 <= result["top1_mean"] <= 1
    assert ("top1_start_mean" in result) == (name in ("DC", "DM", "S2D-DM", "MTT", "S2D-MTT"))
    bytes_ = {"DC": 245_760, "static": 245_760, "S2D-DM": 10 * 2 * (3 + 8) * 1024 + 327 * 4 + 6 * 4 + 2 * 4,
              "DM": 2 * 983_040, "random": 983_040, "herding": 2 * 983_040, "k-center": 3 * 983_040,
              "MTT": 983_040, "S2D-MTT": 902_428, "full": 40 * 98_304}[name]
    assert result["storage_bytes"] == bytes_


def test_dc_is_scored_on_single_frames_and_static_on_clips(results):
    for name, network in (("DC", "ConvNetD2W32"), ("static", NET)):
        assert json.loads(results[name][0][7:])["network"] == network


def test_the_static_images_stay_as_the_static_stage_left_them(results):
    static = load_synset(results["DC"][1] / "synset.safetensors")[0].static
    s2d, header = load_synset(results["S2D-DM"][1] / "synset.safetensors")
    torch.testing.assert_close(s2d.static, static, atol=0.02, rtol=0)      # stored as uint8
    assert header["method"] == "S2D-DM" and header["classes"][0] == "ZeroUp" and header["store"] == "uint8"


def test_selected_clips_are_real_clips_of_their_class(results, few_digits):
    train = get_dataset("MotionDigits", few_digits).train
    synset, _ = load_synset(results["k-center"][1] / "synset.safetensors")
    for k in (0, 9):
        real = train.get((train.labels == k).nonzero()[:, 0])
        for clip in synset.videos[3 * k:3 * k + 3]:
            assert (real - clip).abs().flatten(1).amax(1).min() < 1e-5


def test_a_saved_set_scored_again_gives_what_its_run_reported(results, few_digits, tmp_path):
    line, folder = results["S2D-DM"]
    done = run_script("evaluate.py", "--synset", folder / "synset.safetensors", *VIDEO, "--data_path", few_digits,
                      "--save_path", tmp_path, "--name", "x")
    again, first = (json.loads(text.split("RESULT ")[1]) for text in (done.stdout, line))
    assert (tmp_path / "score" / "x").is_dir() and again["scored_again"]
    assert {k: again[k] for k in ("top1_mean", "top1_std", "per_class", "storage_bytes", "method")} == {
        k: first[k] for k in ("top1_mean", "top1_std", "per_class", "storage_bytes", "method")}


def test_several_networks_and_the_paper_protocol(results, few_digits, tmp_path):
    done = run_script("evaluate.py", "--synset", results["random"][1] / "synset.safetensors", *VIDEO, "--model_eval",
                      NET, "VideoConvNetMeanW32", "--protocol", "paper", "--data_path", few_digits, "--save_path",
                      tmp_path)
    result = json.loads(done.stdout.split("RESULT ")[1])
    assert result["protocol"] == "paper" and 0 <= result["top1_mean_VideoConvNetMeanW32"] <= 1


def test_the_table(results, tmp_path):
    out = results["DM"][1].parent.parent
    done = run_script("summarize.py", out, "--json", tmp_path / "table.json")
    assert done.stdout.splitlines()[-1] == f"TABLE {tmp_path / 'table.json'}"
    rows = json.loads((tmp_path / "table.json").read_text())
    assert sorted(row["method"] for row in rows) == sorted(results)
    assert done.stdout.count("\n| ") == len(rows) + 2      # a head and a rule
    assert "**MotionDigits, protocol standard**" in done.stdout


def test_pictures_are_left(results):
    folder = results["S2D-DM"][1]
    assert Image.open(folder / "preview.png").height > 300 and Image.open(folder / "preview.gif").n_frames == 8
    assert Image.open(folder / "curve.png").width > 300


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_names_the_shared_flags(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit):
        importlib.import_module(script.removesuffix(".py")).main()
    text = capsys.readouterr().out
    assert all(flag in text for flag in ("--dataset", "--seed", "--resume", "--wandb", "--device", "--protocol"))


PUBLISHED = {   # script -> its defaults, and SGD's learning rates
    "distill_DC": ({"Iteration": 1000, "momentum": 0.5, "model": "ConvNet", "set": "still"}, {"lr_img": 0.1}),
    "distill_DM": ({"Iteration": 5000, "momentum": 0.5, "set": "pixels"}, {"lr_img": 30}),
    "distill_MTT": ({"Iteration": 8000, "momentum": 0.5, "lr_momentum": 0.5, "set": "pixels"}, {"lr_img": 1e5}),
    "distill_s2d_DM": ({"Iteration": 5000, "momentum": 0.95, "set": "s2d"},
                       {"lr_static": 100, "lr_dynamic": 1e-4, "lr_hal": 1e-5}),
    "distill_s2d_MTT": ({"Iteration": 10000, "momentum": 0.95, "lr_momentum": 0.9, "set": "s2d"},
                        {"lr_static": 100, "lr_dynamic": 1e4, "lr_hal": 1e-3}),
    "distill_FRePo": ({"Iteration": 10000, "batch_real": 512, "reg": 1e-6, "pool": 10, "pool_updates": 100,
                       "lr_pool": 3e-4, "set": "pixels", "labels": "learned"}, {"lr_img": 30, "lr_labels": 2}),
    "distill_s2d_FRePo": ({"Iteration": 10000, "batch_real": 512, "set": "s2d", "labels": "learned"},
                          {"lr_static": 100, "lr_dynamic": 1e-4, "lr_hal": 1e-5, "lr_labels": 2})}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_defaults(name, parse, monkeypatch, capsys):
    module, (defaults, rates) = importlib.import_module(name), PUBLISHED[name]
    args = vars(parse(module, []))
    assert {key: args[key] for key in defaults} == defaults and all(args[rate] is None for rate in rates)
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit):
        module.main()
    shown = " ".join(capsys.readouterr().out.split())
    for rate, value in rates.items():
        sentence = rf"--{rate} \S+ learning rate of [^;]*; if not given, {re.escape(f'{value:g}')} with SGD"
        assert re.search(sentence, shown)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_rates_that_are_shown_are_those_that_are_used(name, parse, monkeypatch):
    """SGD without rates: what `make_optimizer` is given."""
    module, (_, rates) = importlib.import_module(name), PUBLISHED[name]
    seen = []

    class Seen(BaseException):
        pass

    def set_rates(args, synset, sgd=None):
        seen.append(original(args, synset, sgd))
        raise Seen

    original = flags.set_rates
    monkeypatch.setattr(flags, "set_rates", set_rates)
    monkeypatch.setattr(sys, "argv", [name, "--optim", "sgd"])
    with pytest.raises(Seen):
        module.main()
    assert seen == [("sgd", rates)]


@pytest.mark.parametrize("module,kind", [(f"distill_{loss}", kind) for loss in ("DC", "DM", "MTT", "FRePo")
                                         for kind in SETS])
def test_help_has_the_flags_of_the_set(module, kind, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [module, "--set", kind, "--help"])
    with pytest.raises(SystemExit):
        importlib.import_module(module).main()
    shown = capsys.readouterr().out
    assert all(f"--{rate} " in shown for rate in SETS[kind].rates)
    assert (f"--{SETS[kind].clips_flag} " in shown or f"--{SETS[kind].clips_flag}," in shown)


def test_real_frames_as_static_images_are_noted_unless_they_are_asked_for(parse, capsys):
    for words, noted in (([], True), (["--static_init", "real"], False)):
        args = parse(importlib.import_module("distill_s2d_DM"), words)
        synset = SETS["s2d"].from_args(args, flags.spec_of(args))
        assert not synset.has_static and ("no --path_static FILE" in capsys.readouterr().err) == noted


BAD = {
    "set": ("distill_DM.py", ["--set", "voxels"], "--set: invalid choice: 'voxels' .*choose from .*pixels.*still.*s2d"),
    "set of a pair": ("distill_s2d_DM.py", ["--set", "pixels"], "--set: invalid choice: 'pixels' .*choose from .*s2d"),
    "flag of another set": ("distill_DM.py", ["--vpc", 2], "unrecognized arguments: --vpc 2 .*a flag of --set s2d"),
    "images and movement": ("distill_DC.py", ["--set", "s2d", "--dataset", "singleMotionDigits", "--model", "ConvNet"],
                            "--dataset singleMotionDigits gives single frames"),
    "network of stills": ("distill_DC.py", ["--model", "ConvNet3D"], "--model ConvNet3D takes videos, .*another --set"),
    "network of a set": ("distill_DC.py", ["--set", "pixels", "--model", "ConvNet"], "--model ConvNet takes images"),
    "unknown data set": ("distill_DM.py", ["--dataset", "UCF102"], "unknown --dataset 'UCF102': choose .*Digits"),
    "missing data": ("distill_DM.py", ["--dataset", "miniUCF101"], "no frame folders at .*jpegs_112.*--data_path"),
    "unknown network": ("distill_DM.py", ["--model", "ResNet3D"], "ResNet3D.*ConvNet3D"),
    "image network": ("distill_DM.py", ["--model", "ConvNet"], "--model ConvNet takes images"),
    "pool": ("evaluate.py", ["--train_on", "full", "--eval_mode", "Z"], "--eval_mode 'Z'"),
    "slots": ("distill_s2d_DM.py", ["--vpc", 2, "--spc", 3], "--spc 3 cannot be shared by --vpc 2"),
    "memories": ("distill_s2d_DM.py", ["--vpc", 2, "--dpc", 3], "--dpc 3 cannot be shared by --vpc 2"),
    "static file": ("distill_s2d_DM.py", ["--path_static", "absent.pt"], "no static memory at --path_static absent.pt"),
    "static shape": ("distill_s2d_DM.py", ["--path_static", "static.pt"], r"\(10, 3, 32, 32\).*\(20, 3, 32, 32\)"),
    "static of no file": ("distill_s2d_DM.py", ["--static_init", "file"], "--static_init file and no --path_static"),
    "static of two": ("distill_s2d_DM.py", ["--static_init", "real", "--path_static", "static.pt"],
                      "--static_init real and --path_static static.pt contradict each other"),
    "features": ("distill_coreset.py", ["--method", "herding"], "--train_epochs N, --pretrained_path FILE"),
    "weights": ("distill_coreset.py", ["--method", "herding", "--pretrained_path", "other.safetensors"],
                "--pretrained_path other.safetensors is not a state dict of ConvNet3D"),
    "too many": ("distill_coreset.py", ["--ipc", 55], "55 clips .* ZeroUp has 4.*--ipc"),
    "no set": ("evaluate.py", [], "--synset FILE or --train_on full"),
    "a set that is none": ("evaluate.py", ["--synset", "other.safetensors"],
                           "other.safetensors is not a synthetic set"),
    "a set of whatever": ("evaluate.py", ["--synset", "static.pt"], "static.pt .*do not look normalised.*--values"),
    "values of nothing": ("distill_s2d_DM.py", ["--values", "unit"], "--values unit is of a .pt file"),
    "size": ("distill_DM.py", ["--im_size", 0], "0 is not a number of at least 1"),
    "rate": ("distill_DM.py", ["--lr_img", "nan"], "nan is not a finite number"),
    "bool": ("distill_s2d_DM.py", ["--no_train_static", "False"], "unrecognized arguments: False"),
    "abbreviation": ("distill_DM.py", ["--iter", 5], "unrecognized arguments: --iter"),
    "device": ("distill_DM.py", ["--device", "cuda:7"], "--device cuda:7: torch sees 0 CUDA devices"),
    "segments": ("distill_DC.py", ["--ipc", 3, "--split_num", 2], "--split_num 2 segments"),
    "nothing learned": ("distill_DM.py", ["--lr_img", 0], "nothing would be trained"),
    "single frames": ("distill_s2d_DM.py", ["--dataset", "singleMotionDigits", "--model", "ConvNet"],
                      "--dataset singleMotionDigits gives single frames.*give MotionDigits"),
    "features of random": ("distill_coreset.py", ["--random_features"], "--method random looks at no features"),
    "no experts": ("distill_MTT.py", ["--buffer_path", "absent"],
                   "no experts in absent/MotionDigits/ConvNet3D.*buffer.py"),
    "augmentation": ("distill_MTT.py", ["--dsa_strategy", "flip_blur"], "unknown part 'blur' of --dsa_strategy"),
    "epochs": ("buffer.py", ["--train_epochs", 5], "--train_epochs 5 ends before epoch 9"),
    "batch norm": ("buffer.py", ["--model", "ConvNetBN", "--dataset", "singleMotionDigits"],
                   "no parameter.*batch norm"),
    "too small": ("distill_DC.py", ["--im_size", 8, "--model", "LeNet"], "--model LeNet cannot take 8 pixels"),
    "no weights": ("distill_coreset.py", ["--method", "herding", "--pretrained_path", "absent.pt"],
                   "--pretrained_path absent.pt is not a state dict .*no such file"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_names_the_thing_and_the_way_out(case, few_digits, tmp_path, monkeypatch, capsys):
    script, args, message = BAD[case]
    torch.save({"image": torch.zeros(10, 3, 32, 32)}, tmp_path / "static.pt")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    monkeypatch.chdir(tmp_path)
    data = tmp_path if "missing" in case else few_digits
    monkeypatch.setattr(sys, "argv", [str(ROOT / script), "--data_path", str(data), *map(str, args)])
    with pytest.raises(SystemExit) as stop:
        cli(importlib.import_module(script.removesuffix(".py")).main)
    error = capsys.readouterr().err
    assert not list(tmp_path.rglob("checkpoint.pt"))        # the corrected command is not refused
    assert stop.value.code in (1, 2)
    assert re.search(message, error.replace("\n", " ")), error[-600:]
