"""One `Run` of a script: its folder, lock, seeds, log, checkpoint, resume, evaluation and result."""
import hashlib
import json
import os
import secrets
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from scipy.special import stdtrit
from tqdm import tqdm

from distill_utils import parallel, picture, results
from distill_utils.args import INPUTS, STOPS, data_identity, input_digests, recipe_flags
from distill_utils.clips import change_of, same_clips
from distill_utils.dataset import DATASETS, check_older, dataset_label
from distill_utils.device import device_name, peak_memory, precision_name, resolve_device, set_kernels
from distill_utils.files import is_whole, remove, replacing, try_lock, unfinished, with_sum
from distill_utils.labels import RECIPES
from distill_utils.progress import progress
from distill_utils.protocols import PROTOCOLS
from distill_utils.seeds import derive_seed, make_generator, seeded
from distill_utils.storage import as_stored, file_bytes, file_sum, save_synset
from distill_utils.synset import fit, load_synset
from distill_utils.tensors import load_plain
from networks import CHANGED, get_eval_pool

ROOT = Path(__file__).resolve().parent.parent
CONTENT = " (its content)"      # of the file that a flag names
# what a run leaves; its checkpoint is the first to go when it is overwritten
FILES = ("checkpoint.pt", "result.json", "synset.safetensors", "network.safetensors", "metrics.jsonl", "args.json",
         "preview.png", "preview.gif", "curve.png", "confusion.json", "real.webp")


# of the header of a set, and of a result: what a loss was told, where it is told it by flags of these names
ABOUT_LOSS = ("dm_networks", "dm_kernel", "dm_n_real", "through_store")


class Run:
    """One run of a script: `<save_path>/<method>/<name>/` and everything that is written there.

    A folder that already holds a run (a checkpoint or a result) is refused unless `--resume` or `--overwrite` is given,
    and one that another process is working on in any case. parser: of the arguments; it knows which of them may change
    when the run goes on. name: where --name says none. folder: name of the folder in place of the method's. Files that
    flags name may move between a run and its continuation, and their content may not change. report_best: as the
    protocol has it, if not given. recipe: by which networks are trained on the set.
    """

    def __init__(self, parser, args, method, name, folder=None, report_best=None, recipe=RECIPES["class"]):
        self.parser, self.args, self.method, self.recipe = parser, vars(args), method, recipe
        self.report_best = PROTOCOLS[args.protocol].report_best if report_best is None else report_best
        name = args.name or name
        if Path(name).name != name or name.startswith("."):     # a path would lead elsewhere, and dots hide a folder
            raise ValueError(f"--name {name!r} is not a name for one folder: leave out slashes and a dot at its "
                             "beginning, and say with --save_path where results go")
        self.folder = Path(args.save_path) / (folder or method) / name
        self.device = resolve_device(args.device)
        self.precision = precision_name(args.precision, self.device)
        set_kernels(self.precision, self.device)
        self.seed, self.began = args.seed, time.monotonic()
        self.history, self.state, self.first_iteration = [], {}, 0
        self.seconds, self.eval_seconds = 0.0, 0.0          # of earlier processes of the same run
        self.saved_at, self.stop, self.evaluating, self.bar = None, False, False, None
        self.inputs = {flag: value for flag, value in {**data_identity(args), **input_digests(args)}.items()
                       if value}
        self.clips = None       # identity of the training and test clips, when the data is read
        self.shards, self.sent = None, parallel.sent        # which rank has what of the set
        self.step_from = parallel.sent      # what was sent before this iteration
        self.saves_set, self.rate = False, recipe.lr      # the rate of the networks that were scored last
        self.checkpoint, self.wandb = None, None
        self.writes = parallel.rank() == 0      # of several ranks one writes; all read
        if self.writes:
            self._open()
        parallel.wait()         # an error of the first ends the others here
        if not self.writes and self.args["resume"] and (self.folder / "checkpoint.pt").is_file():
            self.checkpoint = load_plain(self.folder / "checkpoint.pt", mmap=False)

    def _open(self):
        """Nothing is written or removed yet but the lock: input that proves bad leaves an earlier run as it was."""
        if self.args["overwrite"] and self.args["resume"]:
            raise ValueError("--overwrite and --resume contradict each other: give one of them")
        self.folder.mkdir(parents=True, exist_ok=True)
        for flag in INPUTS:
            if self.args.get(flag) and Path(self.args[flag]).resolve().parent == self.folder.resolve():
                raise ValueError(f"--{flag} {self.args[flag]} lies in the folder of this run, where it would be "
                                 "overwritten: choose another --name")
        self.lock = try_lock(self.folder / ".lock")     # held until the process ends
        if self.lock is None:
            raise ValueError(f"another process is working on {self.folder}: wait for it, or choose another --name")
        file = self.folder / "checkpoint.pt"
        # without its checkpoint, which somebody may have removed to save space, a result is still a result
        begun = file.is_file() or any((self.folder / name).is_file() for name in ("result.json", "synset.safetensors"))
        if begun and not self.args["resume"] and not self.args["overwrite"]:
            raise ValueError(f"{self.folder} already holds a run: go on with --resume, start anew with --overwrite, or "
                             "choose another --name")
        if begun and self.args["resume"] and not file.is_file():
            raise ValueError(f"{self.folder} holds a result and no checkpoint.pt to go on from: start anew with "
                             "--overwrite, or choose another --name")
        self.tracker = secrets.token_hex(8)
        if begun and self.args["resume"]:
            try:
                self.checkpoint = load_plain(file, mmap=False)
                self.tracker, saved = self.checkpoint["tracker"], dict(self.checkpoint["args"])
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{file} cannot be read ({error}): start anew with --overwrite, or choose another "
                                 "--name") from error
            self._check_same_experiment(saved)
        if self.args["wandb"] != "disabled":
            try:
                import wandb
                self.wandb = wandb.init(mode=self.args["wandb"], project="video-distillation", config=self.args,
                                        name=f"{self.method}-{self.folder.name}", dir=self.folder, id=self.tracker,
                                        resume="allow")
            except Exception as error:      # not installed, no key, no network: whatever it says of it
                raise ValueError(f"--wandb {self.args['wandb']} does not start ({error}): log in with `wandb login`, "
                                 "or give --wandb offline or disabled") from error

    def _check_same_experiment(self, saved):
        """saved: what `_identity` gave the run of the checkpoint. A flag that it does not know came later: it had the
        value that is the default now, and the method says which set it has."""
        current = self._identity()
        saved = {"precision": "fp32", "set": current.get("set"), **recipe_flags(RECIPES["class"]), **{
            key: value for key, value in saved.items() if key not in self._may_change()}}
        for run in (saved, current):    # what is in a data set _check_clips compares, where the run remembered it
            run["dataset"] = None if "clips" in self.checkpoint else dataset_label(run["dataset"])
        for key in sorted(current.keys() | saved.keys()):
            if "clips" not in self.checkpoint and key in ("path_static" + CONTENT, "pretrained_path" + CONTENT):
                continue        # of a run from before these were remembered
            before = saved.get(key, self.parser.get_default(key))
            if current.get(key) != before:
                first = f" ({self.folder}/args.json names the file)" if key.endswith(CONTENT) else ""
                raise ValueError(f"{self.folder}/checkpoint.pt is of another experiment: --{key} was {before!r} "
                                 f"and is now {current.get(key)!r}: give the same{first}, or choose another --name")

    def _identity(self):
        """The arguments that say what is computed, as JSON gives them back."""
        return {key: value for key, value in json.loads(json.dumps(self.args)).items()
                if key not in self._may_change()} | {
            "precision": self.precision, **recipe_flags(self.recipe),
            **{flag + CONTENT: digest for flag, digest in self.inputs.items()}}

    def _may_change(self):
        """Flags that may differ when a run goes on; a set grows in a share of the iterations, so not their number."""
        return self.parser.may_change - ({"Iteration"} if self.args.get("grow") else set())

    def _check_clips(self):
        """ValueError where a run would go on with other clips than it began with."""
        before = self.checkpoint.get("clips")
        if before is None:      # of a run that did not remember them
            check_older(f"{self.folder}/checkpoint.pt", self.checkpoint["args"])
            pool = self.args.get("model_eval") or get_eval_pool(self.args["eval_mode"], self.args["model"])
            if others := CHANGED & {self.args["model"], *pool}:
                raise ValueError(f"{self.folder}/checkpoint.pt was made when {min(others)} was another network (it has "
                                 "the published architecture now, see docs/results.md): start anew with --overwrite, "
                                 "or choose another --name")
            return
        changes = [change_of(old, new) for old, new in zip(before, self.clips, strict=True) if old != new]
        if changes:
            raise ValueError(f"{self.folder}/checkpoint.pt is of other clips, or they changed since: "
                             f"{'; '.join(changes)}: go on with the data that it began with, or start anew with "
                             "another --name or --overwrite")

    def _write_json(self, name, content):
        if not self.writes:
            return
        with replacing(self.folder / name) as temporary:
            temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")

    def derive(self, *purpose):
        return derive_seed(self.seed, *purpose)

    def generator(self, *purpose):
        return make_generator(self.seed, *purpose)

    def seeded(self, *purpose):
        return seeded(self.derive(*purpose), self.device)

    def resume(self, data, shards=None, **state):
        """Remembers what a checkpoint holds (modules, optimizers: name -> None, or an object with a state_dict) and,
        when this run goes on from one, loads them, if the clips are those it began with. Scripts call it once all input
        is read: from here on the folder is this run's. shards: which rank has what of the set, where several share
        it."""
        self.shards = shards
        parallel.wait()         # all have read what they go on from
        self.state = {name: value for name, value in state.items() if value is not None and value.state_dict()}
        self.clips = [data.train.identity(), data.test.identity()]
        if self.checkpoint:
            self._check_clips()
        begun = self.checkpoint["iteration"] + len(self.checkpoint["history"]) + 1 if self.checkpoint else 0
        if len(set(parallel.numbers(begun))) > 1:
            raise ValueError(f"ranks find different checkpoints in {self.folder}: --save_path must lie on a file "
                             "system that all of them share")
        if self.writes:
            if not self.checkpoint:     # of an overwritten run, or of one that ended before its first checkpoint
                remove(*(self.folder / name for name in FILES))
            remove(*unfinished(self.folder))
        self._write_json("args.json", {**self.args, "method": self.method, "device": str(self.device),
                                       "command": shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]]),
                                       "commit": _commit(), "python": sys.version.split()[0],
                                       "versions": {"torch": torch.__version__, "numpy": np.__version__}})
        log = self.folder / "metrics.jsonl" if self.writes else os.devnull
        self.metrics = open(log, "a", encoding="utf-8")     # noqa: SIM115 (closed by finish)
        if self.writes:
            self.metrics.truncate(self._whole_lines(self.checkpoint["metrics_bytes"]) if self.checkpoint else 0)
        if self.checkpoint:
            for name, value in self.state.items():
                value.load_state_dict(self.checkpoint["parts"][name])
            self.first_iteration, self.history = self.checkpoint["iteration"], self.checkpoint["history"]
            self.seconds, self.eval_seconds = self.checkpoint["seconds"], self.checkpoint["eval_seconds"]
            self.saved_at = self.first_iteration
            print(f"going on from iteration {self.saved_at} of {self.folder}", file=sys.stderr)
            before, device = self.checkpoint.get("device"), device_name(self.device)
            if before not in (None, device):
                print(f"note: this run was saved on {before} and goes on on {device}: random networks are drawn on the "
                      "device, so it will not end with the same set", file=sys.stderr)
            self.checkpoint = None

    def _whole_lines(self, size):
        """How much of metrics.jsonl stays when the run goes on: what it had at the checkpoint, or, where somebody has
        shortened it since, its whole lines."""
        content = (self.folder / "metrics.jsonl").read_bytes()[:size]
        if len(content) < size:
            print(f"note: {self.folder}/metrics.jsonl is shorter than it was: lines of the log are lost",
                  file=sys.stderr)
        return content.rfind(b"\n") + 1

    def save(self, iteration):
        """Writes the checkpoint: everything needed to go on from the state after `iteration` steps."""
        if self.shards:
            self.shards.gather()
        states = {name: value.state_dict() for name, value in self.state.items()}
        bad = next((f"{name}.{key}" for name, state in states.items() for key, value in state.items()
                    if torch.is_tensor(value) and not torch.isfinite(value).all()), None)
        if bad:
            raise ValueError(f"{bad} is not finite after iteration {iteration}: " + self._way_back())
        if self.writes:
            self._write_checkpoint(iteration, states)
        self.saved_at = iteration

    def _write_checkpoint(self, iteration, states):
        self.metrics.flush()
        with replacing(self.folder / "checkpoint.pt") as temporary:
            torch.save({"iteration": iteration, "parts": states, "history": self.history, "args": self._identity(),
                        "clips": self.clips, "device": device_name(self.device),
                        "tracker": self.tracker,
                        "seconds": self.elapsed(), "eval_seconds": self.eval_seconds,
                        "metrics_bytes": os.path.getsize(self.folder / "metrics.jsonl")}, temporary)

    def _way_back(self):
        saved = f"the last good checkpoint is of iteration {self.saved_at}" if self.saved_at else "no step was saved"
        rates = sorted({group["lr"] for value in self.state.values() if isinstance(value, torch.optim.Optimizer)
                        for group in value.param_groups if group["lr"]})
        others = ", ".join(f"--{flag} {self.args[flag]:g}" for flag in ("lr_teacher", "ce_weight", "hal_diversity")
                           if self.args.get(flag))
        return (f"{saved}; the set is trained at the rate {rates}: lower it" + (f" (and {others})" if others else "")
                + ", under another --name or --overwrite")

    def elapsed(self):
        return self.seconds + time.monotonic() - self.began

    def loop(self, iterations):
        """Yields the iterations from the resumed one up to and including `iterations`, where only evaluation is left.

        Saves a checkpoint every --save_it iterations. Ctrl-C, and the signals by which schedulers end jobs, let the
        iteration end, save and stop.
        """
        def ask_to_stop(signal_number, frame):
            again = self.stop and signal_number == signal.SIGINT and parallel.size() == 1
            if again or self.evaluating:        # an evaluation changes nothing: its checkpoint is already written
                raise KeyboardInterrupt(self._how_to_go_on())
            self.stop = True        # schedulers, and torchrun, send theirs more than once

        if self.first_iteration > iterations:
            raise ValueError(f"{self.folder} is at iteration {self.first_iteration} already: give an --Iteration of at "
                             "least that")
        handlers = {number: signal.signal(number, ask_to_stop) for number in STOPS
                    if not (number.name == "SIGHUP" and signal.getsignal(number) == signal.SIG_IGN)}     # by nohup
        try:
            with progress(total=iterations, initial=self.first_iteration, desc=self.method, unit="it") as self.bar:
                for it in range(self.first_iteration, iterations + 1):
                    # a signal reaches the ranks at different steps, and one may come while they ask each other
                    stop = parallel.any_of(self.stop)
                    if (it % self.args["save_it"] == 0 or stop or it == iterations) and self.saved_at != it:
                        self.save(it)
                    if stop:
                        self.stop = True
                        raise KeyboardInterrupt(self._how_to_go_on())
                    self.step_from = parallel.sent
                    yield it
                    if it < iterations:
                        self.bar.update()
        finally:
            for name, handler in handlers.items():      # a second one, or that which another rank had first, may come
                signal.signal(name, signal.SIG_IGN if self.stop else handler)

    def _how_to_go_on(self):
        return f"Iteration {self.saved_at} is saved in {self.folder}: the same command with --resume goes on from there"

    def log(self, iteration, every=10, **values):
        """One line of metrics.jsonl each `every` iterations (tensors are read only then), of several ranks with the
        bytes that this one sent in the iteration. NaN stops the run."""
        if iteration % every:
            return
        values = {key: value.item() if torch.is_tensor(value) else float(value) for key, value in values.items()}
        if parallel.size() > 1:
            values["bytes_sent"] = parallel.sent - self.step_from
        for key, value in values.items():
            if not np.isfinite(value):
                raise ValueError(f"{key} is not finite at iteration {iteration} ({values}): " + self._way_back())
        self._record({"iteration": iteration, **values})
        if self.bar is not None:
            self.bar.set_postfix({key: f"{value:.4g}" for key, value in values.items()}, refresh=False)

    def count(self, name):
        """How many iterations have logged a value of that name."""
        self.metrics.flush()
        with open(self.folder / "metrics.jsonl", encoding="utf-8") as file:
            return sum(name in json.loads(line) for line in file)

    def _record(self, line):
        self.metrics.write(json.dumps(line, allow_nan=False) + "\n")
        if self.wandb:
            values = {k: v for k, v in line.items() if isinstance(v, (int, float)) and k != "iteration"}
            if "network" in line:       # of several networks each has its own curves
                values = {f"{line['network']}/{k}": v for k, v in values.items()}
            self.wandb.log(values, step=line["iteration"])

    # ---- evaluation and result ----

    def evaluate(self, iteration, networks, score, data, settings, synset=None, teacher=None, train_on=None, **header):
        """Scores a set, as it is stored, with num_eval networks of each name, and saves it in synset.safetensors when
        it is the one that will be reported. header: what else its file says.

        score(train_on, data, network, seed=, **settings) -> EvalResult. Each network's result is saved as it comes, so
        that a stopped evaluation goes on with the next network. The seeds are those of every iteration and every
        method: differences are paired. teacher: labels the set as it is stored, unless it learns its labels. train_on:
        what is scored where there is no set to save.
        """
        if self.saved_at != iteration:
            self.save(iteration)
        self.rate = settings["lr"]
        if synset is not None:
            self.saves_set = True
            train_on = as_stored(synset, self.args["store"], data.spec).to(self.device)
            if teacher and not synset.learn_labels:
                teacher.label(train_on)
                synset.labels.data.copy_(train_on.labels)
        done = {(r["iteration"], r["network"], r["number"]) for r in self.history}
        wanted = [(network, index) for network in networks for index in range(self.args["num_eval"])
                  if (iteration, network, index) not in done]
        self.evaluating = True
        for first in range(0, len(wanted), parallel.size()):        # each rank trains a network
            batch, scores = wanted[first:first + parallel.size()], None
            if parallel.rank() < len(batch):
                network, index = batch[parallel.rank()]
                scores = self.network_scores(index, train_on, data, network, score, settings,
                                             share=synset is not None and iteration == 0)
            done_at = time.monotonic()
            of_all = parallel.collect(scores)
            self.eval_seconds += time.monotonic() - done_at     # others may have taken longer
            for (network, index), found in zip(batch, of_all, strict=False):
                self.history.append({"iteration": iteration, "network": network, "number": index,
                                     **{key: found[key] for key in ("top1", "top5", "loss", "per_class")},
                                     "confusion": torch.tensor(found["confusion"], dtype=torch.int32)})
                if index == self.args["num_eval"] - 1:
                    self._record({"iteration": iteration, "network": network, **self.scores(iteration, network)})
            self.save(iteration)
        self.evaluating, self.step_from = False, parallel.sent
        reported = self.reported_iteration(networks)
        for entry in self.history:      # K * K numbers: kept of what is reported alone
            if (entry["iteration"], entry["network"]) != (reported, networks[0]):
                entry.pop("confusion", None)
        if synset is not None and iteration == reported and self.writes:
            save_synset(self.folder / "synset.safetensors", synset, data.spec, self.args["store"], method=self.method,
                        dataset=dataset_label(self.args["dataset"]), clips=self.clips[0], seed=self.seed,
                        protocol=self.args["protocol"],
                        iteration=iteration, recipe=self.recipe._asdict(), labelled=self.args["labels"],
                        teacher=self.args["teacher"], **self._comparison(), **header)
        scores = self.scores(iteration, networks[0])
        tqdm.write(f"iteration {iteration}: {networks[0]} top-1 {100 * scores['top1_mean']:.1f} +- "
                   f"{100 * scores['top1_std']:.1f} %, top-5 {100 * scores['top5_mean']:.1f} % "
                   f"({scores['num_networks']} networks)", file=sys.stderr)

    def network_scores(self, index, train_on, data, network, score, settings, share=True):
        """The scores of one network, as `evaluate` takes them. share: kept for all runs of this --save_path, as several
        may start from one and the same set."""
        began, seed, shared = time.monotonic(), derive_seed(self.seed, "evaluation", index), None
        if share:
            shared = self._shared_score(train_on, data, network, seed, settings)
        scores = _read_scores(shared, data.spec.num_classes)
        if scores:      # its time counts, whoever took it
            self.seconds += scores["seconds"]
            self.eval_seconds += scores["seconds"]
        else:
            result = score(train_on, data, network, seed=seed, **settings)
            scores = {"top1": result.top1, "top5": result.top5, "loss": result.loss,
                      "per_class": result.per_class.tolist(), "confusion": result.confusion.tolist(),
                      "seconds": time.monotonic() - began}
            if shared:
                with suppress(OSError):     # it is kept, or made again
                    shared.parent.mkdir(exist_ok=True)
                    with replacing(shared) as temporary:
                        temporary.write_text(json.dumps(with_sum(scores)) + "\n", encoding="utf-8")
        self.eval_seconds += time.monotonic() - began
        return scores

    def _shared_score(self, train_on, data, network, seed, settings):
        """The file of a score that runs of one --save_path share: named by all that the score depends on, the code
        included."""
        digest = hashlib.sha256()
        for name, value in sorted(train_on.state_dict().items()):
            digest.update(name.encode() + value.detach().cpu().numpy().tobytes())
        about = (type(train_on).__name__, train_on.arguments, data.test.content(), network, seed,
                 device_name(self.device), torch.__version__,
                 sorted((key, str(value)) for key, value in settings.items() if key != "device"))
        digest.update(f"{about}".encode())
        for file in (ROOT / "networks.py", ROOT / "utils.py", *sorted(Path(__file__).parent.glob("*.py"))):
            digest.update(file.read_bytes())
        return Path(self.args["save_path"]) / ".scores" / f"{digest.hexdigest()[:32]}.json"

    def scores(self, iteration, network):
        """Mean, standard deviation and 95 % interval (Student's t over networks) of the results at an iteration."""
        results = [r for r in self.history if (r["iteration"], r["network"]) == (iteration, network)]
        top1 = np.array([r["top1"] for r in results])
        n = len(results)
        std = float(top1.std(ddof=1)) if n > 1 else 0.0
        return {"top1_mean": float(top1.mean()), "top1_std": std,
                "top1_ci95": float(stdtrit(n - 1, 0.975) * std / n ** 0.5) if n > 1 else None,
                "top5_mean": float(np.mean([r["top5"] for r in results])),
                "loss_mean": float(np.mean([r["loss"] for r in results])), "num_networks": n,
                "per_class": np.mean([r["per_class"] for r in results], axis=0).tolist()}

    def reported_iteration(self, networks):
        """The last evaluated iteration, or as some protocols have it the best on the test split."""
        evaluated = self.evaluated(networks)
        if not self.report_best:
            return evaluated[-1]
        return max(evaluated, key=lambda it: self.scores(it, networks[0])["top1_mean"])

    def evaluated(self, networks):
        """The iterations that every network has scored num_eval times: one that was broken off does not count."""
        done = Counter(r["iteration"] for r in self.history)
        return sorted(it for it, count in done.items() if count >= len(networks) * self.args["num_eval"])

    def _about_labels(self):
        """What a result says of labels, and of how networks were trained on them."""
        used = recipe_flags(self.recipe._replace(lr=self.rate))
        del used["epoch_eval_train"]        # "epochs" from the beginning
        return {"labels": self.args.get("labels", "class"), "teacher": self.args.get("teacher"), **used,
                **self._comparison()}

    def _comparison(self):
        """In what a set was compared, and how."""
        return {name: self.args.get(name.removeprefix("dm_")) for name in ABOUT_LOSS}

    def finish(self, data, networks, **extra):
        """Writes the pictures and result.json, prints the RESULT line and closes the run. Returns the result, or None
        where another rank does."""
        sent = max(parallel.collect(parallel.sent - self.sent))
        if not self.writes:
            return None
        iteration, evaluated = self.reported_iteration(networks), self.evaluated(networks)
        dataset = self.args["dataset"]
        if dataset not in DATASETS and Path(dataset).is_dir():
            dataset = str(Path(dataset).resolve())
        result = {"method": self.method, "dataset": dataset, "network": networks[0],
                  "protocol": self.args["protocol"], "seed": self.seed, "iteration": iteration,
                  "epochs": self.recipe.epochs, "dsa": self.args["dsa_strategy"], **self._about_labels(),
                  "ranks": parallel.size(), "bytes_sent": sent,
                  "precision": self.precision, "bank": self.args.get("bank"), "store": self.args["store"],
                  **{flag: self.args[flag] for flag in ("frames", "im_size", "split", "classes", "holdout")},
                  "data": data_digest(data),
                  "split_file": self.args["split_file"] and Path(self.args["split_file"]).name,
                  **self.scores(iteration, networks[0])}
        if len(evaluated) > 1:
            start = self.scores(evaluated[0], networks[0])
            result |= {"top1_start_mean": start["top1_mean"], "top1_start_std": start["top1_std"],
                       "below_start": result["top1_mean"] < start["top1_mean"],
                       "is_start": iteration == evaluated[0]}      # none that was trained scored higher
        for network in networks[1:]:
            result |= {f"{key}_{network}": value for key, value in self.scores(iteration, network).items()
                       if key in ("top1_mean", "top1_std", "top5_mean")}
        path = self.folder / "synset.safetensors"
        if self.saves_set and not path.is_file():
            raise ValueError(f"{path}, the set of iteration {iteration}, was removed: make it again with --overwrite")
        if path.is_file():
            synset, header = load_synset(path)
            if header.get("syn_lr") is not None and PROTOCOLS[self.args["protocol"]].learned_rate:
                result["lr_net"] = header["syn_lr"]
            result["form"] = getattr(synset, "form", None)
            result |= {"storage_bytes": file_bytes(path), "synset": str(path), "set_sum": file_sum(path),
                       "store": header["store"]}
            largest = max(float(synset.state_dict()[name].abs().max()) for name in synset.pixels)
            if largest > 1000:      # each clip is standardised before a network sees it, which hides the size
                print(f"note: pixels of this set reach {largest:.3g}, where those of real clips stay below 3: its "
                      "learning rate is far too high", file=sys.stderr)
            rows = picture.preview_rows(fit(synset, data.spec), data)
            marked = getattr(synset, "key_frames", None)
            marked = None if marked is None else marked[::synset.num_slots]         # of the first clip of each class
            caption = results.caption(result | extra, synset.title)
            picture.contact_sheet(self.folder / "preview.png", rows, data.spec.mean, data.spec.std, marked=marked,
                                  frames=8 if marked is None else 16, caption=caption)
            picture.animate(self.folder / "preview.gif", rows, data.spec.mean, data.spec.std, caption=caption)
        with replacing(self.folder / "real.webp") as temporary:
            temporary.write_bytes(picture.moving(picture.real_clips(data), data.spec.mean, data.spec.std))
        if len(evaluated) > 1:
            title = f"{self.method} on {dataset_label(self.args['dataset'])}"
            picture.curve(self.folder / "curve.png", title=title, series={
                network: [(it, *(self.scores(it, network)[key] for key in ("top1_mean", "top1_std")))
                          for it in evaluated] for network in networks})
        result |= {"seconds": round(self.elapsed(), 1),
                   "distill_seconds": round(self.elapsed() - self.eval_seconds, 1),
                   "peak_memory_bytes": peak_memory(self.device), **extra}
        self._write_confusion(iteration, networks[0], data.spec.classes)
        result = with_sum(result)
        self._write_json("result.json", result)
        self.metrics.close()
        if self.wandb:
            if self.saves_set:
                import wandb
                self.wandb.log({"clips": wandb.Video(str(self.folder / "preview.gif"), format="gif")})
            self.wandb.summary.update({key: value for key, value in result.items() if key != "per_class"})
            self.wandb.finish()
        if result.get("below_start"):
            print(f"note: this set scores {100 * result['top1_mean']:.1f} %, below the "
                  f"{100 * result['top1_start_mean']:.1f} % that it started from: training it did not help",
                  file=sys.stderr)
        elif result.get("is_start"):
            print(f"note: no set that was trained scores above the start, so the result, {path} and its score of "
                  f"{100 * result['top1_mean']:.1f} %, is the start itself", file=sys.stderr)
        print("RESULT " + json.dumps(result), flush=True)
        return result

    def _write_confusion(self, iteration, network, classes):
        """confusion.json: how many test clips of each class (a row) the networks took for which, all added up. A run
        that was begun before these were counted has none."""
        counts = [r.get("confusion") for r in self.history if (r["iteration"], r["network"]) == (iteration, network)]
        if all(count is not None for count in counts):
            content = {"network": network, "classes": list(classes), "confusion": sum(counts).tolist()}
            with replacing(self.folder / "confusion.json") as temporary:
                temporary.write_text(json.dumps(with_sum(content)) + "\n", encoding="utf-8")


def data_digest(data):
    """Tells the clips of one result from those of another."""
    clips = [same_clips(split.identity()) for split in (data.train, data.test)]
    return hashlib.sha256(f"{clips}".encode()).hexdigest()[:16]


def _read_scores(file, num_classes):
    """What a file of scores holds; None where there is none, or none that is whole."""
    try:
        scores = json.loads(file.read_text(encoding="utf-8"))
        numbers = [scores[key] for key in ("top1", "top5", "loss", "seconds")] + scores["per_class"]
        whole = is_whole(scores) and len(scores["per_class"]) == len(scores["confusion"]) == num_classes
        return scores if whole and np.isfinite(numbers).all() else None
    except (AttributeError, OSError, ValueError, KeyError, TypeError):
        return None


def _commit():
    try:
        return subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True,
                              check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
