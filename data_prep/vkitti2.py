#!/usr/bin/env python3
"""Virtual KITTI 2: look at every file of a download once, and write the index that flowbook reads

    python data_prep/vkitti2.py ROOT [--full]

Download and licence: https://europe.naverlabs.com/research/computer-vision/proxy-virtual-worlds-vkitti-2/ (CC BY-NC-SA 3.0)
Pairs: 42420 training
ROOT holds:

    Scene01/clone/frames/rgb/Camera_0/rgb_00000.jpg, ...
    Scene01/clone/frames/forwardFlow/Camera_0/flow_00000.png, ...             from frame 0 to 1
    Scene01/clone/frames/backwardFlow/Camera_0/backwardFlow_00001.png, ...    from frame 1 to 0, where asked for
       or the same below vkitti_2.0.3_rgb, vkitti_2.0.3_forwardFlow, vkitti_2.0.3_backwardFlow
"""
import sys
from flowbook.cli.data import data

if __name__ == '__main__': data(['prepare', 'vkitti2', *sys.argv[1:]], prog_name='flowbook data')
