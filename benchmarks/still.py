#!/usr/bin/env python3
"""What do models see where nothing moves? Mean and 99th percentile of the flow's length on still pairs; prints a Markdown table.

    python benchmarks/still.py [MODEL ...] [--scenes 8] [--size 256x320] [--json FILE]

Default: the models whose weights are in the package, and the classical methods. The kinds: the same frame twice; sensor noise of 2 and of 6 grey levels in each frame; the second frame a third brighter; a flat
grey wall with noise of 2 levels; and two frames of a still video, compressed by H.264 at a low rate (needs an encoder in PyAV, else left out).
"""
import argparse, json, sys, tempfile
from pathlib import Path
import numpy as np
from flowbook.cli.terminal import parse_size
from flowbook.core.errors import FlowbookError
from flowbook.data.scenes import SceneConfig, make_scenes
from flowbook.infer.predictor import FlowPredictor, bundled_models
from flowbook.io.files import atomic_path

def as_bytes(x): return (x.clip(0, 1)*255).round().astype(np.uint8)

def compressed(frame, folder):
    "Frames 5 and 6 of a video in which only the noise changes, as H.264 leaves them; None without an encoder"
    import av
    try: av.codec.Codec('libx264', 'w')
    except Exception: return None
    path, g = folder/'still.mp4', np.random.default_rng(1)
    with av.open(str(path), 'w') as out:
        stream = out.add_stream('libx264', rate=25)
        stream.height, stream.width, stream.pix_fmt, stream.options = *frame.shape[:2], 'yuv420p', {'crf': '32'}
        for _ in range(8):
            noisy = as_bytes(frame + g.normal(0, 2/255, frame.shape))
            out.mux(stream.encode(av.VideoFrame.from_ndarray(noisy, format='rgb24')))
        out.mux(stream.encode())
    with av.open(str(path)) as f: frames = [o.to_ndarray(format='rgb24') for o in f.decode(video=0)]
    return frames[5], frames[6]

def pairs(n, size):
    "Kind to a list of pairs, uint8 arrays"
    scenes = make_scenes(range(7*10**9, 7*10**9 + n), SceneConfig(size=size, photometric=0., displacement=((0., 1.),)))
    frames = [o.permute(1, 2, 0).numpy() for o in scenes.img1]
    g = np.random.default_rng(0)
    noise = lambda x, levels: as_bytes(x + g.normal(0, levels/255, x.shape))
    wall = np.full((*size, 3), .5, np.float32)
    res = {'identical': [(as_bytes(f), as_bytes(f)) for f in frames],
           'noise 2': [(noise(f, 2), noise(f, 2)) for f in frames],
           'noise 6': [(noise(f, 6), noise(f, 6)) for f in frames],
           'exposure': [(as_bytes(.7*f), as_bytes(.7*f*4/3)) for f in frames],
           'flat wall': [(noise(wall, 2), noise(wall, 2)) for _ in frames[:2]]}
    with tempfile.TemporaryDirectory() as tmp: video = [compressed(f, Path(tmp)) for f in frames]
    if None not in video: res['video'] = video
    return res

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('models', nargs='*', default=[*bundled_models(), 'dis', 'farneback', 'variational'])
    ap.add_argument('--scenes', type=int, default=8); ap.add_argument('--size', default='256x320'); ap.add_argument('--json', type=Path)
    args = ap.parse_args()
    try:
        kinds, res = pairs(args.scenes, parse_size(args.size)), {}
        for name in args.models:
            predictor = FlowPredictor(name, device='cpu')
            res[name] = {}
            for kind, both in kinds.items():
                length = np.concatenate([np.linalg.norm(predictor(*o), axis=-1).ravel() for o in both])
                res[name][kind] = [float(length.mean()), float(np.percentile(length, 99))]
    except FlowbookError as e: sys.exit(str(e))
    print('| px, mean / 99th percentile | ' + ' | '.join(kinds) + ' |\n|' + ' --- |'*(len(kinds) + 1))
    for name, o in res.items(): print(f'| {name} | ' + ' | '.join(f'{m:.3f} / {p:.2f}' for m, p in o.values()) + ' |')
    if args.json:
        with atomic_path(args.json) as tmp: Path(tmp).write_text(json.dumps(res, indent=1))

if __name__ == '__main__': main()
