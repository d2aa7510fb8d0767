"""Takes a set to other programs, and clips of other programs into a set that is scored here.

    python export.py result/S2D-DM/NAME/synset.safetensors --to frames --out FOLDER
    python export.py --from FOLDER --dataset miniUCF101 --out other.safetensors
    python evaluate.py --synset other.safetensors --dataset miniUCF101

--to: frames (UCF101's layout, PNG, and split.csv), mp4 (a video for each clip, and labels.csv), npz (arrays), hf (a
folder for the library `datasets` of Hugging Face). With --dataset the test clips of the data set come too, in frames,
so that the folder can be a --dataset itself.
"""
import argparse
import sys
from pathlib import Path

import utils
from distill_utils import args as flags
from distill_utils.exchange import WAYS, export, read_clips, render_all, with_test
from distill_utils.storage import save_synset
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
    parser.add_argument("--store", type=flags.store, default="float32", help="with --from: as in all scripts")
    flags.add_data_args(parser, named=False)
    flags.add_values_arg(parser)
    args = parser.parse_args()
    if bool(args.synset) == bool(args.source) or bool(args.synset) != bool(args.to):
        parser.error("give either SET --to WAY, or --from CLIPS")
    spec = flags.spec_of(args) if args.dataset else None

    # a way in
    if args.source:
        if not spec:
            parser.error("--from needs --dataset, whose classes and size the clips have")
        if args.out.suffix != ".safetensors" or args.out.exists():
            parser.error(f"--out {args.out} must be a new file that ends in .safetensors")
        if spec.view == "single":
            raise ValueError(f"--dataset {args.dataset} gives single frames, and --from reads clips: give a data set "
                             "of clips")
        if not args.source.exists():
            raise ValueError(f"there is nothing at --from {args.source}")
        if args.source.suffix == ".pt":
            synset, about = load_published(args.source, spec, args.values), {}
        else:
            synset, about = read_clips(args.source, spec)
        save_synset(args.out, synset, spec, args.store, **{"method": "external", **about})
        print(f"{args.out}: {synset.num_slots} clips of each of {synset.num_classes} classes")
        return

    # a way out
    if not is_ours(args.synset):
        raise ValueError(f"{args.synset} is no .safetensors file: make a set of it with --from")
    synset, header = load_synset(args.synset)
    if spec:
        check_classes(args.synset, header, spec)
        synset = fit(synset, spec)
    rendered, beyond = render_all(synset, header)
    if beyond and args.to != "npz":
        print(f"note: {100 * beyond:.2g} % of the values are darker than black or brighter than white, which a picture "
              "cannot hold: they are clamped, and the clips score a little differently (npz holds them as they are)",
              file=sys.stderr)
    if spec and args.to == "frames":
        data = utils.get_dataset(**flags.data_settings(argparse.Namespace(**vars(args), holdout=None,
                                                                          protocol="standard")))
        rendered = with_test(rendered, data)
    export(args.out, args.to, rendered)
    print(f"{args.out}: {len(rendered.names)} clips of {synset.num_classes} classes")


if __name__ == "__main__":
    flags.cli(main)
