"""Dynamic stage by distribution matching (DM+S2D): static images + a learnable dynamic memory. arXiv 2312.00362.

    python distill_s2d_DM.py --dataset miniUCF101 --vpc 1 --spc 2 --dpc 2 --path_static static.pt --no_train_static \\
        --lr_dynamic 1e-4 --lr_hal 1e-5 --hal_init published --dynamic_init noise
"""
from functools import partial

import distill_DM
from distill_utils.args import cli

main = partial(distill_DM.main, __doc__, "s2d", momentum=0.95)

if __name__ == "__main__":
    cli(main)
