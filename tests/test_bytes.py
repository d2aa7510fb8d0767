"""Sets at honest bytes: learned through their store, chosen by bytes, stored anew, and compared with random clips."""
import json
import sys
from contextlib import contextmanager
from math import e, exp

import pytest
import torch

import distill_coreset
import evaluate
import summarize
import utils
from distill_utils import fair, picture, storage
from distill_utils.coreset import most_that_fit
from distill_utils.files import with_sum
from distill_utils.storage import ThroughStore, as_stored, file_bytes
from distill_utils.synset import SETS, all_pairs, load_synset
from distill_utils.tensors import TensorFile, save_tensors
from runs import LOSSES, break_off, content

SPEC = utils.get_spec("MotionDigits", 4, 16)


def make_set(kind, clips, **labels):
    arguments = {"pixels": (10, 1, SPEC.shape), "still": (10, 1, SPEC.shape[1:], 4), "keyframes": (10, 1, SPEC.shape),
                 "s2d": (10, 1, 2, 1, SPEC.shape)}
    synset = SETS[kind](*arguments[kind], **labels)
    synset.start(clips, 0)
    return synset


def result_of(folder):
    return json.loads((folder / "result.json").read_text())


@pytest.fixture(scope="module")
def clips(few_digits):
    return utils.get_dataset("MotionDigits", few_digits, frames=4, im_size=16).train


# ---- through the store ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", SETS)
@pytest.mark.parametrize("store", ("uint8", "jpeg:30", "h264:40"))
def test_a_loss_sees_what_is_stored_and_its_gradient_goes_to_the_set(kind, store, clips):
    synset = make_set(kind, clips, label_kind="logits")
    own = {name: value.clone() for name, value in synset.state_dict().items()}
    decoded = as_stored(synset, store, SPEC)
    pairs = all_pairs(synset)
    with ThroughStore(synset, store, SPEC, every=1)(0):
        seen, _ = synset.render(*pairs)
        torch.testing.assert_close(seen, decoded.render(*pairs)[0], atol=1e-5, rtol=1e-5)
        seen.square().sum().backward()
    decoded.render(*pairs)[0].square().sum().backward()
    for (name, value), other in zip(synset.named_parameters(), decoded.parameters(), strict=True):
        assert torch.equal(value, own[name])        # bit for bit
        if value.grad is not None:
            torch.testing.assert_close(value.grad, other.grad, atol=1e-3, rtol=1e-4)
    name, = synset.pixels
    assert not torch.equal(decoded.state_dict()[name], own[name])


def test_the_codec_runs_every_few_steps_and_its_difference_is_held(clips, monkeypatch):
    synset = make_set("pixels", clips)
    through, seen, calls, stored = ThroughStore(synset, "h264:40", SPEC, every=3), [], [], storage._stored_state
    monkeypatch.setattr(storage, "_stored_state", lambda *args: (calls.append(len(seen)), stored(*args))[1])
    for step in range(7):
        before = synset.videos.data.clone()
        for _ in range(2):      # twice at the same step
            with through(step):
                shown = synset.videos.data - before
        seen.append(shown)
        synset.videos.data += 0.1
    assert calls == [0, 3, 6]
    torch.testing.assert_close(seen[0], seen[2], atol=1e-5, rtol=0)
    assert not torch.allclose(seen[2], seen[3], atol=1e-4)


def test_without_it_a_set_is_seen_as_it_is(clips):
    synset = make_set("pixels", clips)
    through = ThroughStore(synset, "h264:40", SPEC)
    data = synset.videos.data
    with through(0):
        assert synset.videos.data is data or synset.videos.data_ptr() == data.data_ptr()
    assert through.state_dict() == {}


def test_the_set_is_its_own_again_where_a_loss_fails(clips):
    synset = make_set("pixels", clips)
    own = synset.videos.data.clone()
    with pytest.raises(ZeroDivisionError), ThroughStore(synset, "jpeg:5", SPEC, every=1)(0):
        raise ZeroDivisionError
    assert torch.equal(synset.videos.data, own)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_run_through_its_store_that_broke_off_ends_like_an_undisturbed_one(loss, script, monkeypatch):
    flags = {"store": "h264:40", "through_store": 2, "Iteration": 3, "eval_it": 9}
    whole = script((loss, "pixels"), "whole", **flags)
    assert load_synset(whole / "synset.safetensors")[1]["through_store"] == result_of(whole)["through_store"] == 2
    assert ", learned through h264:40" in summarize.title(result_of(whole))
    break_off(monkeypatch, script, (loss, "pixels"), "log", 2, **flags)
    assert content(script((loss, "pixels"), "broken", "--resume", **flags)) == content(whole)
    del flags["through_store"]
    assert content(script((loss, "pixels"), "after", **flags))[0] != content(whole)[0]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("labels", ["usual", "teacher"])
def test_all_that_is_made_of_a_set_while_it_is_learned_is_made_of_it_as_stored(loss, labels, script, monkeypatch):
    inside, steps, learned, seen = [], set(), set(), []
    call, render = ThroughStore.__call__, SETS["pixels"].render

    @contextmanager
    def tracked(self, step):
        if not learned:
            seen.clear()        # what was made of the start
        learned.add(id(self.synset))
        with call(self, step):
            inside.append(step)
            steps.add(step)
            yield
            inside.pop()

    def rendered(self, *args, **kwargs):
        seen.append((id(self), bool(inside)))
        return render(self, *args, **kwargs)

    monkeypatch.setattr(ThroughStore, "__call__", tracked)
    monkeypatch.setattr(SETS["pixels"], "render", rendered)
    soft = {"labels": "teacher", "teacher": 2} if labels == "teacher" else {}
    script((loss, "pixels"), "x", store="jpeg:30", through_store=1, Iteration=2, eval_it=9, **soft)
    synset, = learned
    assert {through for who, through in seen if who == synset} == {True}
    assert steps == set(range(4 if loss == "DC" else 2))        # DC takes two steps of the set in an iteration


def test_key_frames_that_are_added_are_seen_as_stored_too(script):
    folder = script(("DM", "keyframes"), "x", "--grow", "--through_store", store="jpeg:50", Iteration=8)
    synset, _ = load_synset(folder / "synset.safetensors")
    assert len(synset.frames) >= 20


def test_a_store_that_rounds_nothing_is_refused(script):
    with pytest.raises(ValueError, match="--through_store changes nothing with --store float32"):
        script("DM", "x", "--through_store")


# ---- selection by bytes ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("limit", range(0, 130, 7))
@pytest.mark.parametrize("most", (1, 2, 9, 40))
def test_as_many_as_fit(limit, most):
    for once in (0, 50):        # bytes that do not grow with the clips
        calls = []
        n = most_that_fit(lambda n, once=once, calls=calls: (calls.append(n), once + 3 * n)[1], limit, most)
        assert n == max(0, min((limit - once) // 3, most)) and max(calls) <= most
        assert len(calls) == len({*calls}) <= 8


def test_bytes_that_grow_by_leaps_are_searched_in_few_calls():
    for limit in range(0, 4000, 37):
        calls = []
        n = most_that_fit(lambda n, calls=calls: (calls.append(n), 10 * n + 900 * (n > 100))[1], limit, 300)
        assert (10 * n + 900 * (n > 100) <= limit or n == 0) and len(calls) <= 20
        assert n == 300 or 10 * (n + 1) + 900 * (n + 1 > 100) > limit


@pytest.mark.parametrize("flags", [{"store": "h264:30"}, {"method": "k-center"}, {"set": "s2d", "store": "webp:50"}])
def test_a_selection_by_bytes_is_that_of_as_many_clips(flags, script):
    switches = ["--random_features"] if "method" in flags else []
    method = flags.pop("method", "random")
    kind, flag = (flags.get("set", "pixels"), "vpc" if "set" in flags else "ipc")
    folder = script("herding", "three", "--method", method, *switches, **flags, **{flag: 3})
    folder = folder.parent.parent / f"{'S2D-' if kind == 's2d' else ''}{method}" / "three"
    size = file_bytes(folder / "synset.safetensors")
    for limit, wanted in ((size, 3), (size - 1, 2), (10 * size, 4)):        # of the 4 that there are
        other = script("herding", f"fit{limit}", "--method", method, *switches, bytes=limit, **flags)
        other = folder.parent / other.name
        result = result_of(other)
        assert result["ipc"] == wanted and result["storage_bytes"] <= limit
        if wanted == 3:
            assert (other / "synset.safetensors").read_bytes() == (folder / "synset.safetensors").read_bytes()


@pytest.mark.parametrize("flags,said", [
    ({"bytes": 100, "store": "zip"}, "one clip of each class takes .* bytes in the store zip: give as many"),
    ({"bytes": 10**6, "ipc": 2}, "--bytes and --ipc 2 both say"),
    ({"bytes": 10**6, "set": "s2d", "spc": 2}, "--bytes and --spc 2 both say")])
def test_bytes_that_cannot_be_meant(flags, said, script):
    with pytest.raises(ValueError, match=said):
        script("herding", "x", "--method", "random", **flags)


def test_bytes_that_hold_no_clip_leave_the_run_that_was_to_be_overwritten(script, tmp_path):
    folder = script("herding", "x", "--method", "random").parent.parent / "random" / "x"
    before = (folder / "synset.safetensors").read_bytes()
    with pytest.raises(ValueError, match="one clip of each class takes"):
        script("herding", "x", "--method", "random", "--overwrite", bytes=100)
    assert (folder / "synset.safetensors").read_bytes() == before and (folder / "result.json").is_file()


@pytest.mark.parametrize("text,wanted", [("500", 500), ("2 mb", 2_000_000), ("1.5kB", 1500), ("1GB", 10**9), ("7B", 7)])
def test_numbers_of_bytes(text, wanted, parse):
    assert parse(distill_coreset, ["--bytes", text]).bytes == wanted


@pytest.mark.parametrize("text", ["0", "2TB", "-5", "MB", "1.2.3MB", "nan", "", "9" * 400, "9" * 320 + "GB"])
def test_what_is_no_number_of_bytes(text, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["distill_coreset.py", f"--bytes={text}"])
    with pytest.raises(SystemExit):
        distill_coreset.main()
    assert "is not a number of bytes, such as 500000, 500kB, 2MB or 1GB" in capsys.readouterr().err


# ---- stored anew ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("pair", [("DM", kind) for kind in SETS] + [("FRePo", "s2d")], ids="-".join)
def test_a_set_that_is_stored_anew(pair, script, tmp_path):
    run = script(pair, "first", Iteration=1)
    path = run / "synset.safetensors"
    folder = script("score", "anew", synset=path, restore="h264:40")
    result, (synset, header) = result_of(folder), load_synset(folder / "synset.safetensors")
    first, before = load_synset(path)
    assert result["storage_bytes"] == file_bytes(folder / "synset.safetensors") < file_bytes(path)
    assert (result["store"], result["restored"], result["synset"]) == (
        "h264:40", str(path), str(folder / "synset.safetensors"))
    for name, value in as_stored(first, "h264:40", SPEC).state_dict().items():
        assert torch.equal(value, synset.state_dict()[name])
    changes = {"store": "h264:40", "through_store": None}
    assert header | changes == before | changes and header.get("through_store") is None
    again = result_of(script("score", "again", synset=folder / "synset.safetensors"))
    assert again["loss_mean"] == result["loss_mean"] and again["store"] == "h264:40"
    table = summarize.table([result, again])
    assert ", stored anew in h264:40 |" in table and ", scored again, in h264:40 |" in table


def test_still_images_that_are_stored_anew_are_shown_and_scored_as_clips(script):
    path = script("DC", "first", Iteration=1) / "synset.safetensors"
    folder = script("score", "anew", synset=path, restore="webp:30")
    folder = folder.parent.parent / "static" / "anew"
    assert result_of(folder)["store"] == "webp:30" and (folder / "preview.gif").stat().st_size > 1000


def test_pictures_say_what_the_set_is(script, monkeypatch):
    captions, draw = [], picture.contact_sheet
    monkeypatch.setattr(picture, "contact_sheet", lambda *args, caption, **kwargs: (
        captions.append(caption), draw(*args, caption=caption, **kwargs)))
    folder = script(("MTT", "s2d"), "x", Iteration=1, store="webp:80", labels="learned", vpc=2, spc=2, dpc=2)
    result = result_of(folder)
    assert captions == [
        "S2D-MTT: static images + dynamic memories, 2 a class, learned labels; webp:80, "
        f"{result['storage_bytes']:,} bytes; top-1 {100 * result['top1_mean']:.1f} % (1 ConvNet3DD2W16)"]


def test_a_file_that_its_own_run_would_overwrite_is_refused(script):
    path = script("DM", "first", Iteration=1) / "synset.safetensors"
    anew = script("score", "anew", synset=path, restore="zip") / "synset.safetensors"
    before = anew.read_bytes()
    for switches in ([], ["--overwrite"], ["--resume"]):
        with pytest.raises(ValueError, match="--synset .* lies in the folder of this run, where it would be over"):
            script("score", "anew", *switches, synset=anew, restore="jpeg:5")
    assert anew.read_bytes() == before


def test_a_header_of_anything_is_handed_on(script, tmp_path):
    path = script("DM", "first", Iteration=1) / "synset.safetensors"
    file = TensorFile(path)
    save_tensors(tmp_path / "odd.safetensors", file.read_all(), **file.header, path="x", synset=1, spec=[], tensors="y")
    folder = script("score", "anew", synset=tmp_path / "odd.safetensors", restore="zip")
    assert TensorFile(folder / "synset.safetensors").header["spec"] == []


def test_a_set_that_is_stored_anew_goes_on(script, tmp_path, monkeypatch):
    path = script("DM", "first", Iteration=1) / "synset.safetensors"
    flags = {"synset": path, "restore": "av1:40", "num_eval": 2}
    whole = script("score", "whole", **flags)
    break_off(monkeypatch, script, "score", "save", 2, **flags)
    broken = script("score", "broken", "--resume", **flags)
    assert content(broken)[0] == content(whole)[0]
    assert result_of(broken)["loss_mean"] == result_of(whole)["loss_mean"]


# ---- fair comparison ------------------------------------------------------------------------------------------------

def test_the_map_of_the_scores():
    assert fair.robust_score(0) == pytest.approx((1 - exp(-1)) / (e - exp(-1))) == pytest.approx(0.269, abs=1e-3)
    assert fair.robust_score(1) == pytest.approx(1) and fair.robust_score(-1) == pytest.approx(0)
    assert fair.robust_score(0.1) == pytest.approx((exp(0.1) - exp(-1)) / (e - exp(-1)))


@pytest.mark.parametrize("labels", ["class", "teacher"])
def test_what_a_fair_comparison_measures(labels, script, tmp_path, monkeypatch, capsys, few_digits):
    soft = {"labels": "teacher", "teacher": 2} if labels == "teacher" else {}
    path = script(("DM", "pixels"), "first", Iteration=1, **soft) / "synset.safetensors"
    full = script("score", "full", "--train_on", "full")
    full = full.parent.parent / "full" / "full" / "result.json"
    trained, score = [], utils.evaluate_synset

    def scored(train_on, data, network, **settings):
        result = score(train_on, data, network, **settings)
        trained.append((train_on, settings["dsa"].parts, settings["loss"], result.top1))
        return result

    monkeypatch.setattr(utils, "evaluate_synset", scored)
    capsys.readouterr()
    folder = script("score", "fair", "--fair", "h264:40", synset=path, full=full, num_eval=2,
                    **({"buffer_path": script.experts} if soft else {}))
    result, found = result_of(folder), result_of(folder)["fair"]
    synset, _ = load_synset(path)

    def mean_of(which):
        values = [top1 for index, (_, _, _, top1) in enumerate(trained) if index in which]
        assert len(values) == 2
        return sum(values) / 2

    # the set; as many random clips; the set under DSA; these clips under DSA; as many bytes of them; class labels
    assert {type(train_on).__name__ for train_on, *_ in trained} == {"VideoSet"}
    assert [bool(parts) for _, parts, _, _ in trained] == [False] * 4 + [True] * 4 + (
        [False] * (2 if labels == "class" else 4))
    own, random, own_twin, random_twin, in_bytes = ((i, i + 1) for i in range(0, 10, 2))
    for index in (*random, *random_twin, *in_bytes):
        assert trained[index][0].label_kind == synset.label_kind
    first, second = (trained[index][0].videos for index in random)
    assert not torch.equal(first, second) and torch.equal(first, trained[6][0].videos)      # drawn for each network
    assert found["top1_random"] == mean_of(random)
    assert found["ior"] == pytest.approx(mean_of(own) - mean_of(random))
    assert found["ars"] == pytest.approx(fair.robust_score(
        (mean_of(own_twin) - mean_of(random_twin) + found["ior"]) / 2))
    assert found["store"] == "h264:40" and found["random_clips_in_bytes"] == 4      # all that there are
    assert found["ior_bytes"] == pytest.approx(result["top1_mean"] - mean_of(in_bytes))
    hard = result["top1_mean"]
    if labels == "teacher":
        hard, (bare, _, loss, _) = mean_of((10, 11)), trained[10]
        assert bare.label_kind == "class" and loss == "ce" and torch.equal(bare.videos.cpu(), synset.videos)
        assert trained[2][0].labels.abs().sum() > 0
    assert found["top1_class_labels"] == hard
    assert found["hlr"] == pytest.approx(result_of(full.parent)["top1_mean"] - hard)
    assert found["lrs"] == pytest.approx(fair.robust_score((found["ior"] - found["hlr"]) / 2))
    assert found["full"]["epochs"] == 1

    monkeypatch.setattr(sys, "argv", ["summarize.py", str(folder)])
    summarize.main()
    table = capsys.readouterr().out
    assert "(IOR)" in table and f"(4.0 a class, h264:40) | {100 * found['hlr']:.1f} | {found['lrs']:.2f}" in table


def test_a_set_so_small_that_no_random_clip_fits(script, capsys):
    path = script(("DM", "still"), "x", Iteration=1, store="webp:1") / "synset.safetensors"
    found = result_of(script("score", "fair", "--fair", "float32", synset=path))["fair"]
    assert "ior_bytes" not in found and found["random_clips_in_bytes"] == 0 and "lrs" not in found
    assert "not one random clip of each class fits" in capsys.readouterr().err
    assert "none fits (float32)" in summarize.fair_table([{"fair": found, "method": "DM", "ipc": 1, "seed": 0,
                                                           "top1_mean": 0.1}])


@pytest.mark.parametrize("flags,said", [
    (["--fair", "--train_on", "full"], "--fair changes nothing without --synset"),
    (["--restore", "zip", "--train_on", "full"], "--restore changes nothing without --synset"),
    (["--full", "x", "--train_on", "full"], "--full changes nothing without --fair"),
    (["--buffer_path", "x", "--train_on", "full"], "--buffer_path changes nothing without --fair"),
    (["--synset", "x", "--store", "zip"], "give --restore, to store it anew")])
def test_flags_that_would_change_nothing(flags, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *flags])
    with pytest.raises(SystemExit):
        evaluate.main()
    assert said in capsys.readouterr().err


def test_more_clips_than_there_are_random_ones(script):
    path = script(("DM", "still"), "x", "--init", "noise", Iteration=1, ipc=5) / "synset.safetensors"
    with pytest.raises(ValueError, match="--fair needs as many random clips of each class as the set has, 5, and there "
                                         "are 4: leave it out"):
        script("score", "fair", "--fair", synset=path)


def test_a_full_result_below_the_set_is_told(script, capsys):
    path = script("DM", "first", Iteration=1) / "synset.safetensors"
    full = script("score", "full", "--train_on", "full")
    full = full.parent.parent / "full" / "full" / "result.json"
    content = json.loads(full.read_text())
    del content["sum"]
    full.write_text(json.dumps(with_sum(content | {"top1_mean": 0.0})))
    script("score", "fair", "--fair", synset=path, full=full)
    assert "score below those of this set: train them longer" in capsys.readouterr().err


def test_a_full_result_of_something_else_is_refused(script, tmp_path):
    run = script("DM", "first", Iteration=1)
    (tmp_path / "broken.json").write_text("{}")
    for file, said in ((run / "result.json", "its method is DM, and not full"),
                       (tmp_path / "broken.json", "is damaged, or was not written by a run")):
        with pytest.raises(ValueError, match=said):
            script("score", "x", "--fair", synset=run / "synset.safetensors", full=file)
