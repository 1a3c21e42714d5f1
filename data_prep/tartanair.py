#!/usr/bin/env python3
"""TartanAir: look at every file of a download once, and write the index that flowbook reads

    python data_prep/tartanair.py ROOT [--full]

Download and licence: https://theairlab.org/tartanair-dataset/ (unknown)
Pairs: no published number
ROOT holds:

    <env>/{Easy,Hard}/P000/image_left/000000_left.png, ...
    <env>/{Easy,Hard}/P000/flow/000000_000001_flow.npy, 000000_000001_mask.npy, ...
       or <env>/<env>/{Easy,Hard}/..., as the archives unpack
"""
import sys
from flowbook.cli.data import data

if __name__ == '__main__': data(['prepare', 'tartanair', *sys.argv[1:]], prog_name='flowbook data')
