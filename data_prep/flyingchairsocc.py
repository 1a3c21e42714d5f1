#!/usr/bin/env python3
"""FlyingChairsOcc: look at every file of a download once, and write the index that flowbook reads

    python data_prep/flyingchairsocc.py ROOT [--full]

Download and licence: https://github.com/visinf/irr/tree/master/flyingchairsocc (non-commercial use only, no redistribution)
Pairs: 22232 train, 640 val, 22872 all
ROOT holds:

    data/00001_img1.png, 00001_img2.png          or .ppm
    data/00001_flow.flo, 00001_flow_b.flo        from 1 to 2, from 2 to 1
    data/00001_occ1.png, 00001_occ2.png          hidden pixels of 1, of 2
    data/00002_img1.png, ... 22872_occ2.png
"""
import sys
from flowbook.cli.data import data

if __name__ == '__main__': data(['prepare', 'flyingchairsocc', *sys.argv[1:]], prog_name='flowbook data')
