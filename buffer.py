"""Experts for MTT: networks trained on the real clips, with snapshots of their weights. Cazenavette et al., arXiv
2203.11932.

    python buffer.py --dataset miniUCF101 --num_experts 30 --train_epochs 50 --lr_teacher 0.01

One file an expert in <buffer_path>/<dataset>/<model>. Interrupt it and run it again: it goes on with the next missing
expert. Several processes can fill one folder at once.
"""
import json
import sys

import torch
from tqdm import tqdm

import utils
from distill_utils import args as flags
from distill_utils import estimate
from distill_utils.dataset import dataset_label
from distill_utils.device import precision_name, resolve_device, resolve_precision, set_kernels
from distill_utils.progress import progress
from distill_utils.seeds import derive_seed, make_generator, seeded
from distill_utils.trajectories import (
    DTYPES,
    KEEP,
    check_settings,
    epochs_to_keep,
    expert_folder,
    missing_experts,
    parameters,
    save_expert,
    snapshot,
)


def main():
    # arguments
    parser = flags.Parser(__doc__)
    flags.add_data_args(parser)
    group = flags.add_trajectory_args(parser)
    flags.add_buffer_arg(group)
    group.add_argument("--keep_epochs", choices=KEEP, default="needed", help="needed: the snapshots that "
                       "--max_start_epoch and --expert_epochs can reach; all: those of --train_epochs")
    group.add_argument("--expert_dtype", choices=tuple(DTYPES), default="float32", help="number format of the "
                       "snapshots")
    flags.may_change(group.add_argument("--resume", action="store_true", help="ignored: the same command always makes "
                                        "the experts that are missing"))
    flags.may_change(group.add_argument("--save_interval", help="ignored: other programs save so many experts in a "
                                  "file, and here each has a file of its own"))
    group = parser.add_argument_group("experts")
    flags.add_model_arg(group)
    flags.may_change(group.add_argument("--num_experts", type=flags.positive, default=30,
                                        help="how many there shall be"))
    group.add_argument("--train_epochs", type=flags.positive, default=50, help="epochs of their training")
    group.add_argument("--batch_train", type=flags.positive, default=256, help="batch size of their training")
    group.add_argument("--mom", type=flags.rate, default=0.0, help="momentum")
    group.add_argument("--l2", type=flags.rate, default=0.0, help="weight decay")
    group.add_argument("--decay", action="store_true", help="cut the rate tenfold after half of --train_epochs "
                       "or, with --protocol paper, two epochs later, as published")
    group.add_argument("--seed", type=flags.not_negative, default=0, help="all random numbers follow from it")
    flags.add_protocol_args(group)
    flags.add_device_arg(group)
    flags.add_dsa_args(parser)
    args = parser.parse_args()
    spec = flags.spec_of(args)
    utils.check_network(args.model, spec, args.dataset)
    rules, dsa, device = utils.PROTOCOLS[args.protocol], flags.dsa_of(args), resolve_device(args.device)
    dtype = resolve_precision(args.precision, device)
    set_kernels(precision_name(args.precision, device), device)
    saved_epochs = epochs_to_keep(args.train_epochs, args.max_start_epoch, args.expert_epochs, keep=args.keep_epochs)
    network = utils.get_network(args.model, spec, "meta")
    sizes = [value.numel() for value in parameters(network).values()]
    element = torch.empty((), dtype=DTYPES[args.expert_dtype]).element_size()
    folder = expert_folder(args.buffer_path, flags.data_label(args), args.model)
    plan = {"experts": args.num_experts, "folder": str(folder), "parameters": sum(sizes), "epochs": saved_epochs[-1],
            "snapshots": len(saved_epochs), "buffer_bytes": args.num_experts * len(saved_epochs) * sum(sizes) * element}
    if args.dry_run:
        if spec.clips and spec.fold in spec.clips:      # where the number of training clips is known beforehand
            clips, _ = spec.clips[spec.fold]
            epoch = estimate.training_operations(network, spec, clips)
            plan["operations"] = args.num_experts * saved_epochs[-1] * epoch
        print("RESULT " + json.dumps(plan))
        return
    settings = {key: value for key, value in vars(args).items() if key not in parser.may_change | {"dry_run"}}
    settings |= {"dataset": dataset_label(args.dataset), "frames": spec.frames, "im_size": spec.size,
                 "precision": precision_name(args.precision, device),
                 **{flag: value for flag, value in flags.data_identity(args).items() if value}}

    # data
    data = utils.get_dataset(**flags.data_settings(args))
    settings["clips"] = data.train.identity()
    check_settings(folder, settings)

    # experts: all epochs after the last snapshot would change nothing in the file, so they are not trained
    for index in missing_experts(folder, args.num_experts):
        generator, train_top1, test_top1 = make_generator(args.seed, "expert", index), [], []
        with seeded(derive_seed(args.seed, "expert", index), device):      # weights, then dropout
            network = utils.get_network(args.model, spec, device, dist=True)
            optimizer = torch.optim.SGD(network.parameters(), lr=args.lr_teacher, momentum=args.mom,
                                        weight_decay=args.l2)
            step = utils.make_step(network, optimizer, dtype)
            snapshots = {0: snapshot(network)}
            with progress(range(1, saved_epochs[-1] + 1), desc=f"expert {index}", unit="epoch", leave=False) as epochs:
                for epoch in epochs:
                    batches = utils.train_batches(data.train, args.batch_train, generator, device,
                                                  rules.evaluation, dsa)
                    train_top1.append(float(utils.train_epoch(network, batches, step)))
                    test = utils.evaluate(network, data.test, args.batch_train, args.protocol, device, args.seed,
                                          passes=1, dtype=dtype)
                    test_top1.append(test.top1)
                    epochs.set_postfix(train=f"{train_top1[-1]:.3f}", test=f"{test.top1:.3f}", refresh=False)
                    if epoch in saved_epochs:
                        snapshots[epoch] = snapshot(network)
                    if args.decay and epoch - 1 == rules.cut_after(args.train_epochs):
                        optimizer.param_groups[0]["lr"] *= 0.1
        save_expert(folder, index, network, snapshots, settings, args.expert_dtype, train_top1=train_top1,
                    test_top1=test_top1)
        tqdm.write(f"expert {index}: epoch {saved_epochs[-1]}, top-1 {100 * train_top1[-1]:.1f} % train, "
                   f"{100 * test_top1[-1]:.1f} % test", file=sys.stderr)
    print("RESULT " + json.dumps(plan), flush=True)


if __name__ == "__main__":
    flags.cli(main)
