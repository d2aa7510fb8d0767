"""Takes a set to other programs, and clips of other programs into a set that is scored here.

    python export.py result/S2D-DM/NAME/synset.safetensors --to frames --out FOLDER
    python export.py --from FOLDER --dataset miniUCF101 --out other.safetensors
    python evaluate.py --synset other.safetensors --dataset miniUCF101

--to: frames (UCF101's layout, PNG, and split.csv), mp4 (a video for each clip, and labels.csv), npz (arrays), hf (a
folder for the library `datasets` of Hugging Face). With --dataset the test clips of the data set come too, in frames,
so that the folder can be a --dataset itself.
"""
import argparse
import os
import sys
from pathlib import Path

import utils
from distill_utils import args as flags
from distill_utils.exchange import WAYS, check_new, export, read_clips, real_clips, render_all, save_external
from distill_utils.synset import check_classes, fit, is_ours, load_published, load_synset


def main():
    # arguments
    parser = flags.Parser(__doc__)
    parser.add_argument("synset", nargs="?", metavar="SET", help="the synset.safetensors of a run")
    parser.add_argument("--to", choices=WAYS, help="what is written")
    parser.add_argument("--from", dest="source", type=Path, metavar="CLIPS", help="make a set of these clips: a folder "
                        "of this program's or of <class>/<clip>, a .npz, or a published .pt file")
    parser.add_argument("--out", type=Path, required=True, help="the folder that is written (with --from the file of "
                        "the set, which must end in .safetensors); it must not be there yet")
    parser.add_argument("--dataset", help="the data set that the set was made for; needed with --from")
    parser.add_argument("--store", type=flags.store, help="with --from: as in all scripts; float32 if not given")
    flags.add_data_args(parser, named=False)
    flags.add_published_args(parser.add_argument_group("published sets (.pt files), with --from"))
    args = parser.parse_args()
    if bool(args.synset) == bool(args.source) or bool(args.synset) != bool(args.to):
        parser.error("give either SET --to WAY, or --from CLIPS")
    of_others = {name: getattr(args, name) for name in ("store", "values", "dynamic", "hal", "vpc")}
    if args.synset and any(of_others.values()):
        parser.error(f"--{next(name for name, value in of_others.items() if value)} is of --from: leave it out")
    of_data = [name for name in ("frames", "im_size", "split", "split_file", "classes") if getattr(args, name)]
    if of_data and not args.dataset:
        parser.error(f"--{of_data[0]} is of a data set: give --dataset too, or leave it out")
    spec = flags.spec_of(args) if args.dataset else None

    # a way in
    if args.source:
        if not spec:
            parser.error("--from needs --dataset, whose classes and size the clips have")
        if args.out.suffix != ".safetensors" or os.path.lexists(args.out):
            parser.error(f"--out {args.out} must be a new file that ends in .safetensors")
        if not (args.source.is_dir() or args.source.is_file()):
            raise ValueError(f"there is no folder or file at --from {args.source}")
        if args.source.suffix == ".pt":
            flags.check_published_args(parser, args)
            synset, about = load_published(args.source, spec, args.values, args.dynamic, args.hal, args.vpc), {}
        elif spec.view == "single":
            raise ValueError(f"--dataset {args.dataset} gives single frames, and --from reads clips: give a data set "
                             "of clips")
        else:
            synset, about = read_clips(args.source, spec, args.values)
        save_external(args.out, synset, spec, args.store or "float32", args.source, about)
        print(f"{args.out}: {synset.num_slots} clips of each of {synset.num_classes} classes")
        return

    # a way out
    check_new(args.out)
    if not is_ours(args.synset):
        raise ValueError(f"{args.synset} is no .safetensors file: make a set of it with --from")
    synset, header = load_synset(args.synset)
    if spec:
        check_classes(args.synset, header, spec)
        synset = fit(synset, spec)
    rendered, beyond = render_all(synset, header, exact=args.to == "npz")
    if beyond and args.to != "npz":
        print(f"note: {100 * beyond:.2g} % of the values are darker than black or brighter than white, which a picture "
              "cannot hold: they are clamped, and the clips score differently (npz holds them as they are)",
              file=sys.stderr)
    if spec and args.to == "frames":
        data = utils.get_dataset(**flags.data_settings(argparse.Namespace(**vars(args), holdout=None,
                                                                          protocol="standard")))
        rendered = rendered._replace(test=real_clips(data))
    export(args.out, args.to, rendered)
    tests = f", and {len(rendered.test[1])} test clips" if rendered.test else ""
    print(f"{args.out}: {len(rendered.names)} clips of {synset.num_classes} classes{tests}")


if __name__ == "__main__":
    flags.cli(main)
