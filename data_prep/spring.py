#!/usr/bin/env python3
"""Spring: look at every file of a download once, and write the index that flowbook reads

    python data_prep/spring.py ROOT [--full]

Download and licence: https://spring-benchmark.org (CC BY 4.0)
Pairs: 4963 train, 990 test
ROOT holds:

    train/0001/frame_left/frame_left_0001.png, ...
    train/0001/flow_FW_left/flow_FW_left_0001.flo5, ...     from frame 1 to 2
    train/0001/flow_BW_left/flow_BW_left_0002.flo5, ...     from frame 2 to 1, where asked for
    train/0001/maps/matchmap_flow_FW_left/...png            optional, also BW
    test/0003/frame_left/...                                for split='test'; all the same with right
"""
import sys
from flowbook.cli.data import data

if __name__ == '__main__': data(['prepare', 'spring', *sys.argv[1:]], prog_name='flowbook data')
