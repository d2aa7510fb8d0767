"""What scripts share around their method: arguments, and one `Run` with folder, seeds, log, checkpoint and result."""
import argparse
import ctypes
import hashlib
import json
import os
import resource
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from scipy.special import stdtrit
from tqdm import tqdm

from distill_utils import picture
from distill_utils.augment import STRATEGY
from distill_utils.clips import PLACES
from distill_utils.files import replacing, try_lock
from distill_utils.matching import UNROLLS
from distill_utils.synset import STORES, ImageSet, as_stored, load_synset, save_synset, storage_bytes

ROOT = Path(__file__).resolve().parent.parent
# arguments that may differ between a run and its continuation: they change where and how long, not what is computed
# (but for random networks, which another kind of device draws otherwise: of that a run is told)
FREE = {"resume", "overwrite", "device", "wandb", "name", "save_path", "data_path", "cache_path", "preload",
        "clips_on", "cuda_graphs", "num_workers", "save_it", "Iteration", "startIt", "eval_it", "buffer_path", "synset"}
PRECISIONS = ("auto", "bf16", "fp32")
# what a run leaves; its checkpoint is the first to go when it is overwritten
FILES = ("checkpoint.pt", "result.json", "synset.safetensors", "network.safetensors", "metrics.jsonl", "args.json",
         "preview.png", "preview.gif", "curve.png")


# ---- arguments ----------------------------------------------------------------------------------------------------

def positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number of at least 1")
    return value


def not_negative(text):
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return value


def rate(text):
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number of at least 0")
    return value


def above_zero(text):
    if rate(text) == 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return rate(text)


def add_run_args(parser):
    group = parser.add_argument_group("run")
    group.add_argument("--save_path", default="result", help="results go to <save_path>/<method>/<name>")
    group.add_argument("--name", help="name of the run; by default made of data set, network, clips per class and seed")
    group.add_argument("--seed", type=not_negative, default=0)
    group.add_argument("--resume", action="store_true", help="go on where this run was stopped, or start it")
    group.add_argument("--overwrite", action="store_true", help="delete the run of this name and start anew")
    group.add_argument("--save_it", type=positive, default=100, help="iterations between checkpoints")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    group.add_argument("--wandb", choices=("disabled", "offline", "online"), default="disabled")


def add_data_args(parser, named=True):
    group = parser.add_argument_group("data")
    if named:
        group.add_argument("--dataset", default="MotionDigits", help="a name of the table DATASETS, or a folder of "
                           "your own with a split.csv")
    group.add_argument("--data_path", default=str(ROOT / "distill_utils" / "data"), help="folder of the data sets")
    group.add_argument("--cache_path", help="folder of the decoded frames; <data_path>/cache if not given")
    group.add_argument("--frames", type=positive, help="frames of a clip, if other than the data set's")
    group.add_argument("--im_size", type=positive, help="pixels, if other than the data set's")
    group.add_argument("--split", type=int, choices=(1, 2, 3), help="official split of UCF101, miniUCF101 and HMDB51; "
                       "1 if not given")
    # None and not False: runs and experts from before this flag go on
    group.add_argument("--skip_missing", action="store_true", default=None, help="train without the clips that are "
                       "not there, or not whole, and say how many")
    group.add_argument("--preload", action="store_true", help="hold the decoded frames in memory (uint8)")
    group.add_argument("--clips_on", choices=PLACES, default="auto", help="where a GPU finds the decoded frames: on "
                       "the device itself (uint8) or on the host; auto: on it where those of a split take at most a "
                       "third of its free memory")
    group.add_argument("--num_workers", type=not_negative, default=0, help="threads that decode; 0: one a core")


def add_eval_args(parser, model="ConvNet3D"):
    group = parser.add_argument_group("evaluation")
    group.add_argument("--model", default=model, help="the network, a name of the table NETWORKS")
    group.add_argument("--eval_mode", default="SS", help="networks that score the set: SS and S the same network (S: "
                       "without batch norm), M several architectures, W D A P N B the ablations of DC")
    group.add_argument("--num_eval", type=positive, default=5, help="networks an evaluation")
    group.add_argument("--epoch_eval_train", type=positive, default=500, help="epochs on the set")
    group.add_argument("--lr_net", type=rate, default=0.01, help="learning rate of the network")
    group.add_argument("--batch_train", type=positive, default=256, help="batch size of its training")
    group.add_argument("--protocol", choices=("standard", "paper"), default="standard",
                       help="see Evaluation in the README")
    add_precision_arg(group)
    group.add_argument("--cuda_graphs", action="store_true", help="networks are trained by CUDA graphs, for sets and "
                       "networks so small that a GPU waits for its launches (not yet run on a GPU)")
    group.add_argument("--store", choices=tuple(STORES), default="float32", help="how the set is stored, and scored")
    add_dsa_args(parser)


def add_precision_arg(group):
    group.add_argument("--precision", choices=PRECISIONS, default="auto", help="of networks while they are trained and "
                       "tested, and of real clips' features in DM; auto: bf16 where the device is fast in it. What is "
                       "differentiated twice, and all weights, are float32 always; on CUDA its convolutions are "
                       "TF32, but for fp32")


def add_dsa_args(parser):
    group = parser.add_argument_group("augmentation (DSA) while matching and while networks are trained")
    group.add_argument("--dsa_strategy", default="none", help=f"none, or parts of {STRATEGY} joined by _")
    group.add_argument("--dsa_param", default="", help="such as rotate=10,cutout=0.25, where not DSA's own")


def add_distill_args(parser, iterations, momentum):
    group = parser.add_argument_group("distillation")
    group.add_argument("--Iteration", type=positive, default=iterations)
    group.add_argument("--eval_it", type=positive, default=500, help="iterations between evaluations")
    group.add_argument("--startIt", type=not_negative, default=0, help="first evaluation after the one at the start")
    group.add_argument("--optim", choices=("sgd", "adam"), help="optimizer of the set; by default SGD, as published, "
                       "where a learning rate of the set is given, and otherwise Adam with rates that suit it")
    group.add_argument("--momentum", type=rate, default=momentum, help="of SGD")


def add_real_args(parser, chunk=True):
    group = parser.add_argument_group("real samples")
    group.add_argument("--batch_real", type=positive, default=64, help="real samples a class and iteration")
    if chunk:
        group.add_argument("--bank", type=positive, metavar="P", help="draw the networks from P seeded ones, whose "
                           "class means over all training clips (centre clips, both flips) are computed once, for "
                           "all runs on this kind of device; if not given, a fresh network and --batch_real clips each "
                           "iteration, as published. Some hundred: sets fit fewer, and lose accuracy")
        group.add_argument("--chunk", type=positive, default=640, help="real samples in memory as floats at a time; "
                           "with a bank, synthetic ones")


def script_parser(description, iterations=None, momentum=0.5, model="ConvNet3D"):
    """The arguments that all scripts share; with `iterations` also those of a distillation loop."""
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False,
                                     formatter_class=Help)
    add_run_args(parser)
    add_data_args(parser)
    add_eval_args(parser, model)
    if iterations:
        add_distill_args(parser, iterations, momentum)
    return parser


def add_s2d_args(parser):
    group = parser.add_argument_group("static + dynamic set")
    group.add_argument("--vpc", type=positive, default=1, help="synthetic clips a class")
    group.add_argument("--spc", type=positive, default=2, help="static images a class, a multiple of vpc")
    group.add_argument("--dpc", type=positive, default=2, help="dynamic memories a class, a multiple of vpc")
    group.add_argument("--n_hal", type=positive, default=1, help="hallucinators, drawn at random for each clip")
    group.add_argument("--hal_mode", choices=("concat", "add"), default="concat")
    group.add_argument("--hal_init", choices=("published", "identity"), default="identity",
                       help="published: torch's default; identity: the image passes, the memory is added to it")
    group.add_argument("--dynamic_init", choices=("noise", "real"), default="real",
                       help="noise: as published; real: brightness of a real clip minus that of the static image")
    group.add_argument("--path_static", help="static memory: the synset.safetensors of distill_DC.py, or a .pt file; "
                       "without it, frames of real clips")
    group.add_argument("--no_train_static", action="store_true", help="keep the static images as they are")
    add_rates(group, lr_static="the static images", lr_dynamic="the dynamic memories", lr_hal="the hallucinators")


# learning rates of the tensors of a set. SGD: as published for miniUCF101 at one clip a class (S2D, arXiv 2312.00362;
# DC, arXiv 2006.05929); they depend on network and data. Adam's do so much less: measured on MotionDigits.
RATES = {"sgd": {"lr_img": 30.0, "lr_static": 100.0, "lr_dynamic": 1e-4, "lr_hal": 1e-5},
         "adam": {"lr_img": 0.02, "lr_static": 0.02, "lr_dynamic": 0.02, "lr_hal": 0.005}}


def add_rates(group, **tensors):
    for name, what in tensors.items():
        group.add_argument(f"--{name}", type=rate, help=f"learning rate of {what}; by default {RATES['sgd'][name]:g} "
                           f"for SGD and {RATES['adam'][name]:g} for Adam")


def set_rates(args, *names, sgd=None, adam=None, frozen=()):
    """(optimizer, {name: learning rate}) of a set; `sgd`, `adam`: other rates than those of RATES. ValueError if
    nothing would be trained."""
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    kind = args.optim or ("sgd" if given else "adam")
    rates = RATES[kind] | ((sgd if kind == "sgd" else adam) or {}) | given | dict.fromkeys(frozen, 0.0)
    rates = {name: rates[name] for name in names}
    if not any(rates.values()):
        raise ValueError("every learning rate of the set is 0, so nothing would be trained: give one above 0")
    return kind, rates


def add_trajectory_args(parser):
    """Of both sides, experts and students: which part of a trajectory is matched."""
    group = parser.add_argument_group("trajectories")
    group.add_argument("--buffer_path", default="buffers",
                       help="folder of the experts, or one with <dataset>/<model> in it that is")
    group.add_argument("--max_start_epoch", type=positive, default=10, help="students start below this epoch")
    group.add_argument("--expert_epochs", type=positive, default=1, help="from a student's start to its target")
    group.add_argument("--lr_teacher", type=rate, default=0.01, help="learning rate of experts, and the synthetic one "
                       "at its start")
    group.add_argument("--dry_run", action="store_true", help="print sizes in memory and on disk, and end")
    return group


def add_mtt_args(parser):
    group = add_trajectory_args(parser)
    group.add_argument("--syn_steps", type=positive, default=10, help="SGD steps of a student")
    group.add_argument("--batch_syn", type=positive, help="synthetic clips a step; by default all")
    group.add_argument("--experts_per_step", type=positive, default=1, help="their gradients are averaged")
    group.add_argument("--train_lr", action="store_true", help="learn the synthetic learning rate")
    group.add_argument("--lr_lr", type=rate, help="learning rate of the synthetic learning rate; without a value "
                       "1e-5, and given alone it means --train_lr")
    group.add_argument("--min_lr", type=rate, default=1e-3, help="it does not fall below this")
    group.add_argument("--grad_clip", type=above_zero, help="longest gradient of the set; longer ones are shortened")
    group.add_argument("--unroll", choices=UNROLLS, default="adjoint",
                       help="both exact; full keeps the graphs of all steps in memory")


class Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    pass


def eval_iterations(args):
    """The start, every eval_it from startIt (or eval_it) on, and the end."""
    first = args.startIt or args.eval_it
    return {0, *range(first, args.Iteration + 1, args.eval_it), args.Iteration}


def keep_memory():
    """Lets the C library keep freed memory for the next tensor. By default it hands large pieces back to the system and
    gets them again page by page, a tenth of the time that small networks take on a CPU."""
    with suppress(OSError, AttributeError, TypeError):      # where the C library is another than glibc
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-3, 32 << 20)          # M_MMAP_THRESHOLD, at its highest
        libc.mallopt(-1, (1 << 31) - 1)     # M_TRIM_THRESHOLD


def cli(main):
    """Runs a script: bad input ends in one line that says what to do; Ctrl-C in 130. S2D_DEBUG=1 shows tracebacks."""
    keep_memory()
    try:
        main()
    except KeyboardInterrupt as stop:
        print(f"stopped. {stop}", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError, torch.OutOfMemoryError, MemoryError) as error:
        if os.environ.get("S2D_DEBUG"):
            raise
        if not isinstance(error, (ValueError, OSError)):
            error = (f"out of memory ({error}): lower --chunk, --batch_train or --batch_syn, or, on a GPU, give "
                     "--clips_on host, and go on with --resume")
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


# ---- seeds --------------------------------------------------------------------------------------------------------

def derive_seed(*purpose):
    """A seed for each purpose, such as (seed, iteration, "real"): what one draws never shifts what another draws."""
    digest = hashlib.sha256("/".join(map(str, purpose)).encode()).digest()
    return int.from_bytes(digest[:7], "big")


def generator(*purpose):
    return torch.Generator().manual_seed(derive_seed(*purpose))


@contextmanager
def seeded(seed, device="cpu"):
    """For code that draws from torch's global state (initialisation, dropout): seeds it, and puts it back after."""
    devices = range(torch.cuda.device_count()) if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def progress(*args, **kwargs):
    """A tqdm bar: quick on a terminal, two lines a minute in a log file."""
    return tqdm(*args, dynamic_ncols=True, mininterval=0.2 if sys.stderr.isatty() else 30, **kwargs)


def resolve_precision(name, device):
    """The torch dtype that --precision asks for. auto: bfloat16 where the device multiplies in it."""
    fast = (torch.cuda.get_device_capability(device) >= (8, 0) if device.type == "cuda" else
            torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return torch.bfloat16 if name == "bf16" or (name == "auto" and fast) else torch.float32


def precision_name(name, device):
    """"bf16" or "fp32": what --precision comes to on a device, as runs and experts remember it."""
    return "bf16" if resolve_precision(name, device) == torch.bfloat16 else "fp32"


def set_kernels(precision, device):
    """For the whole process: kernels that give the same bytes again, and on CUDA convolutions of float32 in TF32,
    unless the precision is "fp32"; and a device with a number is the current one, on which CUDA graphs are recorded."""
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    torch.backends.cudnn.allow_tf32 = precision != "fp32"


def resolve_device(name):
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"unknown --device {name!r}: give auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"--device {name}: torch sees {torch.cuda.device_count()} CUDA devices: give --device cpu")
    if device.type not in ("cpu", "cuda", "meta"):      # meta: what the tests see waits on
        raise ValueError(f"--device {name} is not one of these programs': give auto, cpu, cuda or cuda:N")
    return device


def device_name(device):
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


# ---- run ----------------------------------------------------------------------------------------------------------

class Run:
    """One run of a script: `<save_path>/<method>/<name>/` and everything that is written there.

    A folder that already holds a run (a checkpoint) is refused unless `--resume` or `--overwrite` is given, and one
    that another process is working on in any case. room: name of the folder in place of the method's. inputs: digests
    of files that the run reads, by the flag that names them: it is resumed with the same only.
    """

    def __init__(self, args, method, name, room=None, inputs=None):
        self.args, self.method = vars(args), method
        name = args.name or name.replace(args.dataset, Path(args.dataset).name)     # the data set may be a folder
        self.folder = Path(args.save_path) / (room or method) / name
        self.device = resolve_device(args.device)
        self.precision = precision_name(args.precision, self.device)
        set_kernels(self.precision, self.device)
        self.seed, self.began = args.seed, time.time()
        self.history, self.parts, self.start = [], {}, 0
        self.seconds, self.eval_seconds = 0.0, 0.0          # of earlier sittings of the same run
        self.saved_at, self.stop, self.evaluating, self.bar = None, False, False, None
        self.inputs = inputs or {}
        self._open()

    def _open(self):
        """Nothing is written or removed yet but the lock: input that proves bad leaves an earlier run as it was."""
        if self.args["overwrite"] and self.args["resume"]:
            raise ValueError("--overwrite and --resume contradict each other: give one of them")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lock = try_lock(self.folder / ".lock")     # held until the process ends
        if self.lock is None:
            raise ValueError(f"another process is working on {self.folder}: wait for it, or choose another --name")
        begun = (self.folder / "checkpoint.pt").is_file()
        if begun and not self.args["resume"] and not self.args["overwrite"]:
            raise ValueError(f"{self.folder} already holds a run: go on with --resume, start anew with --overwrite, or "
                             "choose another --name")
        self.checkpoint, self.tracker = None, secrets.token_hex(8)
        if begun and self.args["resume"]:
            try:
                self.checkpoint = torch.load(self.folder / "checkpoint.pt", map_location="cpu", weights_only=True)
                self.tracker, then = self.checkpoint["tracker"], self.checkpoint["args"]
            except Exception as error:      # whatever the unpickler meets in a file that is none of ours
                raise ValueError(f"{self.folder}/checkpoint.pt cannot be read ({error}): remove it to start anew, or "
                                 "choose another --name") from error
            self._check_same_experiment(then)
        self.wandb = None
        if self.args["wandb"] != "disabled":
            try:
                import wandb
                self.wandb = wandb.init(mode=self.args["wandb"], project="video-distillation", config=self.args,
                                        name=f"{self.method}-{self.folder.name}", dir=self.folder, id=self.tracker,
                                        resume="allow")
            except Exception as error:      # not installed, no key, no network: whatever it says of it
                raise ValueError(f"--wandb {self.args['wandb']} does not start ({error}): log in with `wandb login`, "
                                 "or give --wandb offline or disabled") from error

    def _check_same_experiment(self, then):
        now, then = self._identity(), {"precision": "fp32", **then}     # all there was before the flag
        for key in sorted(now.keys() | then.keys()):
            if now.get(key) != then.get(key):
                raise ValueError(f"{self.folder}/checkpoint.pt is of another experiment: --{key} was {then.get(key)!r} "
                                 f"and is now {now.get(key)!r}: give the same, or choose another --name")

    def _identity(self):
        return {key: value for key, value in json.loads(json.dumps(self.args)).items() if key not in FREE} | {
            "precision": self.precision, **{f"{flag} (its content)": digest for flag, digest in self.inputs.items()}}

    def _write_json(self, name, content):
        with replacing(self.folder / name) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    def derive(self, *purpose):
        return derive_seed(self.seed, *purpose)

    def generator(self, *purpose):
        return generator(self.seed, *purpose)

    def seeded(self, *purpose):
        return seeded(self.derive(*purpose), self.device)

    def resume(self, **parts):
        """Remembers what a checkpoint holds (modules, optimizers: name -> object with a state_dict) and, when this run
        goes on from one, loads them. Scripts call it once all input is read: from here on the folder is this run's."""
        self.parts = {name: part for name, part in parts.items() if part is not None}
        stale = list(self.folder.glob(".*.tmp-*"))      # of a process that was killed: we hold the lock
        if not self.checkpoint:     # of an overwritten run, or of one that ended before its first checkpoint
            stale = [*(self.folder / name for name in FILES), *stale]
        for file in stale:
            file.unlink(missing_ok=True)
        self._write_json("args.json", {**self.args, "method": self.method, "device": str(self.device),
                                       "commit": _commit(), "python": sys.version.split()[0],
                                       "versions": {"torch": torch.__version__, "numpy": np.__version__}})
        self.metrics = open(self.folder / "metrics.jsonl", "a", encoding="utf-8")   # noqa: SIM115 (closed by finish)
        self.metrics.truncate(self.checkpoint["metrics_bytes"] if self.checkpoint else 0)
        if self.checkpoint:
            for name, part in self.parts.items():
                part.load_state_dict(self.checkpoint["parts"][name])
            self.start, self.history = self.checkpoint["iteration"], self.checkpoint["history"]
            self.seconds, self.eval_seconds = self.checkpoint["seconds"], self.checkpoint["eval_seconds"]
            self.saved_at = self.start
            print(f"going on from iteration {self.start} of {self.folder}", file=sys.stderr)
            then, now = self.checkpoint.get("device"), device_name(self.device)
            if then not in (None, now):
                print(f"note: this run was saved on {then} and goes on on {now}: random networks are drawn on the "
                      "device, so it will not end with the same set", file=sys.stderr)
            self.checkpoint = None

    def save(self, iteration):
        """Writes the checkpoint: everything needed to go on from the state after `iteration` steps."""
        parts = {name: part.state_dict() for name, part in self.parts.items()}
        bad = next((f"{name}.{key}" for name, state in parts.items() for key, value in state.items()
                    if torch.is_tensor(value) and not torch.isfinite(value).all()), None)
        if bad:
            raise ValueError(f"{bad} is not finite after iteration {iteration}: " + self._way_back())
        self.metrics.flush()
        with replacing(self.folder / "checkpoint.pt") as temporary:
            torch.save({"iteration": iteration, "parts": parts, "history": self.history, "args": self._identity(),
                        "device": device_name(self.device),
                        "tracker": self.tracker,
                        "seconds": self.elapsed(), "eval_seconds": self.eval_seconds,
                        "metrics_bytes": os.path.getsize(self.folder / "metrics.jsonl")}, temporary)
        self.saved_at = iteration

    def _way_back(self):
        kept = f"the last good checkpoint is of iteration {self.saved_at}" if self.saved_at else "no step was saved"
        rates = sorted({group["lr"] for part in self.parts.values() if isinstance(part, torch.optim.Optimizer)
                        for group in part.param_groups if group["lr"]})
        student = f" (and --lr_teacher {self.args['lr_teacher']})" if "lr_teacher" in self.args else ""
        return f"{kept}; the set is trained at the rate {rates}: lower it{student}, under another --name or --overwrite"

    def elapsed(self):
        return self.seconds + time.time() - self.began

    def loop(self, iterations):
        """Yields the iterations from the resumed one up to and including `iterations`, where only evaluation is left.

        Saves a checkpoint every --save_it iterations. Ctrl-C or SIGTERM lets the iteration end, saves and stops.
        """
        def ask_to_stop(number, frame):
            if self.stop or self.evaluating:    # an evaluation changes nothing: its checkpoint is already written
                raise KeyboardInterrupt(self._how_to_go_on())
            self.stop = True

        handlers = {number: signal.signal(number, ask_to_stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            with progress(total=iterations, initial=self.start, desc=self.method, unit="it") as self.bar:
                for it in range(self.start, iterations + 1):
                    if (it % self.args["save_it"] == 0 or self.stop or it == iterations) and self.saved_at != it:
                        self.save(it)
                    if self.stop:
                        raise KeyboardInterrupt(self._how_to_go_on())
                    yield it
                    if it < iterations:
                        self.bar.update()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _how_to_go_on(self):
        return f"Iteration {self.saved_at} is saved in {self.folder}: the same command with --resume goes on from there"

    def log(self, iteration, every=10, **values):
        """One line of metrics.jsonl each `every` iterations (tensors are read only then). NaN stops the run."""
        if iteration % every:
            return
        values = {key: value.item() if torch.is_tensor(value) else float(value) for key, value in values.items()}
        for key, value in values.items():
            if not np.isfinite(value):
                raise ValueError(f"{key} is not finite at iteration {iteration} ({values}): " + self._way_back())
        self._record({"iteration": iteration, **values})
        if self.bar is not None:
            self.bar.set_postfix({key: f"{value:.4g}" for key, value in values.items()}, refresh=False)

    def _record(self, line):
        self.metrics.write(json.dumps(line) + "\n")
        if self.wandb:
            values = {k: v for k, v in line.items() if isinstance(v, (int, float)) and k != "iteration"}
            if "network" in line:       # of several networks each has its own curves
                values = {f"{line['network']}/{k}": v for k, v in values.items()}
            self.wandb.log(values, step=line["iteration"])

    # ---- evaluation and result ----

    def evaluate(self, iteration, spec, networks, score, synset=None, **header):
        """Scores a set, as it is stored, with num_eval networks of each name: `score(stored, network=, seed=)` gives an
        EvalResult. Keeps the set in synset.safetensors when it is the one that will be reported.

        Each network's result is saved as it comes, so that a stopped evaluation goes on with the next network. The
        seeds are those of every iteration and every method: differences are paired. Without a set, `score` gets None.
        """
        if self.saved_at != iteration:
            self.save(iteration)
        stored = as_stored(synset, self.args["store"], spec).to(self.device) if synset is not None else None
        done = {(r["iteration"], r["network"], r["number"]) for r in self.history}
        self.evaluating = True
        for network in networks:
            for number in range(self.args["num_eval"]):
                if (iteration, network, number) in done:
                    continue
                began = time.time()
                result = score(stored, network=network, seed=derive_seed(self.seed, "evaluation", number))
                self.history.append({"iteration": iteration, "network": network, "number": number, "top1": result.top1,
                                     "top5": result.top5, "loss": result.loss, "per_class": result.per_class.tolist()})
                self.eval_seconds += time.time() - began
                if number == self.args["num_eval"] - 1:
                    self._record({"iteration": iteration, "network": network, **self.scores(iteration, network)})
                self.save(iteration)
        self.evaluating = False
        if synset is not None and iteration == self.reported_iteration(networks):
            save_synset(self.folder / "synset.safetensors", synset, spec, self.args["store"], method=self.method,
                        dataset=self.args["dataset"], seed=self.seed, protocol=self.args["protocol"],
                        iteration=iteration, **header)
        scores = self.scores(iteration, networks[0])
        tqdm.write(f"iteration {iteration}: {networks[0]} top-1 {100 * scores['top1_mean']:.1f} +- "
                   f"{100 * scores['top1_std']:.1f} %, top-5 {100 * scores['top5_mean']:.1f} % "
                   f"({scores['num_networks']} networks)", file=sys.stderr)

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
        """The last evaluated iteration, or with --protocol paper the best on the test split, as published."""
        evaluated = self.evaluated(networks)
        if self.args["protocol"] != "paper":
            return evaluated[-1]
        return max(evaluated, key=lambda it: self.scores(it, networks[0])["top1_mean"])

    def evaluated(self, networks):
        """The iterations that every network has scored num_eval times: one that was broken off does not count."""
        done = Counter(r["iteration"] for r in self.history)
        return sorted(it for it, count in done.items() if count >= len(networks) * self.args["num_eval"])

    def finish(self, data, networks, **extra):
        """Writes the pictures and result.json, prints the RESULT line and closes the run. Returns the result."""
        iteration, evaluated = self.reported_iteration(networks), self.evaluated(networks)
        result = {"method": self.method, "dataset": self.args["dataset"], "network": networks[0],
                  "protocol": self.args["protocol"], "seed": self.seed, "iteration": iteration,
                  "epochs": self.args["epoch_eval_train"], "dsa": self.args["dsa_strategy"],
                  "precision": self.precision, "bank": self.args.get("bank"),
                  **self.scores(iteration, networks[0])}
        if len(evaluated) > 1:
            start = self.scores(evaluated[0], networks[0])
            result |= {"top1_start_mean": start["top1_mean"], "top1_start_std": start["top1_std"]}
        for network in networks[1:]:
            result |= {f"{key}_{network}": value for key, value in self.scores(iteration, network).items()
                       if key in ("top1_mean", "top1_std", "top5_mean")}
        path = self.folder / "synset.safetensors"
        if path.is_file():
            synset, header = load_synset(path)
            result |= {"storage_bytes": storage_bytes(synset, header["store"], data.spec), "synset": str(path)}
            rows = preview_rows(synset, data)
            picture.contact_sheet(self.folder / "preview.png", rows, data.spec.mean, data.spec.std)
            picture.animate(self.folder / "preview.gif", rows, data.spec.mean, data.spec.std)
        if len(evaluated) > 1:
            picture.curve(self.folder / "curve.png", title=f"{self.method} on {self.args['dataset']}", series={
                network: [(it, *(self.scores(it, network)[key] for key in ("top1_mean", "top1_std")))
                          for it in evaluated] for network in networks})
        result |= {"seconds": round(self.elapsed(), 1),
                   "distill_seconds": round(self.elapsed() - self.eval_seconds, 1),
                   "peak_memory_bytes": _peak_memory(self.device), **extra}
        self._write_json("result.json", result)
        self.metrics.close()
        if self.wandb:
            self.wandb.summary.update({key: value for key, value in result.items() if key != "per_class"})
            self.wandb.finish()
        print("RESULT " + json.dumps(result), flush=True)
        return result


def preview_rows(synset, data):
    """(class name, synthetic clip, real clip) of each class: its first synthetic beside its first training clip."""
    classes = torch.arange(data.spec.num_classes)
    if isinstance(synset, ImageSet) and data.spec.view != "single":
        synset = synset.as_clips(data.spec.frames)
    with torch.no_grad():
        synthetic, _ = synset.render(classes, torch.zeros_like(classes))
    first = [int((data.train.labels == k).nonzero()[0]) for k in classes]
    real = data.train.get(first)
    if synthetic.dim() == 4:
        synthetic, real = synthetic[:, None], real[:, None]
    return list(zip(data.spec.classes, synthetic, real, strict=True))


def _commit():
    try:
        return subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True,
                              check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _peak_memory(device):
    """Peak bytes: on the device for CUDA, of the process otherwise."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
