#!/usr/bin/env python3
"""HD1K: look at every file of a download once, and write the index that flowbook reads

    python data_prep/hd1k.py ROOT [--full]

Download and licence: http://hci-benchmark.iwr.uni-heidelberg.de (unknown)
Pairs: 1047 training
ROOT holds:

    hd1k_input/image_2/000000_0010.png, ...       sequence and frame
    hd1k_flow_gt/flow_occ/000000_0010.png, ...
    hd1k_challenge/image_2/...                    for split='test'
"""
import sys
from flowbook.cli.data import data

if __name__ == '__main__': data(['prepare', 'hd1k', *sys.argv[1:]], prog_name='flowbook data')
