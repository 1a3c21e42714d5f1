#!/usr/bin/env python3
"""FlyingThings3D subset: look at every file of a download once, and write the index that flowbook reads

    python data_prep/flyingthings3dsubset.py ROOT [--full]

Download and licence: https://lmb.informatik.uni-freiburg.de/resources/datasets/SceneFlowDatasets.en.html (research purposes only, no commercial use)
Pairs: 19640 train, 3824 val
ROOT holds:

    train/image_clean/left/0000000.png, ...
    train/flow/left/into_future/0000000.flo, ...              from frame n to n+1
    train/flow/left/into_past/0000001.flo, ...                from frame n to n-1
    train/flow_occlusions/left/into_future/0000000.png, ...   optional
    train/flow_occlusions/left/into_past/0000001.png, ...
    train and val; left and right
"""
import sys
from flowbook.cli.data import data

if __name__ == '__main__': data(['prepare', 'flyingthings3dsubset', *sys.argv[1:]], prog_name='flowbook data')
