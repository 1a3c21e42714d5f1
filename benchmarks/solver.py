#!/usr/bin/env python3
"""The variational solver beside OpenCV's, and what the presets of classical methods cost and reach

    python benchmarks/solver.py [--size 448x1024] [--rounds 9] [--scenes 24] [--out FILE]

First table: one refinement with OpenCV's own numbers (5 updates of 5 sweeps) by `refine_flow` and by `cv2.VariationalRefinement`, on the same pair from the same flow; both take turns, with one thread and with two, each
number of threads in a process of its own. Second table: the presets of DIS and of variational flow: milliseconds of a pair with two threads, and EPE on scenes that no run trains on.
"""
import argparse, statistics
from pathlib import Path
from measure import apart, turns

def held_out(n):
    "Seeds of `n` scenes that no run with seed 0 trains on"
    from flowbook.data.scenes import held_out_seed, scene_number
    return [scene_number(held_out_seed(0), i) for i in range(n)]

def refinement(size, rounds):
    "Seconds of both solvers in each round, and the mean difference of their flows"
    import cv2, numpy as np, torch
    from flowbook.data.scenes import SceneConfig, make_scenes
    from flowbook.ops.variational import refine_flow
    s = make_scenes(held_out(1), SceneConfig(size=tuple(size), displacement=((2., 1.),), photometric=0.))
    a, b = (x.mean(1)[0]*255 for x in (s.img1, s.img2))
    a, b = (np.ascontiguousarray(x.float().numpy()) for x in (a, b))
    start = torch.zeros(1, 2, *size)
    first = np.zeros((*size, 2), np.float32)
    one, two = (torch.from_numpy(x)[None, None]/255 for x in (a, b))
    solver = cv2.VariationalRefinement_create()
    theirs = lambda: solver.calc(a, b, first.copy())
    ours = lambda: refine_flow(one, two, start)
    apart = (ours()[0].permute(1, 2, 0).numpy() - theirs())
    return turns(dict(opencv=theirs, flowbook=ours), rounds), float(abs(apart).mean())

def presets(size, rounds, n):
    "For each preset: name, milliseconds, EPE"
    from flowbook.data.scenes import SceneConfig, make_scenes
    from flowbook.models.contract import texture_pair
    from flowbook.models.methods import DIS_PRESETS
    from flowbook.models.zoo import create_model
    from flowbook.ops.coarse_to_fine import variational_presets
    known = dict(dis=DIS_PRESETS, variational=variational_presets)
    models = {f'{m} {p}': create_model(m, preset=p) for m, ps in known.items() for p in ps}
    pair = texture_pair(tuple(size))
    seconds = turns({k: (lambda m=m: m(*pair)) for k, m in models.items()}, rounds)
    errors = {k: [] for k in models}
    for seed in held_out(n):
        s = make_scenes([seed], SceneConfig(size=(256, 320)))
        for k, m in models.items():
            errors[k].append((m(s.img1, s.img2).flow - s.flow).norm(dim=1).mean().item())
    return [(k, 1000*statistics.median(seconds[k]), statistics.mean(errors[k])) for k in models]

def main():
    from flowbook.cli.terminal import parse_size
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument('--size', type=parse_size, default=(448, 1024), help='height x width')
    ap.add_argument('--rounds', type=int, default=9)
    ap.add_argument('--scenes', type=int, default=24)
    ap.add_argument('--out', type=Path, help='Markdown file to write as well')
    args = ap.parse_args()
    lines = ['| threads | OpenCV ms | flowbook ms | ratio in a round, median | mean difference, px |', '| ---: | ---: | ---: | ---: | ---: |']
    for threads in 1, 2:
        found, gap = apart(__file__, 'refinement', args.size, args.rounds, threads=threads)
        ratio = statistics.median(a/b for a, b in zip(found['opencv'], found['flowbook']))
        lines.append(f"| {threads} | {1000*statistics.median(found['opencv']):.1f} | {1000*statistics.median(found['flowbook']):.1f} | {ratio:.2f} | {gap:.1e} |")
    lines += ['', '| method | ms, two threads | EPE on scenes, px |', '| --- | ---: | ---: |']
    for name, ms, epe in apart(__file__, 'presets', args.size, args.rounds, args.scenes, threads=2):
        lines.append(f'| {name} | {ms:.0f} | {epe:.2f} |')
    text = '\n'.join(lines) + '\n'
    print(text)
    if args.out: args.out.write_text(text, encoding='utf-8')

if __name__ == '__main__': main()
