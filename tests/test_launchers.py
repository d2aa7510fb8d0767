"""Every launcher parses, prints its usage, and passes arguments that its script accepts, from any directory."""
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
        assert not (line.endswith("\\") and following.strip().startswith(("#", ""))) or following.strip(), line
        assert "\\  #" not in line and "\\ #" not in line


def test_every_launcher_is_in_this_table():
    helpers = {"sh/demo.sh", "sh/test.sh", "sh/setup.sh", "sh/launch.sh"}
    assert set(SCRIPTS) - helpers == set(LAUNCHERS)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_usage_names_the_arguments_when_one_is_missing(launcher):
    arguments = LAUNCHERS[launcher][0]
    done = bash(launcher, *arguments[:-1])
    assert done.returncode == 2 and done.stderr.startswith(f"usage: bash {launcher} GPU") and not done.stdout


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_dry_run_prints_a_command_that_the_script_accepts(launcher, tmp_path, monkeypatch):
    arguments, wanted = LAUNCHERS[launcher]
    done = bash(launcher, *arguments, "--name", "a b", cwd=tmp_path, DRY_RUN="1")
    assert done.returncode == 0, done.stderr
    command = shlex.split(done.stdout)
    assert command[:2] == ["env", f"CUDA_VISIBLE_DEVICES={arguments[0]}"] and command[2] == sys.executable
    assert command[-4:] == ["--name", "a b", "--device", "cuda"] and "--protocol paper" in " ".join(command)
    assert all(part in " ".join(command) for part in wanted), command
    script, flags = command[3], command[4:]
    parsed = {}

    class Parsed(Exception):
        pass

    def stop(args, *rest, **kwargs):
        parsed.update(vars(args))
        raise Parsed

    name = os.path.basename(script).removesuffix(".py")
    module = __import__(name)
    monkeypatch.setattr(module, "check_args", stop)
    monkeypatch.setattr(sys, "argv", [script, *flags])
    with pytest.raises(Parsed):
        module.main()
    assert parsed["dataset"] == "miniUCF101" and parsed["name"] == "a b"


@pytest.mark.parametrize("gpus,status", [("cpu", 0), ("0", 0), ("0,1", 0), ("gpu0", 2), ("0;rm -rf x", 2), ("", 2)])
def test_gpus(gpus, status):
    done = bash("sh/baseline/DM.sh", gpus, "MotionDigits", "1", "1", DRY_RUN="1")
    assert done.returncode == status, done.stderr
    if gpus == "cpu":
        assert done.stdout.startswith("env CUDA_VISIBLE_DEVICES= ") and "--device cpu" in done.stdout
    if status:
        assert "GPUS must be cpu or numbers" in done.stderr
