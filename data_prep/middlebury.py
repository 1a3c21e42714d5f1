#!/usr/bin/env python3
"""Middlebury: look at every file of a download once, and write the index that flowbook reads

    python data_prep/middlebury.py ROOT [--full]

Download and licence: https://vision.middlebury.edu/flow/data/ (unknown)
Pairs: 8 training
ROOT holds:

    other-data/RubberWhale/frame10.png, frame11.png, ...
    other-gt-flow/RubberWhale/flow10.flo, ...
    eval-data/Army/frame10.png, frame11.png, ...                for split='test'
       or each scene in one folder: RubberWhale/frame10.png, frame11.png, flow10.flo
"""
import sys
from flowbook.cli.data import data

if __name__ == '__main__': data(['prepare', 'middlebury', *sys.argv[1:]], prog_name='flowbook data')
