#!/usr/bin/env python3
"""The variational solver beside OpenCV's, and what the presets of classical methods cost and reach

    python benchmarks/solver.py [--size 448x1024] [--rounds 9] [--scenes 24] [--out FILE]

First table: one refinement with OpenCV's own numbers (5 updates of 5 sweeps) by `refine_flow` and by `cv2.VariationalRefinement`, on the same pair from the same flow; both take turns, with one thread and with two, each
number of threads in a process of its own. Second table: the presets of DIS and of variational flow: milliseconds of a pair with two threads, and EPE on scenes that no run trains on.
"""
import argparse, json, os, statistics, subprocess, sys, time
from pathlib import Path

PRESETS = {'dis': ['ultrafast', 'fast', 'medium', 'fine'], 'variational': ['fast', 'medium', 'fine']}
HELD_OUT = 1_900_000_000   # first seed of the scenes

def turns(runs, rounds):
    "Milliseconds of each of `runs` in each round"
    found = {k: [] for k in runs}
    for r in range(rounds + 1):
        for k, f in runs.items():
            start = time.perf_counter()
            f()
            if r: found[k].append(1000*(time.perf_counter() - start))
    return found

def prepare(threads):
    import cv2, torch
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    return cv2, torch

def refinement(size, rounds, threads):
    "Milliseconds of both solvers in each round, and the mean difference of their flows"
    cv2, torch = prepare(threads)
    import numpy as np
    from flowbook.data.scenes import SceneConfig, make_scenes
    from flowbook.ops.variational import refine_flow
    s = make_scenes([HELD_OUT], SceneConfig(size=tuple(size), displacement=((2., 1.),), photometric=0.))
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

def presets(size, rounds, n, threads):
    "For each preset: name, milliseconds, EPE"
    cv2, torch = prepare(threads)
    from flowbook.data.scenes import SceneConfig, make_scenes
    from flowbook.models.contract import texture_pair
    from flowbook.models.zoo import create_model
    models = {f'{m} {p}': create_model(m, preset=p) for m, ps in PRESETS.items() for p in ps}
    pair = texture_pair(tuple(size))
    ms = turns({k: (lambda m=m: m(*pair)) for k, m in models.items()}, rounds)
    errors = {k: [] for k in models}
    for i in range(n):
        s = make_scenes([HELD_OUT + i], SceneConfig(size=(256, 320)))
        for k, m in models.items():
            errors[k].append((m(s.img1, s.img2).flow - s.flow).norm(dim=1).mean().item())
    return [(k, statistics.median(ms[k]), statistics.mean(errors[k])) for k in models]

def apart(what, *args, threads):
    "A function of this file in a new process with `threads` threads"
    code = 'import json, sys; sys.path.insert(0, sys.argv[1]); import solver; print(json.dumps(getattr(solver, sys.argv[2])(*json.loads(sys.argv[3]))))'
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code, str(Path(__file__).resolve().parent), what, json.dumps([*args, threads])],
                          env={**os.environ, 'OMP_NUM_THREADS': str(threads), 'OMP_WAIT_POLICY': 'PASSIVE'}, capture_output=True, text=True)
    if done.returncode: sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])

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
        found, gap = apart('refinement', args.size, args.rounds, threads=threads)
        ratio = statistics.median(a/b for a, b in zip(found['opencv'], found['flowbook']))
        lines.append(f"| {threads} | {statistics.median(found['opencv']):.1f} | {statistics.median(found['flowbook']):.1f} | {ratio:.2f} | {gap:.1e} |")
    lines += ['', '| method | ms, two threads | EPE on scenes, px |', '| --- | ---: | ---: |']
    for name, ms, epe in apart('presets', args.size, args.rounds, args.scenes, threads=2):
        lines.append(f'| {name} | {ms:.0f} | {epe:.2f} |')
    text = '\n'.join(lines) + '\n'
    print(text)
    if args.out: args.out.write_text(text, encoding='utf-8')

if __name__ == '__main__': main()
