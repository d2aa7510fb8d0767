"""Every launcher parses, prints its usage, and passes arguments that its script accepts, from any directory."""
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from conftest import NET, ROOT
from distill_utils.dataset import DATASETS

LAUNCHERS = {   # launcher -> (arguments, what stands in the command)
    "sh/static/DC.sh": (["0", "miniUCF101", "2"], ["distill_DC.py", "--ipc 2", "--lr_img 0.1", "--Iteration 1000"]),
    "sh/baseline/coreset.sh": (["0", "miniUCF101", "herding", "1"], [
        "distill_coreset.py", "--method herding", "--num_eval 3", "--train_epochs 50"]),
    "sh/baseline/DM.sh": (["0", "miniUCF101", "30", "1"], [
        "distill_DM.py", "--lr_img 30", "--ipc 1", "--momentum 0.5", "--Iteration 5000", "--eval_it 500",
        "--num_eval 5", "--batch_real 64", "--epoch_eval_train 500"]),
    "sh/s2d/s2d_DM_ms.sh": (["0,1,2,3", "miniUCF101", "1e-4", "1e-5"], [
        "distill_s2d_DM.py", "--vpc 1", "--spc 2", "--dpc 2", "--lr_dynamic 1e-4", "--lr_hal 1e-5", "--momentum 0.95",
        "--no_train_static", "--hal_init published", "--dynamic_init noise", "--eval_it 400", "--num_eval 3"]),
    "sh/s2d/s2d_DM_ms_5.sh": (["0,1,2,3", "miniUCF101", "1e3", "1e-6"], [
        "distill_s2d_DM.py", "--vpc 5", "--spc 10", "--dpc 10", "--lr_dynamic 1e3", "--lr_hal 1e-6", "--eval_it 400"]),
    "sh/baseline/buffer.sh": (["0", "miniUCF101"], [
        "buffer.py", "--num_experts 30", "--train_epochs 50", "--lr_teacher 0.01", "--mom 0", "--batch_train 256"]),
    "sh/baseline/MTT.sh": (["0", "miniUCF101", "1e5", "1"], [
        "distill_MTT.py", "--lr_img 1e5", "--ipc 1", "--momentum 0.5", "--Iteration 8000", "--syn_steps 10",
        "--expert_epochs 1", "--max_start_epoch 10", "--lr_lr 1e-5", "--min_lr 1e-3", "--train_lr"]),
    "sh/s2d/s2d_MTT_ms.sh": (["0,1", "miniUCF101", "1e4", "1e-3"], [
        "distill_s2d_MTT.py", "--vpc 1", "--spc 2", "--dpc 2", "--syn_steps 10", "--momentum 0.95", "--Iteration 10000",
        "--eval_it 400", "--no_train_static"]),
    "sh/s2d/s2d_MTT_ms_5.sh": (["0", "miniUCF101", "1e4", "1e-3"], [
        "distill_s2d_MTT.py", "--vpc 5", "--spc 10", "--dpc 10", "--syn_steps 5", "--batch_syn 128", "--eval_it 200",
        "--batch_train 128"]),
    "sh/s2d/s2d_MTT_ms_K400.sh": (["0", "1e4", "1e-3"], [
        "distill_s2d_MTT.py", "--vpc 1", "--batch_syn 256", "--syn_steps 10", "--lr_dynamic 1e4", "--lr_hal 1e-3",
        "--eval_it 1000"]),
    "sh/baseline/FRePo.sh": (["0", "miniUCF101", "1"], [
        "distill_FRePo.py", "--ipc 1", "--optim adam", "--lr_labels 1e-3", "--batch_real 512", "--reg 1e-6",
        "--pool 10", "--pool_updates 100", "--Iteration 10000", "--decay_it 10000"]),
    "sh/s2d/s2d_FRePo_ms.sh": (["0", "miniUCF101", "0.02", "1e-3"], [
        "distill_s2d_FRePo.py", "--vpc 1", "--spc 1", "--dpc 1", "--optim adam", "--lr_dynamic 0.02", "--lr_hal 1e-3",
        "--lr_labels 1e-3", "--no_train_static", "--hal_init published", "--dynamic_init noise", "--batch_real 512"]),
    "sh/keyframes/PRISM.sh": (["0", "miniUCF101", "3", "1"], [
        "distill_DM.py", "--set keyframes", "--n_syn 2", "--grow", "--grow_from 0.2", "--grow_until 0.8",
        "--init noise", "--momentum 0.95"]),
    "sh/s2d/s2d_FRePo_ms_5.sh": (["0,1", "miniUCF101", "0.02", "1e-3"], [
        "distill_s2d_FRePo.py", "--vpc 5", "--spc 5", "--dpc 5", "--lr_dynamic 0.02", "--lr_hal 1e-3"]),
}
SCRIPTS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "sh").rglob("*.sh"))


def bash(launcher, *args, cwd=None, **env):
    ours = {key: value for key, value in os.environ.items() if key not in ("CUDA_VISIBLE_DEVICES", "DRY_RUN")}
    return subprocess.run(["bash", ROOT / launcher, *map(str, args)], capture_output=True, text=True, cwd=cwd,
                          env={**ours, "PYTHON": sys.executable, **env})


@pytest.mark.parametrize("script", SCRIPTS)
def test_parses_and_has_no_comment_after_a_backslash(script):
    text = (ROOT / script).read_text()
    assert subprocess.run(["bash", "-n", ROOT / script]).returncode == 0
    lines = text.splitlines()
    for line, following in zip(lines, lines[1:], strict=False):
        assert not (line.rstrip() != line and line.rstrip().endswith("\\")), line     # a blank after the backslash
        assert not (line.endswith("\\") and following.strip()[:1] in ("", "#")), line
        assert "\\  #" not in line and "\\ #" not in line


def test_every_launcher_is_in_this_table():
    helpers = {"sh/demo.sh", "sh/test.sh", "sh/setup.sh", "sh/launch.sh", "sh/bench.sh", "sh/faults.sh",
               "sh/gpu.sh", "sh/cluster/slurm.sh", "sh/study/launch.sh", "sh/study/methods.sh", "sh/study/taxonomy.sh",
               "sh/study/frontier.sh"}
    assert set(SCRIPTS) - helpers == set(LAUNCHERS)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_waits_for_a_gpu_is_run_with_flags_that_the_benchmarks_take(device):
    commands = [shlex.split(line) for line in bash("sh/gpu.sh", "--device", device, DRY_RUN="1").stdout.splitlines()]
    tests, *benchmarks = commands
    assert tests[1:5] == ["-m", "pytest", "-q", "-m"] and len(benchmarks) == 5
    for _, script, *flags in benchmarks:
        given = {flag for flag in flags if flag.startswith("--")}
        text = (ROOT / script).read_text() + (ROOT / "benchmarks" / "common.py").read_text()
        assert all(f'"{flag}"' in text for flag in given) and f"--device {device}" in " ".join(flags)
    assert bash("sh/gpu.sh", "--size", "x").returncode == 2


def test_a_toy_run_leaves_the_figures_of_the_documents(tmp_path):
    assert bash("sh/gpu.sh", "--device", "cpu", PYTHON="true", OUT=str(tmp_path)).returncode == 0
    assert [file.name for file in tmp_path.iterdir()] == ["toy.jsonl"]


def test_torchrun_gets_a_rank_for_each_gpu():
    for gpus, env, ranks in (("0,1,2,3", {}, 4), ("2", {}, 1), ("cpu", {}, 2), ("cpu", {"RANKS": "3"}, 3)):
        done = bash("sh/baseline/DM.sh", gpus, "miniUCF101", "30", "1", DRY_RUN="1", DIST="torchrun", **env)
        assert f"-m torch.distributed.run --standalone --nproc_per_node {ranks} " in done.stdout, done
    done = bash("sh/baseline/DM.sh", "0", "miniUCF101", "30", "1", DRY_RUN="1", DIST="mpi")
    assert done.returncode == 2 and "DIST must be torchrun" in done.stderr
    for ranks in ("0", "-1", "x"):
        done = bash("sh/baseline/DM.sh", "cpu", "miniUCF101", "30", "1", DRY_RUN="1", DIST="torchrun", RANKS=ranks)
        assert done.returncode == 2 and f"RANKS must be a number of processes, not '{ranks}'" in done.stderr
    assert "torch.distributed" not in bash("sh/baseline/DM.sh", "0", "miniUCF101", "30", "1", DRY_RUN="1").stdout


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_usage_names_the_arguments_when_one_is_missing(launcher):
    arguments = LAUNCHERS[launcher][0]
    done = bash(launcher, *arguments[:-1])
    assert done.returncode == 2 and done.stderr.startswith(f"usage: bash {launcher} GPU") and not done.stdout


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_dry_run_prints_a_command_that_the_script_accepts(launcher, tmp_path, parse):
    arguments, wanted = LAUNCHERS[launcher]
    where = "--buffer_path" if "buffer" in launcher else "--name"
    static = ["--static_init", "real"] if "s2d" in launcher else []
    done = bash(launcher, *arguments, *static, where, "a b", cwd=tmp_path, DRY_RUN="1")
    assert done.returncode == 0, done.stderr
    command = shlex.split(done.stdout)
    assert command[:2] == ["env", f"CUDA_VISIBLE_DEVICES={arguments[0]}"] and command[2] == sys.executable
    assert command[-4:] == [where, "a b", "--device", "cuda"]
    assert all(part in " ".join(command) for part in ("--protocol paper --precision fp32", *wanted)), command
    script, flags = command[3], command[4:]
    module = importlib.import_module(os.path.basename(script).removesuffix(".py"))
    args = parse(module, flags)
    assert args.dataset == ("Kinetics400" if "K400" in launcher else arguments[1])
    assert vars(args).get("save_path") in (None, str(ROOT / "result"))      # and not in the folder one happens to be in
    assert args.buffer_path in ("a b", str(ROOT / "buffers"))


def test_flags_of_the_user_come_after_those_of_a_launcher(parse):
    done = bash("sh/baseline/MTT.sh", "0", "miniUCF101", "1e5", "1", "--save_path", "here", "--buffer_path", "there",
                "--precision", "auto", DRY_RUN="1")
    args = parse(importlib.import_module("distill_MTT"), shlex.split(done.stdout)[4:])
    assert (args.save_path, args.buffer_path, args.precision) == ("here", "there", "auto")


def test_the_k400_launcher_takes_a_data_set_too_as_it_did_before():
    launcher = "sh/s2d/s2d_MTT_ms_K400.sh"
    for words in (["0", "1e4", "1e-3"], ["0", "Kinetics400_long", "1e4", "1e-3"]):
        done = bash(launcher, *words, "--static_init", "real", DRY_RUN="1")
        dataset = words[1] if len(words) == 4 else "Kinetics400"
        assert f"--dataset {dataset} " in done.stdout and "--lr_dynamic 1e4 --lr_hal 1e-3 " in done.stdout
    done = bash(launcher, "0", "Kinetics400", "1e4", DRY_RUN="1")
    assert done.returncode == 2 and done.stderr.startswith(f"usage: bash {launcher} GPUS LR_DYNAMIC LR_HAL ")


@pytest.mark.parametrize("gpus,status", [("cpu", 0), ("0", 0), ("0,1", 0), ("gpu0", 2), ("0;rm -rf x", 2), ("", 2)])
def test_gpus(gpus, status):
    done = bash("sh/baseline/DM.sh", gpus, "MotionDigits", "1", "1", DRY_RUN="1")
    assert done.returncode == status, done.stderr
    if gpus == "cpu":
        assert done.stdout.startswith("env CUDA_VISIBLE_DEVICES= ") and "--device cpu" in done.stdout
    if status:
        assert "GPUS must be cpu or numbers" in done.stderr


@pytest.mark.parametrize("visible,gpus,device", [
    ("3", "0", "3"), ("2,5", "1", "5"), ("4, 6", "1,0", "6,4"), ("GPU-1a,MIG-2b", "01", "MIG-2b"),
    ("0,1", "0,1", "0,1")])
def test_gpus_count_within_the_visible_devices(visible, gpus, device):
    """A job that was given GPU 3 must not compute on GPU 0, which is somebody else's."""
    done = bash("sh/baseline/DM.sh", gpus, "MotionDigits", "1", "1", DRY_RUN="1", CUDA_VISIBLE_DEVICES=visible)
    assert shlex.split(done.stdout)[:2] == ["env", f"CUDA_VISIBLE_DEVICES={device}"], done.stderr


@pytest.mark.parametrize("visible,gpus", [("3", "1"), ("", "0"), ("2,-1,3", "1"), ("2,5", "0,2"), ("3,,5", "1"),
                                          ("0,1", "18446744073709551616"), ("0,1", "9223372036854775808")])
def test_a_gpu_beyond_the_visible_devices_is_refused(visible, gpus):
    done = bash("sh/baseline/DM.sh", gpus, "MotionDigits", "1", "1", DRY_RUN="1", CUDA_VISIBLE_DEVICES=visible)
    assert done.returncode == 2 and not done.stdout
    assert f"GPUS {gpus} asks for device {gpus.split(',')[-1]}, " in done.stderr
    assert f"CUDA_VISIBLE_DEVICES is '{visible}'" in done.stderr


@pytest.mark.parametrize("value,dry", [("1", True), ("yes", True), ("0", False), ("", False)])
def test_dry_run_0_is_no_dry_run(value, dry, tmp_path):
    for words in (["sh/baseline/DM.sh", "cpu", "MotionDigits", "1", "1"], ["sh/demo.sh", tmp_path / "x"]):
        done = bash(*words, DRY_RUN=value, PYTHON="false")
        assert (done.returncode == 0) == bool(done.stdout) == dry      # false ends with 1, and prints nothing


# ---- the static memory --------------------------------------------------------------------------------------------

def made(folder, name, when=0, **result):
    """A finished run of distill_DC.py, as far as launchers look at it."""
    run = folder / "DC" / name
    run.mkdir(parents=True)
    result = {"dataset": "miniUCF101", "ipc": 2, "im_size": None, "split": None, "split_file": None, "classes": None,
              **result}
    (run / "result.json").write_text(json.dumps(result))
    (run / "synset.safetensors").touch()
    os.utime(run / "synset.safetensors", (when, when))
    return run / "synset.safetensors"


def static_of(*words, launcher="sh/s2d/s2d_DM_ms.sh"):
    """(--path_static that a launcher gives its script, what it said)."""
    done = bash(launcher, "0,1", "miniUCF101", "1", "1", *words, DRY_RUN="1")
    command = shlex.split(done.stdout)
    given = [command[i + 1] for i, word in enumerate(command) if word == "--path_static"]
    return given[-1] if given else None, done.stderr


def test_the_dynamic_stage_takes_the_newest_static_memory_that_fits(tmp_path):
    where = "--save_path", str(tmp_path)
    older = made(tmp_path, "z", 1)
    assert static_of(*where) == (str(older), f"static memory: {older}\n")
    newer = made(tmp_path, "with a blank", 2)
    for name, other in (("ipc", {"ipc": 10}), ("data", {"dataset": "UCF101"}), ("size", {"im_size": 64}),
                        ("split", {"split": 2}), ("classes", {"classes": "Archery"}),
                        ("file", {"split_file": "x.csv"})):
        made(tmp_path, name, 3, **other)
    made(tmp_path, "begun", 3)
    (tmp_path / "DC" / "begun" / "result.json").unlink()
    made(tmp_path, "removed", 3).unlink()
    made(tmp_path, ".x.remove", 3)
    path, said = static_of(*where)
    assert path == str(newer) and f"the newest of 2 in {tmp_path / 'DC'}: give --path_static FILE for another" in said
    assert static_of(*where, "--split", "2", "--im_size=64")[0] is None
    assert static_of(*where, "--split=2")[0] == str(tmp_path / "DC" / "split" / "synset.safetensors")
    assert static_of(*where, "--im_size", "64")[0] == str(tmp_path / "DC" / "size" / "synset.safetensors")
    assert static_of(*where, "--split_file", "y/x.csv")[0] == str(tmp_path / "DC" / "file" / "synset.safetensors")
    assert static_of(*where, launcher="sh/s2d/s2d_DM_ms_5.sh")[0] == str(tmp_path / "DC" / "ipc" / "synset.safetensors")
    made(tmp_path, "damaged", 3)
    (tmp_path / "DC" / "damaged" / "result.json").write_text("{")
    path, said = static_of(*where)
    assert path == str(newer) and f"{tmp_path / 'DC' / 'damaged' / 'result.json'} is left out" in said


@pytest.mark.parametrize("flags,given", [(["--path_static", "a b.pt"], "a b.pt"), (["--static_init", "real"], None),
                                         (["--dry_run"], None), (["--help"], None)])
def test_a_flag_says_what_the_static_images_start_from(flags, given, tmp_path):
    made(tmp_path, "x")
    assert static_of("--save_path", str(tmp_path), *flags) == (given, "")


def test_without_a_static_memory_the_command_that_makes_one_is_said(tmp_path, parse):
    flags = ["--save_path", str(tmp_path / "a b"), "--im_size", "16"]
    done = bash("sh/s2d/s2d_MTT_ms_5.sh", "2,3", "miniUCF101", "1", "1", *flags, cwd=tmp_path)
    assert done.returncode == 1 and not done.stdout and "--static_init real" in done.stderr
    assert "no static memory of miniUCF101 with 10 images a class" in done.stderr
    line, = (line.strip() for line in done.stderr.splitlines() if line.startswith("    bash "))
    words = shlex.split(line)
    assert words[2:5] == ["2", "miniUCF101", "10"]
    done = bash(words[1], *words[2:], cwd=tmp_path, DRY_RUN="1")
    args = parse(importlib.import_module("distill_DC"), shlex.split(done.stdout)[4:])
    assert (args.save_path, args.im_size, args.ipc) == (flags[1], 16, 10)


# ---- the published README -----------------------------------------------------------------------------------------

STATIC = """\
cd sh/static
bash DC.sh 0 miniUCF101 2
bash DC.sh 0 miniUCF101 10
cd ../..
"""
PUBLISHED = """\
cd sh/baseline
bash DM.sh 0 miniUCF101 30 1
cd ../s2d
bash s2d_DM_ms.sh 0,1,2,3 miniUCF101 1e-4 1e-5
bash s2d_DM_ms_5.sh 0,1,2,3 miniUCF101 1e3 1e-6
cd ../baseline
bash buffer.sh 0 miniUCF101
bash MTT.sh 0 miniUCF101 1e5 1
cd ../s2d
bash s2d_MTT_ms.sh 0,1,2,3 miniUCF101 1e4 1e-3
bash s2d_MTT_ms_5.sh 0,1,2,3 miniUCF101 1e4 1e-3
"""


@pytest.fixture
def copy_of_the_code(tmp_path):
    """The code in a folder of its own, with a clip of each class of miniUCF101 to train on and one to test on."""
    code = tmp_path / "the code"
    for file in ROOT.glob("*.py"):
        code.mkdir(exist_ok=True)
        shutil.copy(file, code)
    shutil.copytree(ROOT / "sh", code / "sh")
    data = ROOT / "distill_utils" / "data"
    shutil.copytree(ROOT / "distill_utils", code / "distill_utils", ignore=lambda folder, names: [
        name for name in names if name == "__pycache__" or (folder == str(data) and (data / name).is_dir())])
    for number, label in enumerate(DATASETS["miniUCF101"].classes):
        for group in ("g01", "g08"):
            clip = code / "distill_utils" / "data" / "UCF101" / "jpegs_112" / f"v_{label}_{group}_c01"
            clip.mkdir(parents=True)
            for t in range(1, 5):
                light = np.full((16, 16, 3), (5 * number, 50 * t, 40), np.uint8)
                Image.fromarray(light).save(clip / f"frame{t:06d}.jpg")
    return code


@pytest.mark.slow
def test_the_published_readme_works_line_by_line(copy_of_the_code):
    """Its very lines, from its very folders, after the static stage: on the CPU, and with tiny settings added."""
    code = copy_of_the_code
    tiny = "--frames 4 --im_size 16 --preload"
    score = f"{tiny} --Iteration 1 --num_eval 1 --epoch_eval_train 1"
    added = {"DC.sh": f"{score} --model ConvNetD1 --batch_real 1 --outer_loop 1 --inner_loop 1",
             "buffer.sh": f"{tiny} --model {NET} --num_experts 1", "MTT": f"{score} --model {NET} --syn_steps 2",
             "DM": f"{score} --model {NET} --batch_real 1"}
    script = ["set -e"]
    for line in (STATIC + PUBLISHED).splitlines():
        if line.startswith("bash "):
            line += " " + next(flags for name, flags in added.items() if name in line)
        script.append(line.replace(" 0 ", " cpu ").replace(" 0,1,2,3 ", " cpu "))
    before = sorted((code / "sh").rglob("*"))
    done = subprocess.run(["bash", "-c", "\n".join(script)], cwd=code, capture_output=True, text=True,
                          env={**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "DRY_RUN": "0"})
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted((code / "sh").rglob("*")) == before       # all that was made is where the next line finds it
    assert (code / "buffers" / "miniUCF101" / NET / "expert_0000.safetensors").is_file()
    results = [json.loads(line.removeprefix("RESULT ")) for line in done.stdout.splitlines() if "top1_mean" in line]
    assert [(result["method"], result["ipc"]) for result in results] == [
        ("DC", 2), ("DC", 10), ("DM", 1), ("S2D-DM", 1), ("S2D-DM", 5), ("MTT", 1), ("S2D-MTT", 1), ("S2D-MTT", 5)]
    for result in results:
        folder = code / "result" / result["method"]
        assert result["protocol"] == "paper" and str(folder) in result["synset"] and result["dataset"] == "miniUCF101"
    for method, ipc, spc in (("S2D-DM", 1, 2), ("S2D-DM", 5, 10), ("S2D-MTT", 1, 2), ("S2D-MTT", 5, 10)):
        run, = (code / "result" / method).glob(f"miniUCF101_{NET}_vpc{ipc}_seed0")
        path = json.loads((run / "args.json").read_text())["path_static"]
        assert path == str(code / "result" / "DC" / f"miniUCF101_ConvNetD1_ipc{spc}_seed0" / "synset.safetensors")


@pytest.mark.parametrize("mode", [[], ["--full"]])
def test_the_demo_prints_commands_that_its_scripts_accept(mode, tmp_path, parse):
    done = bash("sh/demo.sh", *mode, tmp_path / "a b", DRY_RUN="1", NAME="of this machine", FIRST_SEED="3")
    assert done.returncode == 0 and not list(tmp_path.iterdir()), done.stderr
    lines = done.stdout.splitlines()
    lanes = [line for line in lines if line.startswith("#")]
    assert lanes == ["# lane 1", "# lane 2"] and lines[0] == lanes[0]
    for line in lines:
        if not line.startswith("#"):
            python, script, *flags = shlex.split(line)
            args = parse(importlib.import_module(script.removesuffix(".py")), flags)
            assert python == "python" and args.dataset == "MotionDigits"
            assert script == "buffer.py" or (args.name.endswith(f"_seed{args.seed}") and args.seed in (3, 4))


def test_the_demo_tells_how_long_it_will_take():
    """The code in it runs as it stands there."""
    code = (ROOT / "sh" / "demo.sh").read_text().split("<<'PY'\n")[1].split("\nPY\n")[0]
    done = subprocess.run([sys.executable, "-c", code, ""], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and re.fullmatch(r"this will take about \d+ minutes on this machine\n", done.stdout)


def test_the_table_of_the_demo_is_of_its_settings(parse):
    """Method, clips and epochs of each row are those that the demo would run now."""
    planned = set()
    for line in bash("sh/demo.sh", DRY_RUN="1").stdout.splitlines():
        if not line.startswith("#"):
            _, script, *flags = shlex.split(line)
            args = parse(importlib.import_module(script.removesuffix(".py")), flags)
            if "epoch_eval_train" in args:      # and not experts
                planned.add((args.epoch_eval_train, args.num_eval, args.batch_train, args.seed))
    rows = json.loads((ROOT / "docs" / "demo.json").read_text())
    assert {(row["epochs"], row["num_networks"], 32, row["seed"]) for row in rows} == planned and len(rows) == 10


@pytest.mark.parametrize("words", [["--ful"], ["--help"], ["x", "--full"], ["--full", "x", "y"]])
def test_the_demo_refuses_what_it_does_not_know(words, tmp_path):
    done = bash("sh/demo.sh", *words, cwd=tmp_path, DRY_RUN="1")
    assert done.returncode == 2 and "bash sh/demo.sh [--full]" in done.stderr
