#!/usr/bin/env python3
"""AutoFlow: look at every file of a download once, and write the index that flowbook reads

    python data_prep/autoflow.py ROOT [--full]

Download and licence: https://autoflow-google.github.io/ (unknown: see the page)
Pairs: 40000 train
ROOT holds:

    static_40k_png_1_of_4/table_0_batch_0/im0.png, im1.png, forward.flo
    static_40k_png_1_of_4/table_0_batch_1/...
    static_40k_png_2_of_4/, static_40k_png_3_of_4/, static_40k_png_4_of_4/
"""
import sys
from flowbook.cli.data import data

if __name__ == '__main__': data(['prepare', 'autoflow', *sys.argv[1:]], prog_name='flowbook data')
