#!/usr/bin/env python3
"""KITTI 2012: look at every file of a download once, and write the index that flowbook reads

    python data_prep/kitti2012.py ROOT [--full]

Download and licence: https://www.cvlibs.net/datasets/kitti/eval_stereo_flow.php?benchmark=flow (CC BY-NC-SA 3.0)
Pairs: 194 training, 155 train, 39 val, 195 testing
ROOT holds:

    training/colored_0/000000_10.png, 000000_11.png, ...
    training/flow_occ/000000_10.png, ...
    training/flow_noc/000000_10.png, ...          for occ and flow='noc'
    testing/colored_0/000000_10.png, ...            for split='testing'
"""
import sys
from flowbook.cli.data import data

if __name__ == '__main__': data(['prepare', 'kitti2012', *sys.argv[1:]], prog_name='flowbook data')
