#!/usr/bin/env python3
"""ChairsSDHom: look at every file of a download once, and write the index that flowbook reads

    python data_prep/chairssdhom.py ROOT --convert flo [--full]

Download and licence: https://lmb.informatik.uni-freiburg.de/resources/datasets/FlyingChairs.en.html (research purposes only, no commercial use)
Pairs: 20964 train, 703 test
ROOT holds:

    data/train/t0/NNNNN.png, ...      first frames
    data/train/t1/NNNNN.png, ...      second frames
    data/train/flow/NNNNN.pfm, ...    or .flo, by flowbook data convert
    data/test/t0, t1, flow
"""
import sys
from flowbook.cli.data import data

if __name__ == '__main__': data(['prepare', 'chairssdhom', *sys.argv[1:]], prog_name='flowbook data')
