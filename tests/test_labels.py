"""Labels of a set: kinds, losses, recipes, teachers, and what a file of a set says of them."""
import json
import math
import shutil
from functools import partial

import pytest
import torch
import torch.nn.functional as F

import utils
from conftest import NET
from distill_utils import labels
from distill_utils.labels import KINDS, LOSSES, RECIPES, SCHEDULES, Recipe, check_recipe, label_loss, rate_factor
from distill_utils.seeds import make_generator
from distill_utils.storage import as_stored, save_synset, storage_bytes
from distill_utils.synset import SETS, StaticDynamicSet, VideoSet, all_pairs, load_synset
from distill_utils.tensors import TensorFile, save_tensors
from distill_utils.trajectories import Experts
from runs import break_off, content, make_experts

PAIRS = [(loss, kind) for loss, (_, kinds) in LOSSES.items() for kind in kinds]


@pytest.fixture(scope="module")
def batch():
    torch.manual_seed(0)
    return *torch.randn(2, 6, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 3, 0])


def rows_of(kind, logits):
    return {"logits": logits, "probabilities": logits.softmax(1), "centred": logits - logits.mean(1, True)}[kind]


# ---- losses -------------------------------------------------------------------------------------------------------

def test_losses_by_loops(batch):
    logits, teacher, classes = batch
    soft, n, k = teacher.softmax(1), 6, 4
    p = logits.softmax(1)
    cross = -sum(soft[i, c] * p[i, c].log() for i in range(n) for c in range(k)) / n
    hard = -sum(p[i, classes[i]].log() for i in range(n)) / n
    square = sum((logits[i, c] - teacher[i, c]) ** 2 for i in range(n) for c in range(k)) / (n * k)
    t = 3.0
    warm, warm_p = (teacher / t).softmax(1), (logits / t).softmax(1)
    divergence = t * t * sum(warm[i, c] * (warm[i, c] / warm_p[i, c]).log() for i in range(n) for c in range(k)) / n
    shifted = sum((logits[i, c] - (float(c == classes[i]) - 1 / k)) ** 2 for i in range(n) for c in range(k)) / (n * k)
    for loss, kind, temperature, wanted in [
            ("ce", "class", 1, hard), ("ce", "logits", 1, cross), ("ce", "probabilities", 1, cross),
            ("kl", "logits", t, divergence), ("kl", "probabilities", t, divergence), ("mse", "logits", 1, square),
            ("mse", "class", 1, shifted), ("mse_gt", "logits", 1, square + 0.1 * hard)]:
        targets = classes if kind == "class" else rows_of(kind, teacher)
        ours = label_loss(loss, kind, temperature)(logits, targets, classes)
        assert float(ours) == pytest.approx(float(wanted), rel=1e-6), (loss, kind)


@pytest.mark.parametrize("loss,kind", PAIRS, ids="-".join)
def test_a_prediction_that_is_the_label_is_where_the_loss_is_least(loss, kind, batch):
    _, teacher, classes = batch
    targets = classes if kind == "class" else rows_of(kind, teacher)
    if kind == "class":
        best = 30 * F.one_hot(classes, 4).double() if loss == "ce" else labels.centred(classes, 4).double()
    else:
        best = rows_of("centred", teacher) if kind == "centred" else teacher.clone()
    best.requires_grad_()
    loss_of = label_loss(loss, kind, 2.0)
    gradient, = torch.autograd.grad(loss_of(best, targets, classes), best)
    if loss == "mse_gt":        # and its second term pulls towards the class
        assert (gradient.gather(1, classes[:, None]) < 0).all()
    else:
        assert gradient.abs().max() < 1e-6
    other = best.detach() + torch.randn_like(best)
    assert loss_of(other, targets, classes) > loss_of(best, targets, classes)


def test_a_loss_that_makes_no_sense_of_a_kind_is_refused():
    for loss, (_, kinds) in LOSSES.items():
        for kind in KINDS.keys() - set(kinds):
            with pytest.raises(ValueError, match=f"--loss {loss} makes no sense of labels that are {kind}: choose one"):
                label_loss(loss, kind)
    assert {kind: label_loss(recipe.loss, kind) for kind, recipe in RECIPES.items()}.keys() == KINDS.keys()


# ---- recipes ------------------------------------------------------------------------------------------------------

def test_schedules():
    def rates(name, epochs, cut=None):
        return [rate_factor(name, epoch, epochs, cut) for epoch in range(epochs)]

    assert rates("constant", 5) == [1] * 5
    assert rates("step", 6, 2) == [1, 1, 1, 0.1, 0.1, 0.1] and rates("step", 1, -1) == [1]
    cosine = rates("cosine", 100)
    assert cosine[:10] == pytest.approx([0.1 * i for i in range(1, 11)]) and max(cosine) == cosine[9]
    assert cosine[9:] == sorted(cosine[9:], reverse=True) and 0.01 < cosine[-1] < 0.012
    for i, rate in enumerate(cosine[10:], start=1):
        assert rate == pytest.approx(0.01 + 0.99 * (1 + math.cos(math.pi * i / 91)) / 2)
    for name in SCHEDULES:
        assert all(0 < rate <= 1 for epochs in (1, 2, 9) for rate in rates(name, epochs, epochs // 2 - 1))


@pytest.mark.parametrize("optim,kind", [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam),
                                        ("adamw", torch.optim.AdamW)])
def test_networks_are_trained_as_the_recipe_says(optim, kind, digit_data, monkeypatch):
    seen = []

    def train_epoch(network, batches, step):
        seen.append((type(step), step.param_groups[0]["lr"], step.param_groups[0]["weight_decay"]))

    monkeypatch.setattr(utils, "make_step", lambda net, optimizer, dtype, loss_of: optimizer)
    monkeypatch.setattr(utils, "train_epoch", train_epoch)
    utils.train_network(digit_data.train, digit_data.spec, NET, optim=optim, lr=0.2, weight_decay=0.3, epochs=4,
                        schedule="constant")
    assert seen == [(kind, 0.2, 0.3)] * 4


@pytest.mark.parametrize("entry,value", [
    ("loss", "other"), ("loss", 1), ("optim", "lbfgs"), ("schedule", None), ("epochs", 0), ("epochs", 2.5),
    ("epochs", True), ("lr", -1), ("lr", float("nan")), ("lr", 1e9), ("temperature", 0), ("weight_decay", "1")])
def test_a_recipe_of_a_file_is_compared(entry, value):
    good = Recipe()._asdict()
    assert check_recipe(good) == Recipe()
    with pytest.raises(ValueError, match=f"the {entry} of the recipe in its header cannot be"):
        check_recipe({**good, entry: value})
    with pytest.raises(ValueError, match="has not just"):
        check_recipe({**good, "more": 1})


# ---- labels of sets -----------------------------------------------------------------------------------------------

def soft(kind_of_set, kind, **flags):
    arguments = {"VideoSet": {"ipc": 2, "shape": (4, 3, 16, 16)},
                 "ImageSet": {"spc": 2, "shape": (3, 16, 16), "frames": 4},
                 "KeyFrameSet": {"ipc": 2, "n_syn": 2, "shape": (4, 3, 16, 16)},
                 "StaticDynamicSet": {"vpc": 2, "spc": 4, "dpc": 6, "shape": (4, 3, 16, 16), "n_hal": 2}}
    synset = kind_of_set(num_classes=10, **arguments[kind_of_set.__name__], label_kind=kind, **flags)
    for value in synset.parameters():
        value.data.normal_(generator=make_generator("soft"))
    if kind != "class":
        synset.labels.data = rows_of(kind, synset.labels.data)
    return synset


@pytest.mark.parametrize("name", SETS)
def test_each_clip_that_a_set_can_render_has_a_row_of_its_own(name):
    synset = soft(SETS[name], "logits")
    assert len(synset.labels) == 10 * synset.num_slots * synset.num_variants
    classes, slots = all_pairs(synset)
    seen = {}
    for variant in range(synset.num_variants):
        clips, rows = synset.render(classes, slots, variants=torch.full_like(classes, variant))
        for clip, row in zip(clips, rows, strict=True):
            where = int((synset.labels == row).all(1).nonzero())
            assert where not in seen
            seen[where] = clip
    assert len(seen) == len(synset.labels)
    for seed in range(5):       # drawn, a clip comes with the same row
        for clip, row in zip(*synset.render(classes, slots, make_generator(seed)), strict=True):
            assert torch.equal(seen[int((synset.labels == row).all(1).nonzero())], clip)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SETS)
def test_labels_come_back_from_a_file_exactly_and_count(name, kind, digit_data, tmp_path):
    synset, spec = soft(SETS[name], kind), utils.get_spec("MotionDigits", 4, 16)
    bare = storage_bytes(soft(SETS[name], "class"), "uint8", spec)
    assert storage_bytes(synset, "uint8", spec) == bare + (0 if kind == "class" else 4 * synset.labels.numel())
    save_synset(tmp_path / "set.safetensors", synset, spec, "uint8", method="DM", recipe=RECIPES[kind]._asdict())
    again, header = load_synset(tmp_path / "set.safetensors")
    assert again.label_kind == kind and check_recipe(header["recipe"]) == RECIPES[kind]
    assert again.labels is None if kind == "class" else torch.equal(again.labels, synset.labels)
    assert ("label_kind" in header["arguments"]) == (kind != "class")       # as before there were other kinds


def test_probabilities_of_a_file_are_compared(tmp_path):
    spec = utils.get_spec("MotionDigits", 4, 16)
    save_synset(tmp_path / "set.safetensors", soft(VideoSet, "probabilities"), spec, method="DM")
    file = TensorFile(tmp_path / "set.safetensors")
    tensors, header = file.read_all(), dict(file.header)
    tensors["labels"] = tensors["labels"] * 2
    save_tensors(tmp_path / "set.safetensors", tensors, **header)
    with pytest.raises(ValueError, match="its labels are called probabilities"):
        load_synset(tmp_path / "set.safetensors")
    header["arguments"] = {**header["arguments"], "label_kind": "other"}
    save_tensors(tmp_path / "set.safetensors", tensors, **header)
    with pytest.raises(ValueError, match="is not a synthetic set of this program"):
        load_synset(tmp_path / "set.safetensors")


@pytest.mark.parametrize("kind", ["logits", "centred"])
def test_labels_that_are_learned_start_from_the_classes(kind):
    synset = soft(StaticDynamicSet, kind, learn_labels=True)
    labels.start_labels(synset)
    per_class = len(synset.labels) // 10
    assert synset.labels.argmax(1).tolist() == [k for k in range(10) for _ in range(per_class)]
    if kind == "logits":
        assert synset.labels.softmax(1).max(1).values.tolist() == pytest.approx([0.9] * len(synset.labels))
    else:
        assert synset.labels[0].tolist() == pytest.approx([0.9] + [-0.1] * 9)     # K = 10: divided by 1
    assert synset.groups()["lr_labels"] == [synset.labels] and "lr_labels" not in soft(VideoSet, kind).groups()


# ---- teachers -----------------------------------------------------------------------------------------------------

@pytest.fixture
def teacher(tiny_experts):
    spec = utils.get_spec("MotionDigits", 4, 16)
    experts = Experts(tiny_experts / "MotionDigits" / NET, utils.get_network(NET, spec), 0, 0)
    return labels.Teacher(experts, 2, lambda: utils.get_network(NET, spec), utils.per_sample)


@pytest.mark.parametrize("kind", ["logits", "probabilities", "centred"])
def test_a_teacher_is_the_mean_of_experts_at_their_last_epoch(kind, teacher, tiny_experts):
    synset = soft(StaticDynamicSet, kind)
    teacher.label(synset, chunk=7)
    networks = []
    for number in range(2):
        file = TensorFile(tiny_experts / "MotionDigits" / NET / f"expert_{number:04d}.safetensors")
        network = utils.get_network(NET, utils.get_spec("MotionDigits", 4, 16)).eval()
        network.load_state_dict({name: file.read(f"2/{name}") for name in file.header["parameters"]})
        networks.append(network)
    classes, slots = all_pairs(synset)
    for variant in range(synset.num_variants):
        with torch.no_grad():
            clips, rows = synset.render(classes, slots, variants=torch.full_like(classes, variant))
            wanted = sum(network(utils.per_sample(clips)) for network in networks) / 2
        wanted = {"logits": wanted, "probabilities": wanted.softmax(1), "centred": wanted.softmax(1) - 0.1}[kind]
        torch.testing.assert_close(rows, wanted, rtol=1e-4, atol=1e-5)


def test_a_teacher_of_more_experts_than_there_are(script):
    with pytest.raises(ValueError, match="--teacher 4 asks for more experts than the 3 in .*: give --teacher 3"):
        script("DM", "many", labels="teacher", teacher=4)


@pytest.mark.parametrize("method,flags", [
    ("DM", {"labels": "teacher"}), ("S2D-DM", {"labels": "teacher", "store": "uint8"}),
    ("herding", {"labels": "teacher"}), ("MTT", {"labels": "learned", "lr_labels": 1.0}),
    ("S2D-MTT", {"labels": "teacher"}), ("FRePo", {"labels": "class"}), ("FRePo", {"labels": "teacher", "teacher": 2})],
    ids=lambda value: value if isinstance(value, str) else value["labels"])
def test_labels_of_every_kind_of_script(method, flags, script, tmp_path):
    """A set is saved with the labels of the clips as they are stored, scored with them, and scored again the same."""
    if flags["labels"] == "teacher":
        flags = {"teacher": 3, **flags}
    folder = script(method, "soft", *(["--method", "random"] if method == "herding" else []), **flags)
    folder = tmp_path / "random" / "soft" if method == "herding" else folder
    result = json.loads((folder / "result.json").read_text())
    synset, header = load_synset(folder / "synset.safetensors")
    assert result["labels"] == flags["labels"] and result["loss"] == header["recipe"]["loss"]
    if flags["labels"] == "teacher":
        spec = utils.get_spec("MotionDigits", 4, 16)
        experts = Experts(script.experts / "MotionDigits" / NET, utils.get_network(NET, spec), 0, 0)
        again = as_stored(synset, "float32", spec)
        make = partial(utils.get_network, NET, spec)
        labels.Teacher(experts, flags["teacher"], make, utils.per_sample).label(again)
        torch.testing.assert_close(again.labels, synset.labels)
    dsa = {"dsa_strategy": result["dsa"]}
    score = script("score", "again", synset=folder / "synset.safetensors", **dsa) / "result.json"
    score = json.loads(score.read_text())
    for key in ("top1_mean", "loss_mean", "labels", "teacher", "loss", "optim_net", "lr_net", "schedule", "epochs"):
        assert score[key] == result[key], key


def test_a_recipe_is_followed_unless_a_flag_says_otherwise(script, monkeypatch):
    folder = script("FRePo", "own", lr_net=0.003)
    seen = []
    monkeypatch.setattr(utils, "train_network", lambda *a, **k: seen.append(k) or (_ for _ in ()).throw(ValueError))
    for flags in ({}, {"lr_net": 0.1, "loss": "mse", "schedule": "constant"}):
        with pytest.raises(ValueError):
            script("score", "again", "--overwrite", synset=folder / "synset.safetensors", **flags)
    wanted = RECIPES["centred"]._replace(lr=0.003, epochs=1)
    assert {key: seen[0][key] for key in Recipe._fields} == wanted._asdict()
    assert {key: seen[1][key] for key in Recipe._fields} == wanted._replace(lr=0.1, schedule="constant")._asdict()
    with pytest.raises(ValueError, match="--loss ce makes no sense of labels that are centred: choose one of mse"):
        script("score", "again", "--overwrite", synset=folder / "synset.safetensors", loss="ce")


def test_flags_that_change_nothing_are_refused(script):
    for method, flags, words in [
            ("DM", {"teacher": 2}, "--teacher 2 changes nothing with --labels class"),
            ("MTT", {"lr_labels": 1.0}, "--lr_labels 1 is of --labels learned, and they are class"),
            ("DM", {"temperature": 2}, "--temperature 2 is of --loss kl, and the loss is ce"),
            ("MTT", {"labels": "learned", "label_kind": "probabilities"}, "and not --label_kind probabilities")]:
        with pytest.raises(ValueError, match=words):
            script(method, "refused", **flags)


def test_runs_with_labels_of_a_teacher_go_on_as_if_never_stopped(script, monkeypatch):
    flags = {"labels": "teacher", "teacher": 2}
    whole = script("MTT", "whole", **flags)
    break_off(monkeypatch, script, "MTT", "log", 3, **flags)
    assert content(script("MTT", "broken", "--resume", **flags)) == content(whole)


def test_a_resumed_run_has_the_teacher_that_it_began_with(script, monkeypatch, tmp_path):
    """Though an expert came in between, in the order of their numbers before one that teaches."""
    buffers = tmp_path / "buffers"
    (buffers / "MotionDigits").mkdir(parents=True)
    folder = shutil.copytree(script.experts / "MotionDigits" / NET, buffers / "MotionDigits" / NET)
    late = (folder / "expert_0001.safetensors").rename(tmp_path / "late")
    flags = {"labels": "teacher", "teacher": 2, "buffer_path": buffers}
    for method in ("FRePo", "DM"):
        whole = script(method, "whole", **flags)
        break_off(monkeypatch, script, method, "log" if method == "FRePo" else "save", 3, **flags)
        shutil.copy(late, folder / "expert_0001.safetensors")
        assert content(script(method, "broken", "--resume", **flags)) == content(whole)
        (folder / "expert_0001.safetensors").unlink()


def test_features_do_not_depend_on_the_recipe_of_labels(script, tmp_path):
    """Herding chooses the same clips, whatever its labels are and networks are trained on them by."""
    for name, flags in {"hard": {}, "soft": {"labels": "teacher", "teacher": 2, "lr_net": 1e-4}}.items():
        script("herding", name, "--method", "herding", train_epochs=1, **flags)
    networks = [(tmp_path / "herding" / name / "network.safetensors").read_bytes() for name in ("hard", "soft")]
    assert networks[0] == networks[1]


def test_a_teacher_is_refused_where_predictions_depend_on_other_clips(script):
    with pytest.raises(ValueError, match="a teacher needs --protocol standard"):
        script("DM", "paper", labels="teacher", teacher=2, protocol="paper")


def test_still_images_have_a_teacher_of_single_frames(script, few_digits, tmp_path):
    """DC looks for it where buffer.py puts it."""
    with pytest.raises(ValueError, match="no experts in .*singleMotionDigits/ConvNetD2W32"):
        script("DC", "none", labels="teacher", teacher=1, buffer_path=tmp_path / "b")
    make_experts(few_digits, tmp_path / "b", dataset="singleMotionDigits", model="ConvNetD2W32", num_experts=1)
    synset, _ = load_synset(script("DC", "soft", labels="teacher", teacher=1, buffer_path=tmp_path / "b")
                            / "synset.safetensors")
    assert synset.labels.shape == (20, 10) and synset.labels.abs().max() > 0
