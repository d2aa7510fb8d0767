"""Expert trajectories: copies that stay, one file an expert made once by whichever process, every expert drawn."""
import hashlib
import json
import os
import signal
import threading
import time
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from torch import nn

from distill_utils import files, tensors, trajectories
from distill_utils.trajectories import (
    Experts,
    check_settings,
    epochs_to_keep,
    expert_path,
    missing_experts,
    save_expert,
    snapshot,
)
from networks import NETWORKS, Parallel
from test_files import fork, hang, killed_at, wait_for

SETTINGS = {"dataset": "MotionDigits", "model": "net", "protocol": "standard", "seed": 0, "lr_teacher": 0.01}


def net(seed=0, width=4):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, width), nn.Linear(width, 2))


def trajectory(expert, epochs):
    """{epoch: snapshot}; each holds other numbers than any other."""
    return {epoch: snapshot(net(100 * expert + epoch)) for epoch in epochs}


def fill(folder, experts, epochs=range(6), **settings):
    folder.mkdir(exist_ok=True)
    for expert in experts:
        save_expert(folder, expert, net(), trajectory(expert, epochs), SETTINGS | settings)
    return folder


def fill_others(folder, counts, epochs=range(6), zipped=True, parameter=False):
    """replay_buffer_N.pt with counts[N] experts; returns the snapshots by the label that Experts gives each."""
    folder.mkdir(exist_ok=True)
    by_label, expert = {}, 0
    for number, count in enumerate(counts):
        content = []
        for i in range(count):
            snapshots = trajectory(expert, epochs)
            by_label[f"replay_buffer_{number}.pt[{i}]"] = snapshots
            content.append([[nn.Parameter(p) if parameter else p for p in snapshots[e]] for e in epochs])
            expert += 1
        torch.save(content, folder / f"replay_buffer_{number}.pt", _use_new_zipfile_serialization=zipped)
    return by_label


def equal(a, b):
    return len(a) == len(b) and all(map(torch.equal, a, b))


# ---- snapshots ----------------------------------------------------------------------------------------------------

def test_a_snapshot_stays_while_the_network_trains_on():
    network = net()
    network[0].weight.data = network[0].weight.data.t().contiguous().t()      # no plain order in memory
    before = {name: value.tolist() for name, value in network.named_parameters()}
    taken = snapshot(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=1)
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert [value.tolist() for value in taken] == list(before.values())
    assert network[0].weight.tolist() != before["0.weight"]
    assert all(value.is_contiguous() and not value.requires_grad for value in taken)


def test_a_data_parallel_network_has_the_snapshot_of_the_plain_one(tmp_path):
    assert equal(snapshot(Parallel(net())), snapshot(net()))
    save_expert(tmp_path, 0, Parallel(net()), trajectory(0, (0, 1)), SETTINGS)
    assert Experts(tmp_path, net(), 1, 1).sample(0, 0).epoch == 0


def test_a_network_with_batch_norm_is_refused(tmp_path):
    network = NETWORKS["ConvNetBN"](SimpleNamespace(channels=3, size=8, num_classes=2))
    for use in (snapshot, lambda network: Experts(tmp_path, network, 1, 1)):
        with pytest.raises(ValueError, match=r"features\.1\.running_mean.*without batch norm, such as ConvNet"):
            use(network)


@pytest.mark.parametrize("max_start", [1, 3, 10])
@pytest.mark.parametrize("expert_epochs", [1, 2, 6])
@pytest.mark.parametrize("train_epochs", [1, 10, 11, 20])
def test_epochs_to_keep_against_a_search(train_epochs, max_start, expert_epochs):
    starts = range(max_start)
    ends = {s + expert_epochs for s in starts}
    arguments = (train_epochs, max_start, expert_epochs)
    if any(end > train_epochs for end in ends):
        for keep in ("needed", "all"):
            with pytest.raises(ValueError, match="raise --train_epochs to"):
                epochs_to_keep(*arguments, keep)
    else:
        needed = [e for e in range(train_epochs + 1) if e in starts or e in ends]
        assert epochs_to_keep(*arguments) == needed
        assert epochs_to_keep(*arguments, "all") == list(range(train_epochs + 1))


def test_epochs_to_keep_of_the_published_setting_and_refusals():
    assert epochs_to_keep(50, 10, 1) == list(range(11))
    assert epochs_to_keep(10, 10, 1) == list(range(11))     # just enough
    with pytest.raises(ValueError, match="--train_epochs 9 .*raise --train_epochs to 10"):
        epochs_to_keep(9, 10, 1)
    with pytest.raises(ValueError, match="needed, all"):
        epochs_to_keep(50, 10, 1, keep="some")
    for zero in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            epochs_to_keep(50, *zero)


# ---- one expert's file --------------------------------------------------------------------------------------------

def test_float32_comes_back_bit_for_bit_and_bfloat16_nearly(tmp_path):
    exact, near = tmp_path / "exact", tmp_path / "near"
    for folder, dtype in ((exact, "float32"), (near, "bfloat16")):
        folder.mkdir()
        save_expert(folder, 0, net(), trajectory(0, range(3)), SETTINGS, dtype, train_top1={"0": 0.1})
    for number in range(20):
        a, b = Experts(exact, net(), 2, 1).sample(0, number), Experts(near, net(), 2, 1).sample(0, number)
        assert a.epoch == b.epoch and {v.dtype for v in (*b.start, *b.target)} == {torch.float32}
        assert equal(a.start, snapshot(net(a.epoch))) and equal(a.target, snapshot(net(a.epoch + 1)))
        for mine, theirs in zip(a.start + a.target, b.start + b.target, strict=True):
            torch.testing.assert_close(theirs, mine, rtol=2 ** -8, atol=0)
            assert not torch.equal(theirs, mine)
    assert near.joinpath("expert_0000.safetensors").stat().st_size < exact.joinpath(
        "expert_0000.safetensors").stat().st_size


def test_the_header_says_how_the_expert_was_made(tmp_path):
    save_expert(tmp_path, 3, net(), trajectory(3, (0, 2)), SETTINGS, test_top1={"0": 0.1})
    with safe_open(expert_path(tmp_path, 3), framework="pt") as file:
        header = json.loads(file.metadata()["header"])
        assert set(file.keys()) == {f"{e}/{name}" for e in (0, 2) for name, _ in net().named_parameters()}
    assert header.pop("sum") and header.pop("sums").keys() == {f"{e}/{name}" for e in (0, 2) for name in
                                                               ("0.weight", "0.bias", "1.weight", "1.bias")}
    assert header == {"kind": "expert", "number": 3, "epochs": [0, 2], "dtype": "float32", "settings": SETTINGS,
                      "parameters": ["0.weight", "0.bias", "1.weight", "1.bias"], "test_top1": {"0": 0.1}}


def test_an_expert_that_diverged_is_not_written(tmp_path):
    fill(tmp_path, [0])
    snapshots = trajectory(1, range(3))
    snapshots[2][1][0] = float("nan")
    with pytest.raises(ValueError, match=r"0\.bias of expert 1 is not finite after epoch 2"):
        save_expert(tmp_path, 1, net(), snapshots, SETTINGS)
    assert os.listdir(tmp_path) == ["expert_0000.safetensors"]


def test_a_full_disk_leaves_earlier_experts_whole(tmp_path, monkeypatch):
    fill(tmp_path, [0])
    before = expert_path(tmp_path, 0).read_bytes()

    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise RuntimeError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(tensors, "save_file", full)
    for number in (0, 1):
        with pytest.raises(OSError, match=rf"no space left .*expert_000{number}\.safetensors"):
            fill(tmp_path, [number], range(3))
    assert os.listdir(tmp_path) == ["expert_0000.safetensors"] and expert_path(tmp_path, 0).read_bytes() == before


# ---- settings -----------------------------------------------------------------------------------------------------

def test_other_settings_are_refused_with_the_difference_and_free_ones_are_not(tmp_path):
    folder = tmp_path / "a" / "b"
    check_settings(folder, SETTINGS | {"mom": 0})
    check_settings(folder, SETTINGS | {"mom": 0})
    before = (folder / "buffer.json").read_bytes()
    for other, named in (({"lr_teacher": 0.1, "mom": 0}, r"--lr_teacher was 0\.01 and is now 0\.1"),
                         ({}, "--mom was 0 and is now None"), ({"mom": 0, "l2": 1}, "--l2 was None and is now 1")):
        with pytest.raises(ValueError, match=named):
            check_settings(folder, SETTINGS | other)
    assert (folder / "buffer.json").read_bytes() == before


def test_without_buffer_json_the_experts_say_how_they_were_made(tmp_path):
    fill(tmp_path, [4])
    with pytest.raises(ValueError, match="--seed was 0 and is now 1"):
        check_settings(tmp_path, SETTINGS | {"seed": 1})
    assert not (tmp_path / "buffer.json").exists()
    (tmp_path / ".buffer.json.tmp-1").touch()        # of a process that was killed
    check_settings(tmp_path, SETTINGS)
    saved = json.loads((tmp_path / "buffer.json").read_text())
    assert saved == files.with_sum(SETTINGS)
    (tmp_path / "buffer.json").write_text(json.dumps(saved | {"seed": 1}))
    with pytest.raises(ValueError, match=r"buffer\.json cannot be read .*not what was written.*remove it"):
        check_settings(tmp_path, SETTINGS)
    assert not (tmp_path / ".buffer.json.tmp-1").exists()
    (tmp_path / "buffer.json").write_text("{")
    with pytest.raises(ValueError, match=r"buffer\.json cannot be read"):
        check_settings(tmp_path, SETTINGS)


def test_a_run_goes_on_with_the_same_files_of_another_program_alone(tmp_path):
    fill_others(tmp_path, [2])
    state = Experts(tmp_path, net(), 2, 1).state_dict()
    Experts(tmp_path, net(), 2, 1).load_state_dict(state)
    path = tmp_path / "replay_buffer_0.pt"
    older = {path.name: [2, hashlib.sha256(f"{path.stat().st_size} ".encode()).hexdigest()]}
    Experts(tmp_path, net(), 2, 1).load_state_dict(older)       # of a run that remembered the size alone
    size, content = path.stat().st_size, torch.load(path)
    content[0][0][0] += 1
    torch.save(content, path)
    assert path.stat().st_size == size
    with pytest.raises(ValueError, match="replay_buffer_0.pt is not what it was when this run began"):
        Experts(tmp_path, net(), 2, 1).load_state_dict(state)


def test_complete_experts_may_lie_where_nobody_may_write(tmp_path, monkeypatch):
    fill(tmp_path, [0, 1])
    check_settings(tmp_path, SETTINGS)
    for name in ("locked", "try_lock", "replacing"):
        monkeypatch.setattr(trajectories, name, None)
    check_settings(tmp_path, SETTINGS)
    assert list(missing_experts(tmp_path, 2)) == []
    with pytest.raises(ValueError, match="--seed was 0 and is now 1"):
        check_settings(tmp_path, SETTINGS | {"seed": 1})


def test_damage_in_files_of_another_program_is_named(tmp_path):
    fill_others(tmp_path, [2])
    path = tmp_path / "replay_buffer_0.pt"
    content = bytearray(path.read_bytes())
    content[content.index(trajectory(1, range(6))[3][0].numpy().tobytes()) + 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"replay_buffer_0.pt is damaged: .*get the file again"):
        Experts(tmp_path, net(), 2, 1)


def test_a_folder_of_another_program_is_not_written_to(tmp_path):
    fill_others(tmp_path, [1])
    with pytest.raises(ValueError, match="another program"):
        check_settings(tmp_path, SETTINGS)


def test_of_two_processes_with_other_settings_one_is_refused(tmp_path):
    def enter(seed):
        while not (tmp_path / "go").exists():
            pass
        try:
            check_settings(tmp_path / "buffer", SETTINGS | {"seed": seed})
        except ValueError:
            os._exit(3)

    processes = [fork(enter, seed) for seed in range(4)]
    (tmp_path / "go").touch()
    for process in processes:
        process.join(30)
    assert sorted(process.exitcode for process in processes) == [0, 3, 3, 3]


# ---- several processes --------------------------------------------------------------------------------------------

def make(folder, number, log):
    with open(log, "a") as file:
        file.write(f"{number} {os.getpid()}\n")
    fill(folder, [number])


def test_two_processes_fill_one_folder_and_make_each_expert_once(tmp_path):
    folder, log = tmp_path / "buffer", tmp_path / "log"

    def work():
        for number in missing_experts(folder, 12):
            make(folder, number, log)
            time.sleep(0.02)

    processes = [fork(work) for _ in range(2)]
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    made = [line.split() for line in log.read_text().splitlines()]
    assert sorted(int(number) for number, _ in made) == list(range(12))
    assert len({process for _, process in made}) == 2
    assert sorted(os.listdir(folder)) == [expert_path(folder, n).name for n in range(12)]      # no lock is left
    assert len(Experts(folder, net(), 5, 1)) == 12


def test_an_interrupted_run_goes_on_with_what_is_missing_and_the_number_may_grow(tmp_path):
    for number in missing_experts(tmp_path, 5):
        fill(tmp_path, [number])
        if number == 1:
            break
    expert_path(tmp_path, 0).unlink()
    made = []
    for number in missing_experts(tmp_path, 4):
        made.append(number)
        fill(tmp_path, [number])
    assert made == [0, 2, 3] and list(missing_experts(tmp_path, 4)) == []


def test_an_expert_that_another_process_made_meanwhile_is_not_made_again(tmp_path):
    experts = missing_experts(tmp_path, 3)
    assert next(experts) == 0
    fill(tmp_path, [0, 1])
    assert next(experts) == 2


def test_an_expert_that_is_asked_for_and_not_saved_ends_the_loop(tmp_path):
    with pytest.raises(RuntimeError, match="expert 0"):
        for _ in missing_experts(tmp_path, 2):
            pass


def test_a_process_killed_while_training_or_writing_leaves_nothing_and_its_expert_is_made(tmp_path, monkeypatch):
    marker = tmp_path / "marker"

    def train():
        for number in missing_experts(tmp_path / "a", 2):
            fill(tmp_path / "a", [number])
            hang(marker) if number else None

    def write():
        def half(tensors, path, metadata):
            path.write_bytes(b"half")
            hang(marker)
        monkeypatch.setattr(tensors, "save_file", half)
        for number in missing_experts(tmp_path / "b", 2):
            fill(tmp_path / "b", [number])

    def before_it():
        for number in missing_experts(tmp_path / "c", 2):
            hang(marker)
            fill(tmp_path / "c", [number])

    for target, folder, left in ((train, "a", []), (write, "b", [0, 1]), (before_it, "c", [0, 1])):
        killed_at(marker, target)
        marker.unlink()
        folder = tmp_path / folder
        assert len(list(folder.glob("expert_*"))) == 2 - len(left)
        made = []
        for number in missing_experts(folder, 2):
            made.append(number)
            fill(folder, [number])
        assert made == left
        assert {name for name in os.listdir(folder) if not name.endswith(".lock")} == {
            "expert_0000.safetensors", "expert_0001.safetensors"}
        assert len(Experts(folder, net(), 5, 1)) == 2


def test_who_finds_the_rest_claimed_waits_and_takes_over_what_a_dead_process_held(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(trajectories, "WAIT", 0.01)
    folder, held = tmp_path / "buffer", tmp_path / "held"

    def hold():
        for _ in missing_experts(folder, 1):
            hang(held)

    holder = fork(hold)
    wait_for(held)
    threading.Timer(0.3, os.kill, (holder.pid, signal.SIGKILL)).start()
    made = []
    for number in missing_experts(folder, 3):
        made.append(number)
        fill(folder, [number])
    holder.join()
    assert made == [1, 2, 0]
    assert capfd.readouterr().err.count("waiting for experts") == 1


# ---- drawing ------------------------------------------------------------------------------------------------------

@pytest.fixture(params=["own", "others", "others old format", "others parameters"])
def both(request, tmp_path):
    """A folder of seven experts and the snapshots of each by its label."""
    if request.param == "own":
        fill(tmp_path, range(7))
        return tmp_path, {expert_path(tmp_path, n).name: trajectory(n, range(6)) for n in range(7)}
    return tmp_path, fill_others(tmp_path, [2, 1, 4], zipped="old" not in request.param,
                                 parameter="parameters" in request.param)


def test_every_expert_comes_once_a_round_with_its_own_snapshots_and_every_start(both):
    folder, content = both
    experts = Experts(folder, net(), 4, 2)
    assert len(experts) == 7
    segments = [experts.sample(5, number) for number in range(7 * 12)]
    rounds = [[s.expert for s in segments[i:i + 7]] for i in range(0, len(segments), 7)]
    assert all(sorted(r) == sorted(content) for r in rounds) and len(set(map(tuple, rounds))) > 6
    counts = Counter(s.epoch for s in segments)
    assert set(counts) == {0, 1, 2, 3} and min(counts.values()) > 84 / 4 / 2.5
    for s in segments:
        assert equal(s.start, content[s.expert][s.epoch]) and equal(s.target, content[s.expert][s.epoch + 2])
        assert not any(value.requires_grad for value in s.start + s.target)


def test_a_draw_depends_on_seed_and_number_alone(both):
    folder, _ = both
    first = Experts(folder, net(), 4, 2)
    seen = [first.sample(5, number)[2:] for number in range(30)]
    torch.manual_seed(1)
    state = torch.get_rng_state()
    again = Experts(folder, net(), 4, 2)
    for number in (29, 3, 17, 0, 3):
        assert again.sample(5, number)[2:] == seen[number]
    assert torch.equal(torch.get_rng_state(), state)
    assert [again.sample(6, number)[2:] for number in range(30)] != seen


def test_what_was_drawn_may_be_changed_in_place(both):
    folder, _ = both
    experts = Experts(folder, net(), 1, 1)
    first = experts.sample(0, 0)
    kept = [value.clone() for value in first.start]
    for value in first.start:
        value.zero_()
    assert equal(experts.sample(0, 0).start, kept)


def test_only_the_two_snapshots_of_a_step_are_read(tmp_path, monkeypatch):
    fill(tmp_path, range(3), range(20))
    read = []

    class Counting:
        def __init__(self, *args, **kwargs):
            self.file = safe_open(*args, **kwargs)

        def get_tensor(self, name):
            read.append(name)
            return self.file.get_tensor(name)

        def __getattr__(self, name):
            return getattr(self.file, name)

    monkeypatch.setattr(tensors, "safe_open", Counting)
    experts = Experts(tmp_path, net(), 10, 3)
    assert read == []
    segment = experts.sample(0, 0)
    names = [name for name, _ in net().named_parameters()]
    assert read == [f"{epoch}/{name}" for epoch in (segment.epoch, segment.epoch + 3) for name in names]


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_of_others_is_read_once_a_round_and_alone(tmp_path, monkeypatch, zipped):
    fill_others(tmp_path, [3, 2, 4], zipped=zipped)
    load, loaded, alive = torch.load, [], Counter()

    class Content(list):
        def __init__(self, content):
            super().__init__(content)
            alive["now"] += 1
            alive["most"] = max(alive.values())

        def __del__(self):
            alive["now"] -= 1

    def counting(path, mmap, weights_only, map_location):
        assert mmap is zipped and weights_only is True
        loaded.append(path.name)
        return Content(load(path, mmap=mmap, weights_only=weights_only, map_location=map_location))

    monkeypatch.setattr(torch, "load", counting)
    experts = Experts(tmp_path, net(), 4, 1)
    assert loaded == [f"replay_buffer_{n}.pt" for n in range(3)]
    for number in range(9 * 4):
        experts.sample(0, number)
    assert len(loaded) <= 3 + 3 * 4 and alive["most"] == 1
    assert {name for name in loaded[3:]} == {f"replay_buffer_{n}.pt" for n in range(3)}


def test_files_of_others_are_taken_in_the_order_of_their_numbers(tmp_path):
    fill_others(tmp_path, [1] * 11, range(2))
    (tmp_path / "replay_buffer_x.pt").touch()
    (tmp_path / "replay_buffer_1.pt.part").touch()
    experts = Experts(tmp_path, net(), 1, 1)
    assert list(experts.state_dict()) == [f"replay_buffer_{n}.pt" for n in range(11)]
    assert {experts.sample(0, n).expert for n in range(11)} == {f"replay_buffer_{n}.pt[0]" for n in range(11)}


def test_a_file_written_from_a_gpu_is_read_to_the_cpu(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    fill_others(tmp_path, [2])
    monkeypatch.undo()
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="CUDA"):
            torch.load(tmp_path / "replay_buffer_0.pt", weights_only=True)
    assert Experts(tmp_path, net(), 1, 1).sample(0, 0).start[0].device.type == "cpu"


def test_a_resumed_run_draws_from_the_experts_it_began_with(tmp_path):
    began = Experts(fill(tmp_path, range(3)), net(), 4, 1)
    seen = [began.sample(0, n)[2:] for n in range(20)]
    fill(tmp_path, [3])
    grown = Experts(tmp_path, net(), 4, 1)
    assert len(grown) == 4 and [grown.sample(0, n)[2:] for n in range(20)] != seen
    grown.load_state_dict(began.state_dict())
    assert [grown.sample(0, n)[2:] for n in range(20)] == seen
    expert_path(tmp_path, 1).unlink()
    with pytest.raises(ValueError, match=r"expert_0001.safetensors is not what it was when this run began"):
        Experts(tmp_path, net(), 4, 1).load_state_dict(began.state_dict())


# ---- folders that do not fit --------------------------------------------------------------------------------------

def test_missing_epochs_name_what_is_there_and_the_flags(tmp_path):
    fill(tmp_path / "own", range(1), epochs_to_keep(50, 10, 2))
    fill_others(tmp_path / "others", [2], range(12))
    for folder in ("own", "others"):
        Experts(tmp_path / folder, net(), 10, 2)
        for max_start, expert_epochs, message in (
                (12, 2, "epochs 0-11 of its expert 0, but --max_start_epoch 12 .*start at 10-11 .*at most 10"),
                (10, 3, "start at 9 too.*at most 9"), (4, 12, "start at 0-3.*lower --expert_epochs")):
            with pytest.raises(ValueError, match=message):
                Experts(tmp_path / folder, net(), max_start, expert_epochs)


def test_an_epoch_missing_between_start_and_target_is_no_matter_but_a_missing_start_is(tmp_path):
    fill(tmp_path, range(1), [*range(3), *range(20, 25)])
    assert Experts(tmp_path, net(), 3, 20).sample(0, 0).epoch < 3
    with pytest.raises(ValueError, match="0-2, 20-24 of its expert 0.*at most 3"):
        Experts(tmp_path, net(), 5, 20)


@pytest.mark.parametrize("own", [True, False])
def test_the_first_parameter_that_differs_is_named(tmp_path, own):
    fill(tmp_path, range(1), frames=8, im_size=32) if own else fill_others(tmp_path, [1])
    there = r"0\.weight " if own else ""
    flags = r"\(--dataset MotionDigits --model net --frames 8 --im_size 32\)" if own else ""
    with pytest.raises(ValueError, match=rf"(expert|replay_buffer)_.*parameter 0, 0\.weight here, is {there}\(4, 3\) "
                                         rf"there and \(5, 3\) here: give the --model.*{flags}$"):
        Experts(tmp_path, net(width=5), 2, 1)
    longer = nn.Sequential(*net(), nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"parameter 4, 2\.weight here, is nothing there and \(2, 2\) here"):
        Experts(tmp_path, longer, 2, 1)
    with pytest.raises(ValueError, match=r"parameter 2, which is none here, is .*\(2, 4\) there and nothing here"):
        Experts(tmp_path, net()[:1], 2, 1)


def test_a_parameter_of_another_name_is_named(tmp_path):
    fill(tmp_path, range(1))
    other = nn.Sequential()
    other.add_module("0", net()[0])
    other.add_module("head", net()[1])
    with pytest.raises(ValueError, match=r"parameter 2, head\.weight here, is 1\.weight"):
        Experts(tmp_path, other, 2, 1)


def test_experts_made_with_other_settings_are_refused(tmp_path):
    fill(tmp_path, range(2))
    assert len(Experts(tmp_path, net(), 2, 1)) == 2
    Experts(tmp_path, net(), 2, 1, dataset="MotionDigits", protocol="standard")
    fill(tmp_path, [2], protocol="paper")       # of every file, not the first alone
    with pytest.raises(ValueError, match="expert_0002.*--protocol was 'paper' and is now 'standard'"):
        Experts(tmp_path, net(), 2, 1, dataset="MotionDigits", protocol="standard")


def test_an_empty_folder_and_a_mixed_one_say_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=r"no experts in .*buffer\.py"):
        Experts(tmp_path / "none", net(), 2, 1)
    torch.save([], tmp_path / "replay_buffer_0.pt")
    with pytest.raises(ValueError, match=r"no experts in .*buffer\.py"):
        Experts(tmp_path, net(), 2, 1)
    fill(tmp_path, range(1))
    with pytest.raises(ValueError, match=r"both expert_0000\.safetensors and replay_buffer_0\.pt"):
        Experts(tmp_path, net(), 2, 1)


@pytest.mark.parametrize("damage", ["short", "empty", "text", "other tensors"])
def test_a_broken_file_is_named(both, damage):
    folder, content = both
    name = sorted(content)[2].split("[")[0]
    path = folder / name
    if damage == "other tensors" and name.startswith("expert"):
        tensors.save_tensors(path, {"a": torch.zeros(1)})
    elif damage == "other tensors":
        torch.save({"image": torch.zeros(3)}, path)
    else:
        whole = path.read_bytes()
        path.write_bytes({"short": whole[:len(whole) * 3 // 4], "empty": b"", "text": b"not tensors" * 20}[damage])
    with pytest.raises(ValueError, match=rf"{name} is not a file of .* not a whole one"):
        Experts(folder, net(), 2, 1)


def test_a_file_that_vanishes_while_a_run_draws_is_named(tmp_path):
    experts = Experts(fill(tmp_path, range(1)), net(), 2, 1)
    expert_path(tmp_path, 0).unlink()
    with pytest.raises(ValueError, match=r"expert_0000\.safetensors is not"):
        experts.sample(0, 0)


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_pickle_is_not_executed(tmp_path, zipped):
    path, trap = tmp_path / "replay_buffer_0.pt", tmp_path / "trap"
    torch.save([[[torch.zeros(1)], Malicious(trap)]], path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"replay_buffer_0\.pt is not a file of lists of plain tensors"):
        Experts(tmp_path, net(), 2, 1)
    assert not trap.exists()
    torch.load(path, weights_only=False)
    assert trap.exists()        # it would have been


@pytest.mark.parametrize("which", [0, 1])
def test_values_that_are_not_finite_are_named(tmp_path, which):
    snapshots = [[value for value in snapshot(net(epoch))] for epoch in range(2)]
    snapshots[which][2][0] = float("inf")
    torch.save([snapshots], tmp_path / "replay_buffer_0.pt")
    with pytest.raises(ValueError, match=rf"1\.weight of replay_buffer_0\.pt\[0\] .*not finite at epoch {which}"):
        Experts(tmp_path, net(), 1, 1).sample(0, 0)


def test_snapshots_that_share_memory_are_found_out(tmp_path):
    shared = list(snapshot(net()))
    torch.save([[shared, shared, shared]], tmp_path / "replay_buffer_0.pt")
    with pytest.raises(ValueError, match=r"replay_buffer_0\.pt\[0\] .*same at the epochs 0 and 2.*no copies"):
        Experts(tmp_path, net(), 1, 2).sample(0, 0)


def test_locks_are_freed_by_the_system(tmp_path):
    """What missing_experts builds on: a lock of a process killed with -9 can be had at once, one that lives cannot."""
    def hold():
        lock = files.try_lock(tmp_path / "lock")
        hang(tmp_path / "held")
        lock.close()

    holder = fork(hold)
    wait_for(tmp_path / "held")
    assert files.try_lock(tmp_path / "lock") is None
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    with files.try_lock(tmp_path / "lock") as lock:
        assert lock is not None
