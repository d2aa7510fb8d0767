"""Ranks: several processes that torchrun starts make the set that one makes, and end together."""
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

import ranks
from conftest import NET, ROOT
from distill_utils import parallel
from distill_utils.dataset import get_spec
from distill_utils.device import check_memory, resolve_device
from distill_utils.synset import load_synset
from networks import NETWORKS

ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
# nothing is added up, or what is added up has one term that is not 0
EXACT = {"DM_pixels", "DM_adam", "bank", "adam", "store", "grown", "herding", "batches", "score",
         "DC_pixels"}


def torchrun(count, *words, **kwargs):
    """A process that runs a script with so many ranks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(count), "--master_port", str(port),
         *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ONE_THREAD, cwd=ROOT,
        start_new_session=True, **kwargs)


def finished(process, status=0):
    out, err = process.communicate(timeout=300)
    assert process.returncode == status, err[-3000:]
    return out, err


@pytest.fixture(scope="module")
def made(few_digits, tiny_experts, tmp_path_factory):
    """{number of ranks: folder of the runs of ranks.py}"""
    folder = tmp_path_factory.mktemp("ranks")
    alone = subprocess.run([sys.executable, ROOT / "tests" / "ranks.py", folder / "1", few_digits, tiny_experts],
                           capture_output=True, text=True, env=ONE_THREAD)
    assert alone.returncode == 0, alone.stderr[-3000:]
    for count, only in ((2, ()), (4, ("MTT_pixels", "DM_s2d", "FRePo_s2d", "bank", "herding"))):
        out, _ = finished(torchrun(count, ROOT / "tests" / "ranks.py", folder / str(count), few_digits, tiny_experts,
                                   *only))
        found = json.loads(out.splitlines()[-1])
        assert found["ranks"] == count and found["sent"] > 0
        assert out.count("RESULT ") == (len(only) or len(list(folder.glob("1/*/*/result.json"))))   # each said once
    return folder


def run_of(folder, name):
    found, = folder.glob(f"*/{name}")
    return found, json.loads((found / "result.json").read_text())


@pytest.mark.parametrize("name", ranks.commands("", "", ""))
def test_two_ranks_make_the_set_that_one_makes(name, made):
    (alone, result), (shared, other) = (run_of(made / count, name) for count in "12")
    before, now = (load_synset(folder / "synset.safetensors")[0].state_dict() for folder in (alone, shared))
    for key, value in before.items():
        torch.testing.assert_close(now[key], value, rtol=1e-4, atol=3e-5, msg=lambda text, key=key: f"{key}: {text}")
    if name in EXACT:
        assert (alone / "synset.safetensors").read_bytes() == (shared / "synset.safetensors").read_bytes()
        assert (alone / "preview.png").read_bytes() == (shared / "preview.png").read_bytes()
        keys = ("top1_mean", "top1_std", "top5_mean", "loss_mean", "per_class", "storage_bytes")
        assert {key: result[key] for key in keys} == {key: other[key] for key in keys}
    assert (result["ranks"], other["ranks"]) == (1, 2) and result["bytes_sent"] == 0
    lines = [[json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
             for folder in (alone, shared)]
    for line in lines[1]:
        assert ("bytes_sent" in line) == ("loss" in line) and line.pop("bytes_sent", 1) > 0
    assert [(line["iteration"], sorted(line)) for line in lines[0]] == [
        (line["iteration"], sorted(line)) for line in lines[1]]
    for a, b in zip(*lines, strict=True):
        assert a.get("loss", 0) == pytest.approx(b.get("loss", 0), rel=1e-3)


def test_sets_move_by_far_more_than_they_differ(made):
    """Or the comparison above could not fail."""
    for name in ("DM_s2d", "MTT_pixels", "FRePo_pixels", "DC_s2d"):
        folder, _ = run_of(made / "1", name)
        state = torch.load(folder / "checkpoint.pt", weights_only=True)
        moments = [value["momentum_buffer"].abs().max() * group["lr"] for group in state["parts"]["optimizer"][
            "param_groups"] for value in [state["parts"]["optimizer"]["state"][group["params"][0]]]]
        assert max(moments) > 1e-3, name


@pytest.mark.parametrize("name", ["MTT_pixels", "DM_s2d", "FRePo_s2d", "bank", "herding"])
def test_four_ranks_too(name, made):
    before, now = (load_synset(run_of(made / count, name)[0] / "synset.safetensors")[0].state_dict() for count in "14")
    for key, value in before.items():
        torch.testing.assert_close(now[key], value, rtol=1e-4, atol=3e-5)


def test_only_what_classes_share_is_sent_in_a_step(made):
    """DM of pixels: a loss a step; and the set and its momentum, once for each time that it is saved or scored."""
    folder, result = run_of(made / "2", "DM_pixels")
    numbers = 10 * 2 * 4 * 3 * 16 * 16
    saves = 4       # --Iteration 4 --save_it 1: after each step
    of_set = saves * 2 * 4 * numbers
    assert of_set + 4 * 4 < result["bytes_sent"] < of_set + 30_000      # the rest are scores and confusions
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["bytes_sent"] for line in steps if "loss" in line] == [4]


# ---- one that ends ------------------------------------------------------------------------------------------------

def dm(few_digits, folder, *more):
    return [ROOT / "distill_DM.py", "--model", NET, "--frames", 4, "--im_size", 16, "--data_path", few_digits,
            "--save_path", folder, "--name", "x", "--batch_real", 2, "--num_eval", 1, "--epoch_eval_train", 1,
            "--lr_img", 1, "--eval_it", 1000, "--save_it", 5, "--device", "cpu", "--precision", "fp32", *more]


def test_a_rank_that_is_killed_ends_the_others_and_any_number_goes_on(few_digits, tmp_path):
    process = torchrun(2, *dm(few_digits, tmp_path / "broken", "--Iteration", 100_000))
    checkpoint = tmp_path / "broken/DM/x/checkpoint.pt"
    for _ in range(600):
        if checkpoint.is_file() and (checkpoint.parent / "metrics.jsonl").read_text().count("loss") > 1:
            break
        time.sleep(0.1)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(children[-1]), signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    for child in children:
        assert not Path(f"/proc/{child}").exists()
    done = torch.load(checkpoint, weights_only=True)["iteration"]
    assert done >= 5
    end = done + 7
    for count in (1, 3):        # goes on with other numbers of ranks: to the set of an undisturbed run
        if count == 1:
            subprocess.run([sys.executable, *map(str, dm(few_digits, tmp_path / "broken", "--Iteration", end,
                                                         "--resume"))], check=True, capture_output=True, env=ONE_THREAD)
        else:
            end += 4
            finished(torchrun(count, *dm(few_digits, tmp_path / "broken", "--Iteration", end, "--resume")))
    subprocess.run([sys.executable, *map(str, dm(few_digits, tmp_path / "whole", "--Iteration", end))], check=True,
                   capture_output=True, env=ONE_THREAD)
    first, second = (tmp_path / name / "DM/x/synset.safetensors" for name in ("broken", "whole"))
    assert first.read_bytes() == second.read_bytes()


def test_bad_input_ends_all_ranks_with_its_message(few_digits, tmp_path):
    _, err = finished(torchrun(2, *dm(few_digits, tmp_path, "--Iteration", 2, "--ipc", 55)), status=1)
    assert "error: cannot take 55 clips of each class" in err
    _, err = finished(torchrun(2, *dm(few_digits, tmp_path, "--Iteration", 2, "--device", "cuda:0")), status=1)
    assert "--device cuda:0" in err
    script = ["distill_FRePo.py", *dm(few_digits, tmp_path, "--Iteration", 2, "--name", "bn")[1:]]
    _, err = finished(torchrun(2, *script, "--dataset", "singleMotionDigits", "--model", "ConvNetBN"), status=1)
    assert "--model ConvNetBN has batch norm" in err and "2 ranks would share each" in err
    _, err = finished(torchrun(2, *script, "--batch_real", 1), status=1)
    assert "2 ranks cannot share --batch_real 1 clips" in err


def test_ranks_that_find_different_checkpoints_say_so(few_digits, tmp_path):
    """As where each machine has a --save_path of its own."""
    folder = tmp_path / "{rank}"
    for rank, flags in ((0, ["--Iteration", 1]), (1, [])):
        path = tmp_path / str(rank)
        path.mkdir()
        if flags:
            subprocess.run([sys.executable, *map(str, dm(few_digits, path, *flags))], check=True, capture_output=True,
                           env=ONE_THREAD)
    script = tmp_path / "apart.py"
    script.write_text(f"""if True:
        import os, sys
        sys.path.insert(0, {str(ROOT)!r})
        sys.argv = [word.format(rank=os.environ["RANK"]) for word in {
            [*map(str, dm(few_digits, folder, "--Iteration", 2, "--resume"))]!r}]
        import distill_DM
        from distill_utils import args
        args.cli(distill_DM.main)""")
    _, err = finished(torchrun(2, script), status=1)
    assert "ranks find different checkpoints" in err and "file system that all of them share" in err


def test_what_nobody_foresaw_is_shown_by_the_rank_that_met_it(tmp_path):
    script = tmp_path / "boom.py"
    script.write_text(f"""if True:
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        from distill_utils import args, parallel

        def main():
            if parallel.rank():
                raise KeyError("nobody foresaw this")
            parallel.wait()

        args.cli(main)""")
    _, err = finished(torchrun(2, script), status=1)
    assert "KeyError: 'nobody foresaw this'" in err and "rank 0 waits in vain" in err


# ---- what they do -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("count,of", [(10, 1), (10, 3), (4, 4), (3, 5), (0, 2)])
def test_shares_are_all_in_order_and_as_equal_as_can_be(count, of):
    shares = [parallel.share(count, of, at) for at in range(of)]
    assert [i for part in shares for i in part] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_what_a_machine_has_is_shared_by_its_ranks(monkeypatch):
    monkeypatch.setattr(parallel, "size", lambda: 8)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "3")
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    check_memory("--ipc 9", there // 20)
    with pytest.raises(ValueError, match=r"--ipc 9 takes .* GB of memory in the 4 ranks of this machine"):
        check_memory("--ipc 9", there // 15)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    with pytest.raises(ValueError, match="torch sees 3 on this machine, where at least 4 ranks are: start fewer"):
        resolve_device("cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert resolve_device("cuda") == torch.device("cuda:3")


def test_alone_nothing_is_sent_and_nothing_changes():
    tensor = torch.arange(3.0)
    parallel.add_up([tensor])
    parallel.hand_round(tensor, 1)
    assert tensor.tolist() == [0, 1, 2] and parallel.collect(5) == [5] and parallel.sent == 0
    assert parallel.join_rows(tensor)[1] == slice(0, 3) and not parallel.any_of(False)


@pytest.mark.parametrize("layer", [nn.Dropout, nn.Dropout3d])
def test_dropout_of_a_part_is_that_of_the_whole(layer, monkeypatch):
    network, x = nn.Sequential(layer(0.5)), torch.rand(6, 4, 2, 2, 2)
    torch.manual_seed(0)
    whole = network(x)
    monkeypatch.setattr(parallel, "size", lambda: 2)
    torch.manual_seed(0)
    with parallel.whole_dropout(network, torch.tensor([1, 4]), 6):
        part = network(x[[1, 4]])
    assert torch.equal(part, whole[[1, 4]]) and (part == 0).any() and "forward" not in vars(network[0])
    network.eval()
    with parallel.whole_dropout(network, torch.tensor([1, 4]), 6):
        assert torch.equal(network(x[[1, 4]]), x[[1, 4]])


def test_messages_between_ranks(tmp_path):
    """Sums, rows and groups between real processes; and tensors whose memory is not in their order."""
    script = tmp_path / "talk.py"
    script.write_text(f"""if True:
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        import torch
        from distill_utils import parallel
        parallel.join()
        rank, size = parallel.rank(), parallel.size()
        odd = torch.zeros(3, 2, 4).permute(2, 0, 1)                     # (4, 3, 2)
        own = parallel.share(4)
        odd[own.start:own.stop] = rank + 1.0
        parallel.hand_round(odd, 1)
        assert odd[:, 0, 0].tolist() == [1, 2, 3, 4] and (odd == odd[:, :1, :1]).all()
        a, b = torch.full((2,), float(rank)), torch.ones(2, 3).T
        parallel.add_up([a, b])
        assert a.tolist() == [6, 6] and (b == 4).all() and b.shape == (3, 2)
        rows, mine = parallel.join_rows(torch.full((rank, 2), float(rank)))
        assert rows[:, 0].tolist() == [1, 2, 2, 3, 3, 3] and (rows[mine] == rank).all()
        assert parallel.any_of(rank == 3) and parallel.collect(rank) == [0, 1, 2, 3]
        team = parallel.Team(2)
        assert (team.teams, team.members, team.team, team.place) == (2, 2, rank // 2, rank % 2)
        c = torch.tensor([float(rank)])
        team.add_up([c])
        assert c.item() == (1 if rank < 2 else 5) and list(team.jobs(4)) == [[0, 1], [2, 3]][team.team]
        assert parallel.sent > 0
        if rank == 0:
            print("all is well")
        parallel.leave()""")
    out, _ = finished(torchrun(4, script))
    assert out == "all is well\n"


# ---- clusters -----------------------------------------------------------------------------------------------------

def cluster(tmp_path, nodes):
    """What a job of SLURM sees: an srun that starts the command once for each node, all of them on this machine, and
    kills it at a TERM as the real one does; an scancel that sends signals to what srun started; and a scontrol that
    notes what is asked of it. SLURM itself is not here."""
    tools, started = tmp_path / "bin", tmp_path / "started"
    tools.mkdir(exist_ok=True)
    (tools / "scontrol").write_text(f"""#!/bin/bash
if [ "$1" = show ]; then for _ in $(seq {nodes}); do echo localhost; done; else echo "$@" >> {tmp_path}/asked; fi
""")
    (tools / "scancel").write_text(f"""#!/bin/bash
[ "$1 $2" = "--signal=TERM 4711" ] && kill -TERM $(cat {started})
""")
    (tools / "srun").write_text(f"""#!/bin/bash
pids=()
for _ in $(seq {nodes}); do "$@" & pids+=($!); done
echo "${{pids[@]}}" > {started}
trap 'kill -KILL "${{pids[@]}}"' TERM
status=0
for pid in "${{pids[@]}}"; do
    while kill -0 $pid 2>/dev/null; do wait $pid || status=$?; done
done
exit $status
""")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    return {**ONE_THREAD, "PATH": f"{tools}:{os.environ['PATH']}", "PYTHON": sys.executable, "SLURM_JOB_ID": "4711",
            "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NNODES": str(nodes), "RANKS": "1", "SLURM_SUBMIT_DIR": str(ROOT)}


@pytest.mark.parametrize("number, asked", [(signal.SIGUSR1, "requeue 4711\n"), (signal.SIGTERM, "")])
def test_a_job_that_is_ended_saves_and_goes_on_when_it_is_started_again(number, asked, few_digits, tmp_path):
    """Slurm itself queues a preempted job again, and nobody a cancelled one: both get a TERM."""
    script, *flags = map(str, dm(few_digits, tmp_path / "job"))
    command = ["bash", ROOT / "sh/cluster/slurm.sh", "distill_DM.py", *flags]
    job = subprocess.Popen([*command, "--Iteration", "100000"], env=cluster(tmp_path, 2), cwd=tmp_path, text=True,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    checkpoint = tmp_path / "job/DM/x/checkpoint.pt"
    for _ in range(600):
        if checkpoint.is_file() and (checkpoint.parent / "metrics.jsonl").read_text().count("loss") > 1:
            break
        time.sleep(0.1)
    (tmp_path / "asked").touch()
    job.send_signal(number)
    _, err = job.communicate(timeout=120)
    assert job.returncode != 0 and (tmp_path / "asked").read_text() == asked, err[-3000:]
    assert "is saved in" in err         # by the ranks: no step is lost
    done = torch.load(checkpoint, weights_only=True)["iteration"]
    again = subprocess.run([*command, "--Iteration", str(done + 3)], env=cluster(tmp_path, 2), cwd=tmp_path, text=True,
                           capture_output=True)
    assert again.returncode == 0 and f"going on from iteration {done} of" in again.stderr, again.stderr[-3000:]
    assert (tmp_path / "asked").read_text() == asked        # once: this one ended by itself
    assert json.loads((checkpoint.parent / "result.json").read_text())["ranks"] == 2


def test_the_job_says_what_it_would_run(tmp_path):
    """And the script takes these flags."""
    run = subprocess.run(["bash", ROOT / "sh/cluster/slurm.sh", "buffer.py", "--dataset", "a b"], capture_output=True,
                         text=True, env=cluster(tmp_path, 2) | {"DRY_RUN": "1", "SLURM_GPUS_ON_NODE": "4"})
    assert run.stdout.startswith("srun ") and "--nnodes 2 --nproc_per_node 4" in run.stdout
    assert "--rdzv_endpoint localhost:24711" in run.stdout and "buffer.py --dataset a\\ b --resume" in run.stdout
    done = subprocess.run([sys.executable, ROOT / "buffer.py", "--dataset", "MotionDigits", "--resume", "--dry_run"],
                          capture_output=True, text=True)
    assert done.returncode == 0 and "RESULT" in done.stdout
    alone = subprocess.run(["bash", ROOT / "sh/cluster/slurm.sh", "buffer.py"], capture_output=True, text=True,
                           env={key: value for key, value in cluster(tmp_path, 2).items() if key != "SLURM_JOB_ID"})
    assert alone.returncode == 2 and "start it with sbatch" in alone.stderr


# ---- what they bring ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name, loss, settings", [
    ("DM_s2d", "DM", {}), ("FRePo_pixels", "FRePo", {"real": 12}), ("uneven", "MTT", {"steps": 2})])
def test_the_messages_that_the_benchmark_counts_are_those_that_are_sent(name, loss, settings, made, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import processes
    folder, _ = run_of(made / "2", name)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    args = json.loads((folder / "args.json").read_text())
    synset, _ = load_synset(folder / "synset.safetensors")
    spec = get_spec(args["dataset"], frames=args["frames"], im_size=args["im_size"])
    network = NETWORKS[args["model"]](spec).to("meta")
    step = processes.STEPS[loss](synset.to("meta"), network, spec, **settings)
    assert sum(step.messages) in {line.get("bytes_sent") for line in lines}


def test_a_signal_that_comes_while_ranks_ask_each_other_is_not_lost(script, monkeypatch):
    asked, any_of = [], parallel.any_of

    def asks(truth):
        asked.append(truth)
        if len(asked) == 2:
            for _ in range(2):      # schedulers send it more than once: the step ends all the same, and is saved
                os.kill(os.getpid(), signal.SIGTERM)
        return any_of(truth)

    monkeypatch.setattr(parallel, "any_of", asks)
    with pytest.raises(KeyboardInterrupt, match="Iteration 2 is saved"):
        script("DM", "x", Iteration=100, eval_it=100)
    assert asked == [False, False, True]
