"""Key frames: how clips are made of them, how they grow, what they share with other sets, and what is refused."""
import json
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import distill_DM
import utils
from conftest import NET, run_script
from distill_utils.bank import SampledMeans
from distill_utils.clips import ClassSampler
from distill_utils.keyframes import INTERPOLATIONS, KeyFrameSet, key_times, neighbours
from distill_utils.matching import mtt_gradient
from distill_utils.storage import as_stored, storage_bytes
from distill_utils.synset import ImageSet, VideoSet, all_pairs, grow, load_synset, save_synset
from distill_utils.tensors import TensorFile, save_tensors
from runs import LOSSES, break_off, content

SHAPE = (8, 3, 4, 4)
GROW = {"set": "keyframes", "grow_from": 0.0, "grow_until": 1.0}


def real_clips(shape=SHAPE, classes=2, ipc=3):
    return torch.randn(classes, ipc, *shape, generator=torch.Generator().manual_seed(0))


def filled(*args, shape=SHAPE, **kwargs):
    synset = KeyFrameSet(2, 3, shape, *args, **kwargs)
    synset.encode(real_clips(shape))
    return synset


def rendered(synset):
    return synset.render(*all_pairs(synset))[0].detach()


# ---- rendering -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("n_syn,segments", [(8, 1), (1, 8), (2, 4)])
def test_as_many_key_frames_as_frames_are_the_clip(n_syn, segments, interpolation):
    pixels = VideoSet(2, 3, SHAPE)
    pixels.encode(real_clips())
    assert torch.equal(rendered(filled(n_syn, segments, interpolation)), rendered(pixels))


@pytest.mark.parametrize("interpolation", ["duplicate", "linear"])
def test_one_key_frame_is_a_still_image(interpolation):
    still = ImageSet(2, 3, SHAPE[1:], frames=8)
    still.encode(real_clips())
    assert torch.equal(rendered(filled(1, 1, interpolation)), rendered(still))


@pytest.mark.parametrize("count", range(1, 9))
@pytest.mark.parametrize("interpolation", ["duplicate", "linear"])
def test_a_clip_is_made_of_its_key_frames(count, interpolation):
    """Beside plain loops; the starts are frames of real clips at the places that they are shown."""
    synset = filled(count, 1, interpolation)
    frames, clips = synset.frames.detach().unflatten(0, (6, count)), rendered(synset)
    for t in range(8):
        at = t * (count - 1) / 7
        left = min(int(at), max(count - 2, 0))
        wanted = frames[:, t * count // 8] if interpolation == "duplicate" or count == 1 else (
            frames[:, left] * (1 - at + left) + frames[:, left + 1] * (at - left))
        torch.testing.assert_close(clips[:, t], wanted)
    real, times = real_clips().flatten(0, 1), key_times(count, 8, interpolation)
    assert torch.equal(frames, real[:, times]) and (times.diff() > 0).all()
    if interpolation == "duplicate":
        assert [t * count // 8 for t in times.tolist()] == list(range(count))
    else:
        assert count == 1 or (times[0], times[-1]) == (0, 7)


def test_a_segment_is_expanded_by_itself():
    synset = filled(2, 3, "linear")
    classes, slots = all_pairs(synset)
    own = synset.frames.detach().unflatten(0, (6, 3, 2))
    for segment in range(3):
        clips = synset.render_segment(classes, slots, segment, 3)
        first, last = own[:, segment].unbind(1)
        torch.testing.assert_close(clips, torch.stack([first, (first + last) / 2, last], 1))


def test_the_hallucinator_starts_as_the_identity_and_is_learned():
    synset, plain = filled(2, 2, "hallucinator"), filled(2, 2, "duplicate")
    assert torch.equal(rendered(synset), rendered(plain))
    assert synset.groups()["lr_hal"] == list(synset.hallucinator.parameters()) and not plain.groups()["lr_hal"]
    synset.render(*all_pairs(synset))[0].square().sum().backward()
    assert synset.hallucinator.weight.grad.abs().sum() > 0


# ---- growth --------------------------------------------------------------------------------------------------------

def grow_once(synset, optimizer, done=0.5, seed=0):
    target = 9 * torch.randn(6, *synset.shape, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    clips = synset.render(*all_pairs(synset))[0]
    clips.retain_grad()
    (clips - target).square().sum().backward()
    optimizer.step()
    before, gradient = rendered(synset), clips.grad.clone()
    grow(synset, optimizer, done)
    return before, gradient


@pytest.mark.parametrize("optim", [torch.optim.Adam, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)])
def test_a_frame_becomes_a_key_frame_where_both_neighbours_pull_another_way(optim):
    """Beside a plain loop over clips and frames; no clip changes, and old frames keep their momentum."""
    synset = filled(2, 1, growing=(0.2, 0.8))
    optimizer = optim([synset.frames])
    for step in range(3):
        places, old = synset.places.clone(), synset.frames
        before, gradient = grow_once(synset, optimizer, seed=step)
        wanted = places.clone()
        for clip in range(6):
            keys = places[clip].nonzero()[:, 0].tolist()
            for t in range(8):
                left, right = max(k for k in keys if k <= t), min(k for k in keys if k >= t)
                cosines = [F.cosine_similarity(gradient[clip, t].flatten(), gradient[clip, k].flatten(), dim=0)
                           for k in (left, right)]
                wanted[clip, t] |= all(cosine < 0 for cosine in cosines)
        assert torch.equal(synset.places, wanted) and len(synset.frames) == int(wanted.sum())
        torch.testing.assert_close(rendered(synset), before)
        if step == 0:
            assert wanted.sum() > places.sum()
            moments = [value for value in optimizer.state[synset.frames].values() if value.dim()]
            kept = places[wanted]
            assert moments and all(value.shape == synset.frames.shape for value in moments)
            assert all((value[kept] != 0).any() for value in moments) and (moments[0][~kept] == 0).all()
            if len(moments) > 1:        # Adam's: no larger steps than those of its neighbours
                squares = moments[1]
                assert squares[~kept].min() > 0 and squares[~kept].max() <= squares[kept].max()
            assert optimizer.param_groups[0]["params"] == [synset.frames] and old not in optimizer.state


def test_nothing_grows_outside_its_share_of_the_iterations():
    for done, grows in ((0.19, False), (0.2, True), (0.79, True), (0.8, False)):
        synset = filled(2, 1, growing=(0.2, 0.8))
        grow_once(synset, torch.optim.Adam([synset.frames]), done)
        assert (len(synset.frames) > 12) == grows


def test_the_gradient_of_rendered_frames_comes_with_that_of_a_trajectory():
    """In one pass: as finite differences of what is added to a frame say."""
    synset = filled(2, 1, growing=(0, 1)).double()
    synset.watched[0].data = synset.watched[0].data.double()
    start, target = (torch.randn(4, 8 * 48, generator=torch.Generator().manual_seed(i), dtype=torch.double) * 0.1
                     for i in (1, 2))
    classes, slots = all_pairs(synset)

    def step_loss(theta, i):
        clips = synset.render(classes, slots)[0]
        return F.cross_entropy(clips.flatten(1) @ theta[0].T, classes)

    def run():
        return mtt_gradient(step_loss, (start,), (target,), 3, torch.tensor(0.1, dtype=torch.double),
                            [synset.frames, *synset.watched])

    _, (_, gradient), _ = run()
    for where in ((0, 3, 1, 2, 2), (5, 0, 0, 0, 0)):
        ends = []
        for change in (1e-4, -1e-4):
            synset.probe.data[where] = change
            ends.append(run()[0].item())
        synset.probe.data[where] = 0
        np.testing.assert_allclose(gradient[where].item(), (ends[0] - ends[1]) / 2e-4, rtol=1e-4)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_run_broken_off_while_it_grows_ends_with_the_same_bytes(loss, script, monkeypatch):
    monkeypatch.setattr(KeyFrameSet, "apart", 0.7)        # clips are so short here that it would hardly grow
    flags = {**GROW, "Iteration": 6, "optim": "adam", "lr_img": 0.5, "init": "noise", "eval_it": 9}
    whole = script((loss, "pixels"), "whole", "--grow", **flags)
    folder = whole.parent.parent / f"KF-{loss}" / "whole"
    break_off(monkeypatch, lambda m, name, *words, **kw: script(m, name, "--grow", *words, **kw), (loss, "pixels"),
              "log", 4, **flags)
    script((loss, "pixels"), "broken", "--grow", "--resume", **flags)
    assert content(folder.parent / "broken") == content(folder)
    synset, header = load_synset(folder / "synset.safetensors")
    assert header["arguments"]["num_frames"] == len(synset.frames) == int(
        synset.places.sum()) > 20


# ---- files ---------------------------------------------------------------------------------------------------------

def test_only_key_frames_and_their_places_are_stored(tmp_path):
    spec = utils.get_spec("MotionDigits", 8, 16)
    synset = KeyFrameSet(10, 1, spec.shape, growing=(0, 1))
    synset.frames.data.normal_()
    fixed = KeyFrameSet(10, 1, spec.shape, 2, 2, "duplicate")
    fixed.frames.data.normal_()
    assert storage_bytes(fixed) == 4 * 10 * 4 * 3 * 16 * 16
    optimizer = torch.optim.Adam([synset.frames])
    clips = synset.render(*all_pairs(synset))[0]
    (clips * torch.randn(clips.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
    optimizer.step()
    grow(synset, optimizer, 0.5)
    count = len(synset.frames)
    assert 20 < count < 80 and storage_bytes(synset) == count * 4 * 3 * 16 * 16 + 10 * 8
    for store in ("float32", "uint8"):
        save_synset(tmp_path / "x.safetensors", synset, spec, store)
        loaded, _ = load_synset(tmp_path / "x.safetensors")
        assert torch.equal(rendered(loaded), rendered(as_stored(synset, store, spec))) and not loaded.growing
        assert not loaded.watched and torch.equal(loaded.key_frames, synset.places)
    torch.testing.assert_close(rendered(loaded), rendered(synset), atol=0.05, rtol=0)


@pytest.mark.parametrize("change", [{"interpolation": "duplicate"}, {"n_syn": 1}, {"growing": 5}, {"init": "noise"}])
def test_arguments_that_are_not_those_of_a_grown_set_are_refused(change, tmp_path):
    spec = utils.get_spec("MotionDigits", 8, 16)
    save_synset(tmp_path / "x.safetensors", KeyFrameSet(10, 1, spec.shape, growing=(0, 1)), spec)
    file = TensorFile(tmp_path / "x.safetensors")
    header = {key: value for key, value in file.header.items() if key != "sum"}
    header["arguments"] |= change
    save_tensors(tmp_path / "x.safetensors", file.read_all(), **header)
    with pytest.raises(ValueError, match="arguments"):
        load_synset(tmp_path / "x.safetensors")


@pytest.mark.parametrize("change", ["fewer", "no end"])
def test_places_that_are_not_those_of_the_frames_are_refused(change, tmp_path):
    spec = utils.get_spec("MotionDigits", 8, 16)
    synset = KeyFrameSet(10, 1, spec.shape, growing=(0, 1))
    save_synset(tmp_path / "x.safetensors", synset, spec)
    file = TensorFile(tmp_path / "x.safetensors")
    tensors, header = file.read_all(), file.header
    tensors["places"][3] = torch.arange(8) < (1 if change == "fewer" else 2)
    save_tensors(tmp_path / "x.safetensors", tensors, **{key: value for key, value in header.items() if key != "sum"})
    with pytest.raises(ValueError, match="key frames, and the places of"):
        load_synset(tmp_path / "x.safetensors")


def test_the_contact_sheet_frames_key_frames(script):
    marked, plain = (script(("DM", "keyframes"), str(n), n_syn=n, Iteration=1, lr_img=0, lr_hal=1e-9, frames=4,
                            interpolation="hallucinator") / "preview.png" for n in (2, 4))
    assert marked.read_bytes() != plain.read_bytes()
    synset = KeyFrameSet(2, 1, (9, 3, 4, 4), 3)
    assert synset.key_frames.nonzero()[:, 1].tolist() == [0, 4, 8] * 2


# ---- matching segments ---------------------------------------------------------------------------------------------

def test_all_key_frames_are_trained_as_pixels_are(script):
    """Bit for bit: with whole clips, and with one segment of all frames."""
    pixels = load_synset(script(("DM", "pixels"), "x", lr_img=1) / "synset.safetensors")[0].videos.flatten(0, 1)
    for name, flags in (("whole", {}), ("segment", {"n_real": 4})):
        folder = script(("DM", "keyframes"), name, n_syn=4, lr_img=1, **flags)
        assert torch.equal(load_synset(folder / "synset.safetensors")[0].frames, pixels)


def test_a_segment_is_matched_with_the_same_segment_of_real_clips(script, monkeypatch):
    seen, means, render, sample = [], SampledMeans.means, KeyFrameSet.render_segment, ClassSampler.sample
    monkeypatch.setattr(SampledMeans, "means", lambda self, *args, segment: (
        seen.append(segment), means(self, *args, segment=segment))[1])
    monkeypatch.setattr(ClassSampler, "sample", lambda *args: (
        seen.append(tuple(sample(*args).shape[2:])), sample(*args))[1])
    monkeypatch.setattr(KeyFrameSet, "render_segment", lambda self, classes, slots, segment, length: (
        seen.append((segment, length)), render(self, classes, slots, segment, length))[1])
    script(("DM", "keyframes"), "x", n_syn=1, segments=2, n_real=2, Iteration=1, eval_it=9)
    frames = (2, 3, 16, 16)
    assert seen == [(0, 2), (0, 2), frames, (1, 2), (1, 2), frames]


def test_frames_of_a_segment_lie_in_it(few_digits):
    """Of the clip that a network would see, of 8 of the 12 frames of a video, and not of the video."""
    whole = utils.get_dataset("MotionDigits", few_digits, frames=8, im_size=16).train
    for length, segments in ((2, 4), (3, 2), (1, 8)):
        for segment in range(segments):
            clip, _ = whole.sample_frames(range(40), torch.Generator().manual_seed(0))
            frames, _ = whole.within_clips(length).sample_frames(range(40), torch.Generator().manual_seed(0),
                                                                 (segment, segments))
            place = frames - clip[:, :1]
            assert (place >= 8 // segments * segment).all() and (place < 8 // segments * (segment + 1)).all()
            assert frames.shape == (40, length) and (np.diff(frames, axis=1) == 1).all()
            assert length < 8 // segments or (place == np.arange(length) + 8 // segments * segment).all()
    assert len({tuple(row) for row in place.tolist()}) == 1 and (whole.sample_frames([0])[0] == 2 + np.arange(8)).all()


# ---- what is refused -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("words,said", [
    ("--n_syn 3 --segments 2", "are 6, and a clip has only 4 frames: lower one of them"),
    ("--segments 5 --n_syn 1", "are 5, and a clip has only 4 frames"),
    ("--grow --interpolation duplicate", "--grow is of --interpolation linear, and it is duplicate: give linear"),
    ("--grow --n_syn 1", "starts with 1 of 4 frames: give --n_syn 2"),
    ("--grow --n_syn 4", "starts with 4 of 4 frames: give --n_syn 2"),
    ("--grow --lr_img 0", "--lr_img 0 trains none"),
    ("--lr_hal 0.1", "--lr_hal 0.1 is of the hallucinator, which this set does not train or has not: leave it out"),
    ("--grow --grow_from 0.9", "--grow_from 0.9 must be less than --grow_until 0.8"),
    ("--grow_from 0.5", "change nothing without --grow"),
    ("--n_syn 1 --segments 2 --n_real 3", "are more than the 4 of a clip"),
    ("--n_syn 4 --n_real 2", "--n_real 2 frames cannot show the --n_syn 4 key frames of a segment"),
    ("--grow_from 0.2", "change nothing without --grow"),
    ("--n_real 2 --grow", "--grow is of whole clips, and --n_real 2 compares parts of them"),
    ("--n_real 2 --bank 2", "--bank is of whole clips"),
    ("--n_real 2 --networks experts", "--networks experts is of whole clips"),
    ("--dataset singleMotionDigits --model ConvNetD2W32", "gives single frames, which have no key frames: give Mot"),
])
def test_what_makes_no_sense_is_refused_before_any_work(words, said, few_digits, tmp_path, monkeypatch):
    given = f"--set keyframes --dataset MotionDigits --frames 4 --im_size 16 --model {NET} --data_path {few_digits}"
    monkeypatch.setattr(sys, "argv", ["distill_DM.py", *given.split(), "--save_path", str(tmp_path / "out"),
                                      *words.split()])
    with pytest.raises(ValueError, match=said):
        distill_DM.main()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words,said", [
    ("--n_real 2", "unrecognized arguments: --n_real"),
    ("--set keyframes --grow --grow_until 80", "80 is not a share from 0 to 1, such as 0.2")])
def test_flags_that_cannot_be_read(words, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["distill_DM.py", *words.split()])
    with pytest.raises(SystemExit):
        distill_DM.main()
    assert said in capsys.readouterr().err


def test_a_running_mean_has_one_size(script):
    with pytest.raises(ValueError, match="--grow changes it: leave out one"):
        script(("MTT", "keyframes"), "x", "--grow", ema=0.9)


def test_a_longer_run_grows_at_other_iterations(script):
    flags = {**GROW, "lr_img": 0.1, "optim": "adam"}
    script(("DM", "keyframes"), "x", "--grow", **{**flags, "Iteration": 3})
    with pytest.raises(ValueError, match="--Iteration was 3 and is now 6: give the same"):
        script(("DM", "keyframes"), "x", "--grow", "--resume", **{**flags, "Iteration": 6})


def test_results_tell_one_form_from_another(script, tmp_path):
    """And seeds of a set that grows are merged, though each ends with another size."""
    for seed in (0, 1):
        flags = {"seed": seed, "Iteration": 3, "optim": "adam"}
        script(("DM", "keyframes"), f"a{seed}", n_syn=4, interpolation="duplicate", **flags)
        script(("DM", "keyframes"), f"b{seed}", n_syn=2, segments=2, n_real=2, **flags)
        script(("DM", "keyframes"), f"c{seed}", "--grow", **{**GROW, **flags, "init": "noise", "lr_img": 0.5})
    score = script("score", "again", synset=tmp_path / "KF-DM" / "b0" / "synset.safetensors")
    lines = run_script("summarize.py", tmp_path, "--merge_seeds").stdout.splitlines()
    rows = {line.split(" | ")[0]: line.split(" | ")[2] for line in lines if "keyframes" in line}
    assert {name: seeds for name, seeds in rows.items() if "again" not in name} == {
        "| keyframes 4x1-duplicate (DM)": "0 / 1", "| keyframes 2x2-linear (DM), 2 real frames": "0 / 1",
        "| keyframes 2x1-linear-grown (DM)": "0 / 1"}
    assert "| keyframes 2x2-linear (DM), 2 real frames, scored again" in rows and score.is_dir()


def test_a_dry_run_of_trajectory_matching(script, capsys):
    for flags in ([], ["--grow"]):
        script(("MTT", "keyframes"), "x", "--dry_run", *flags)
        assert json.loads(capsys.readouterr().out.strip().splitlines()[-1][7:])["operations"] > 0


def test_neighbours_of_a_key_frame_are_itself():
    places = torch.tensor([[1, 0, 0, 1, 1], [1, 0, 1, 0, 1]]).bool()
    before, behind = neighbours(places)
    assert before.tolist() == [[0, 0, 0, 3, 4], [0, 0, 2, 2, 4]]
    assert behind.tolist() == [[0, 3, 3, 3, 4], [0, 2, 2, 4, 4]]


def test_results_of_grown_sets_are_scored_again_as_they_were(script):
    folder = script(("DM", "keyframes"), "x", "--grow", **{**GROW, "Iteration": 3, "lr_img": 0.1, "optim": "adam"})
    again = script("score", "again", synset=folder / "synset.safetensors")
    first, second = (json.loads((path / "result.json").read_text()) for path in (folder, again))
    assert first["top1_mean"] == second["top1_mean"] and first["loss_mean"] == second["loss_mean"]
