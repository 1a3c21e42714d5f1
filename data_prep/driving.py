#!/usr/bin/env python3
"""Driving: look at every file of a download once, and write the index that flowbook reads

    python data_prep/driving.py ROOT --convert flo [--full]

Download and licence: https://lmb.informatik.uni-freiburg.de/resources/datasets/SceneFlowDatasets.en.html (research purposes only, no commercial use)
Pairs: 4392 train
ROOT holds:

    frames_cleanpass/15mm_focallength/scene_forwards/fast/left/0001.png, ...  or .webp, in frames_cleanpass_webp
    frames_finalpass/...                                                      for pass_style='final'
    optical_flow/15mm_focallength/scene_forwards/fast/into_future/left/OpticalFlowIntoFuture_0001_L.pfm
    optical_flow/15mm_focallength/scene_forwards/fast/into_past/left/OpticalFlowIntoPast_0001_L.pfm
    {15mm,35mm}_focallength, scene_{forwards,backwards}, fast and slow; left and right
"""
import sys
from flowbook.cli.data import data

if __name__ == '__main__': data(['prepare', 'driving', *sys.argv[1:]], prog_name='flowbook data')
