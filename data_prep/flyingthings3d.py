#!/usr/bin/env python3
"""FlyingThings3D: look at every file of a download once, and write the index that flowbook reads

    python data_prep/flyingthings3d.py ROOT --convert flo [--full]

Download and licence: https://lmb.informatik.uni-freiburg.de/resources/datasets/SceneFlowDatasets.en.html (research purposes only, no commercial use)
Pairs: 20151 train, 3933 test
ROOT holds:

    frames_cleanpass/TRAIN/A/0000/left/0006.png, ... 0015.png                 or .webp, in frames_cleanpass_webp
    frames_finalpass/...                                                      for pass_style='final'
    optical_flow/TRAIN/A/0000/into_future/left/OpticalFlowIntoFuture_0006_L.pfm
    optical_flow/TRAIN/A/0000/into_past/left/OpticalFlowIntoPast_0006_L.pfm
    TRAIN and TEST, each with A, B and C; left and right
"""
import sys
from flowbook.cli.data import data

if __name__ == '__main__': data(['prepare', 'flyingthings3d', *sys.argv[1:]], prog_name='flowbook data')
