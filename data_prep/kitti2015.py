#!/usr/bin/env python3
"""KITTI 2015: look at every file of a download once, and write the index that flowbook reads

    python data_prep/kitti2015.py ROOT [--full]

Download and licence: https://www.cvlibs.net/datasets/kitti/eval_scene_flow.php?benchmark=flow (CC BY-NC-SA 3.0)
Pairs: 200 training, 160 train, 40 val, 200 testing
ROOT holds:

    training/image_2/000000_10.png, 000000_11.png, ...
    training/flow_occ/000000_10.png, ...
    training/flow_noc/000000_10.png, ...          for occ and flow='noc'
    testing/image_2/000000_10.png, ...            for split='testing'
"""
import sys
from flowbook.cli.data import data

if __name__ == '__main__': data(['prepare', 'kitti2015', *sys.argv[1:]], prog_name='flowbook data')
