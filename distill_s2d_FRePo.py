"""Dynamic stage by neural feature regression (FRePo+S2D): static images + a learnable dynamic memory. arXiv 2312.00362.

    python distill_s2d_FRePo.py --dataset miniUCF101 --vpc 1 --spc 1 --dpc 1 --path_static static.pt --no_train_static
"""
from functools import partial

import distill_FRePo
from distill_utils.args import cli

main = partial(distill_FRePo.main, __doc__, "s2d")

if __name__ == "__main__":
    cli(main)
