"""Dynamic stage by trajectory matching (MTT+S2D): static images + a learnable dynamic memory. arXiv 2312.00362.

    python buffer.py --dataset miniUCF101
    python distill_s2d_MTT.py --dataset miniUCF101 --vpc 1 --spc 2 --dpc 2 --path_static static.pt --no_train_static \\
        --lr_dynamic 1e4 --lr_hal 1e-3 --train_lr --hal_init published --dynamic_init noise
"""
from functools import partial

import distill_MTT
from distill_utils.args import cli

main = partial(distill_MTT.main, __doc__, "s2d", iterations=10000, momentum=0.95, lr_momentum=0.9)

if __name__ == "__main__":
    cli(main)
