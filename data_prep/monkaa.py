#!/usr/bin/env python3
"""Monkaa: look at every file of a download once, and write the index that flowbook reads

    python data_prep/monkaa.py ROOT --convert flo [--full]

Download and licence: https://lmb.informatik.uni-freiburg.de/resources/datasets/SceneFlowDatasets.en.html (research purposes only, no commercial use)
Pairs: 8640 train
ROOT holds:

    frames_cleanpass/<scene>/left/0000.png, ...                               or .webp, in frames_cleanpass_webp
    frames_finalpass/...                                                      for pass_style='final'
    optical_flow/<scene>/into_future/left/OpticalFlowIntoFuture_0000_L.pfm
    optical_flow/<scene>/into_past/left/OpticalFlowIntoPast_0000_L.pfm
    24 scenes, a_rain_of_stones_x2 to treeflight_x2; left and right
"""
import sys
from flowbook.cli.data import data

if __name__ == '__main__': data(['prepare', 'monkaa', *sys.argv[1:]], prog_name='flowbook data')
