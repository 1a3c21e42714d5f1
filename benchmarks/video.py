#!/usr/bin/env python3
"""Memory and pace of flowbook video on a clip of 300 frames, 640x480, beside a plain loop that reads, computes, paints and writes in turn

    OMP_NUM_THREADS=1 python benchmarks/video.py [--frames 300] [--size 480 640] [--models dis flowbook_small] [--layout side] [--device cpu] [--keep FOLDER]

The clip is rendered by `make_clip` (a procedural scene with true flow) and written as Motion JPEG. Every run is a process of its own. Resident memory is read after pair 30, 100 and the last; the model and the libraries are in it.
The plain loop does the same work in one thread: its pairs per second are what overlapping decode, compute and encode is measured against.
"""
import argparse, json, os, subprocess, sys, tempfile, time
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')

def rss():
    "Resident memory, MiB"
    return int(open('/proc/self/statm').read().split()[1])*os.sysconf('SC_PAGE_SIZE')/2**20

def make(path, frames, size):
    from flowbook.data.make import make_clip
    from flowbook.data.scenes import SceneConfig
    from flowbook.io.video import VideoWriter
    picture = lambda t: (t[0].permute(1, 2, 0)*255).round().byte().numpy()
    with VideoWriter(path, 25, 'MJPG') as w:
        for i,s in enumerate(make_clip(3, frames, SceneConfig(size=size, displacement=((12.,1.),)))):
            if not i: w.write(picture(s.img1))
            w.write(picture(s.img2))

def streamed(clip, out, predictor, layout, marks):
    from flowbook.infer.video import process_video
    memory = {}
    def look(done, total):
        if done in marks: memory[done] = rss()
    r = process_video(clip, out, predictor, layout, progress=look)
    return dict(memory=memory, fps=r.fps, busy={k: v/r.seconds for k,v in sorted(r.stages.items())})

def plain(clip, out, predictor, layout):
    import numpy as np
    from flowbook.infer.stream import FramePair
    from flowbook.viz.layouts import FlowScale, paint_pair
    from flowbook.io.video import VideoWriter, read_frames
    scale,n,last,began = FlowScale(),0,None,time.perf_counter()
    with VideoWriter(out) as w:
        for img in read_frames(clip):
            if last is not None:
                flow = np.asarray(predictor(last, img))
                w.write(paint_pair(FramePair(n, last, img, flow), layout, scale(flow)))
                n += 1
            last = img
    return dict(fps=n/(time.perf_counter() - began))

def child(a):
    from flowbook.infer.predictor import FlowPredictor
    out,predictor = Path(a.child[2]),FlowPredictor(a.child[1], device=a.device)
    found = streamed(a.child[3], out, predictor, a.layout,
                     {30, 100, a.frames - 1}) if a.child[0]=='streamed' else plain(a.child[3], out, predictor, a.layout)
    print(json.dumps(found))

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--frames', type=int, default=300); p.add_argument('--size', type=int, nargs=2,
        default=(480,640))
    p.add_argument('--models', nargs='+',
                   default=['dis','flowbook_small']); p.add_argument('--layout', default='side')
    p.add_argument('--device', default='cpu'); p.add_argument('--keep', type=Path); p.add_argument('--child',
        nargs=4, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.child: return child(a)
    with tempfile.TemporaryDirectory() as tmp:
        folder = a.keep or Path(tmp)
        folder.mkdir(parents=True, exist_ok=True)
        clip = folder/f'clip-{a.frames}-{a.size[1]}x{a.size[0]}.avi'
        if not clip.exists(): make(clip, a.frames, tuple(a.size))
        marks = sorted({min(o, a.frames - 1) for o in (30, 100, a.frames - 1)})
        print(f"| model | {' | '.join(f'MiB at pair {m}' for m in marks)} | pairs/s | plain loop | compute / decode / encode at work, % |\n| --- |{' --- |'*(len(marks) + 3)}")
        for m in a.models:
            run = lambda how: json.loads(subprocess.run([sys.executable, __file__, '--frames', str(a.frames),
                '--layout', a.layout, '--device', a.device, '--child', how, m, str(folder/f'{how}-{m}.mp4'),
                str(clip)],
                                                        check=True, stdout=subprocess.PIPE,
                                                        text=True).stdout.splitlines()[-1])
            s,q = run('streamed'),run('plain')
            print(f"| {m} | {' | '.join(format(s['memory'][str(k)], '.0f') for k in marks)} | {s['fps']:.1f} | {q['fps']:.1f} | {' / '.join(f'{100*v:.0f}' for v in s['busy'].values())} |", flush=True)

if __name__=='__main__': main()
