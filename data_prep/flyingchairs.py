#!/usr/bin/env python3
"""FlyingChairs: look at every file of a download once, and write the index that flowbook reads

    python data_prep/flyingchairs.py ROOT [--full]

Download and licence: https://lmb.informatik.uni-freiburg.de/resources/datasets/FlyingChairs.en.html (research purposes only, no commercial use)
Pairs: 22232 train, 640 val, 22872 all
ROOT holds:

    data/00001_img1.ppm, 00001_img2.ppm, 00001_flow.flo, 00002_img1.ppm, ... 22872_flow.flo
    FlyingChairs_train_val.txt    a 1 (train) or 2 (val) per pair; without it flowbook's own list is used
"""
import sys
from flowbook.cli.data import data

if __name__ == '__main__': data(['prepare', 'flyingchairs', *sys.argv[1:]], prog_name='flowbook data')
