"""Every launcher parses, prints its usage, and passes arguments that its script accepts, from any directory."""
import importlib
import json
import os
import shlex
import subprocess
import sys

import pytest

from conftest import ROOT

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
        "distill_s2d_DM.py", "--vpc 5", "--spc 10", "--dpc 10", "--lr_dynamic 1e3", "--lr_hal 1e-6"]),
    "sh/baseline/buffer.sh": (["0", "miniUCF101"], [
        "buffer.py", "--num_experts 30", "--train_epochs 50", "--lr_teacher 0.01", "--mom 0", "--batch_train 256"]),
    "sh/baseline/MTT.sh": (["0", "miniUCF101", "1e5", "1"], [
        "distill_MTT.py", "--lr_img 1e5", "--ipc 1", "--momentum 0.5", "--Iteration 8000", "--syn_steps 10",
        "--expert_epochs 1", "--max_start_epoch 10", "--lr_lr 1e-5", "--min_lr 1e-3", "--train_lr"]),
    "sh/s2d/s2d_MTT_ms.sh": (["0,1", "miniUCF101", "1e4", "1e-3"], [
        "distill_s2d_MTT.py", "--vpc 1", "--spc 2", "--dpc 2", "--syn_steps 10", "--momentum 0.95", "--Iteration 10000",
        "--eval_it 400", "--no_train_static"]),
    "sh/s2d/s2d_MTT_ms_5.sh": (["0", "miniUCF101", "1e4", "1e-3"], [
        "distill_s2d_MTT.py", "--vpc 5", "--spc 10", "--dpc 10", "--syn_steps 5", "--batch_syn 128", "--eval_it 200"]),
    "sh/s2d/s2d_MTT_ms_K400.sh": (["0", "Kinetics400", "1e4", "1e-3"], [
        "distill_s2d_MTT.py", "--vpc 1", "--batch_syn 256", "--syn_steps 10"]),
}
SCRIPTS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "sh").rglob("*.sh"))


def bash(launcher, *args, cwd=None, **env):
    return subprocess.run(["bash", ROOT / launcher, *args], capture_output=True, text=True, cwd=cwd,
                          env={**os.environ, "PYTHON": sys.executable, **env})


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
    helpers = {"sh/demo.sh", "sh/test.sh", "sh/setup.sh", "sh/launch.sh", "sh/bench.sh"}
    assert set(SCRIPTS) - helpers == set(LAUNCHERS)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_usage_names_the_arguments_when_one_is_missing(launcher):
    arguments = LAUNCHERS[launcher][0]
    done = bash(launcher, *arguments[:-1])
    assert done.returncode == 2 and done.stderr.startswith(f"usage: bash {launcher} GPU") and not done.stdout


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_dry_run_prints_a_command_that_the_script_accepts(launcher, tmp_path, parse):
    arguments, wanted = LAUNCHERS[launcher]
    where = "--buffer_path" if "buffer" in launcher else "--name"
    done = bash(launcher, *arguments, where, "a b", cwd=tmp_path, DRY_RUN="1")
    assert done.returncode == 0, done.stderr
    command = shlex.split(done.stdout)
    assert command[:2] == ["env", f"CUDA_VISIBLE_DEVICES={arguments[0]}"] and command[2] == sys.executable
    assert command[-4:] == [where, "a b", "--device", "cuda"] and "--protocol paper" in " ".join(command)
    assert all(part in " ".join(command) for part in wanted), command
    script, flags = command[3], command[4:]
    module = importlib.import_module(os.path.basename(script).removesuffix(".py"))
    assert parse(module, flags).dataset == arguments[1]


@pytest.mark.parametrize("gpus,status", [("cpu", 0), ("0", 0), ("0,1", 0), ("gpu0", 2), ("0;rm -rf x", 2), ("", 2)])
def test_gpus(gpus, status):
    done = bash("sh/baseline/DM.sh", gpus, "MotionDigits", "1", "1", DRY_RUN="1")
    assert done.returncode == status, done.stderr
    if gpus == "cpu":
        assert done.stdout.startswith("env CUDA_VISIBLE_DEVICES= ") and "--device cpu" in done.stdout
    if status:
        assert "GPUS must be cpu or numbers" in done.stderr


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


def test_the_table_of_the_demo_is_of_its_settings(parse):
    """Method, clips and epochs of each row are those that the demo would run now."""
    planned = set()
    for line in bash("sh/demo.sh", DRY_RUN="1").stdout.splitlines():
        if not line.startswith("#"):
            _, script, *flags = shlex.split(line)
            args = parse(importlib.import_module(script.removesuffix(".py")), flags)
            planned.add((args.epoch_eval_train, args.num_eval, args.batch_train, args.seed))
    rows = json.loads((ROOT / "docs" / "demo.json").read_text())
    assert {(row["epochs"], row["num_networks"], 32, row["seed"]) for row in rows} == planned and len(rows) == 8


@pytest.mark.parametrize("words", [["--ful"], ["--help"], ["x", "--full"], ["--full", "x", "y"]])
def test_the_demo_refuses_what_it_does_not_know(words, tmp_path):
    done = bash("sh/demo.sh", *words, cwd=tmp_path, DRY_RUN="1")
    assert done.returncode == 2 and "bash sh/demo.sh [--full]" in done.stderr
