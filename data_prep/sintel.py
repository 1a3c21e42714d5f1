#!/usr/bin/env python3
"""MPI-Sintel: look at every file of a download once, and write the index that flowbook reads

    python data_prep/sintel.py ROOT [--full]

Download and licence: http://sintel.is.tue.mpg.de (the movie is CC BY 3.0, (c) Blender Foundation; cite the paper)
Pairs: 1041 training, 816 train, 225 val, 552 test
ROOT holds:

    training/{clean,final}/<scene>/frame_0001.png, ...
    training/flow/<scene>/frame_0001.flo, ...
    training/occlusions/<scene>/frame_0001.png   optional
    training/invalid/<scene>/frame_0001.png      optional
    test/{clean,final}/<scene>/frame_0001.png    for split='test'
"""
import sys
from flowbook.cli.data import data

if __name__ == '__main__': data(['prepare', 'sintel', *sys.argv[1:]], prog_name='flowbook data')
