#!/usr/bin/env python3
"""How even are single calls? 200 calls of a model, one after the other, with one thread and with two: p5, p50, p95 and largest.

    python benchmarks/calls.py [MODEL ...] [--calls 200] [--size 256x320] [--threads 1 2] [--iters N] [--out FILE]

Default: flowbook_fast and raft. Each number of threads has a process of its own, since a pool of threads keeps its size. Goals, on a quiet machine: p95 at most 1.3 times p50; two threads 1.6 times
as fast as one for flowbook_fast, 1.8 times for RAFT. Prints a Markdown table with the load of the machine before and after; on a busy machine it measures the others.
"""
import argparse, os, platform, time
from pathlib import Path
import numpy as np
from measure import apart

HEADS = ['model', 'threads', 'p5 ms', 'p50 ms', 'p95 ms', 'largest ms', 'p95/p50', 'faster than the first']

def measure(name, size, calls, iters):
    "Milliseconds of each call; in a process of its own"
    import cv2
    from flowbook.infer.predictor import FlowPredictor
    from flowbook.models.zoo import create_model
    model = create_model(name).eval()
    run = FlowPredictor(model, device='cpu', iters=iters if model.iterates else None)
    rng, found = np.random.default_rng(0), []
    a = cv2.GaussianBlur(rng.integers(0, 255, (*size, 3), dtype=np.uint8), (0, 0), 3)
    b = np.roll(a, (1, 3), (0, 1))
    for _ in range(5): run(a, b)
    for _ in range(calls):
        start = time.perf_counter()
        run(a, b)
        found.append(1000*(time.perf_counter() - start))
    return found

def row(name, threads, ms, first):
    "Cells of a row; `first`: median of the model's first row, None in that row"
    p5, p50, p95 = np.percentile(ms, [5, 50, 95])
    return [f'`{name}`', threads, *(f'{o:.1f}' for o in (p5, p50, p95, max(ms))), f'{p95/p50:.2f}',
            f'{first/p50:.2f}' if first else '']

def table(rows):
    "Markdown"
    line = lambda cells: '| ' + ' | '.join(map(str, cells)) + ' |'
    return '\n'.join([line(HEADS), '| --- |' + ' ---: |'*(len(HEADS) - 1), *map(line, rows)])

def load(): return ' '.join(f'{o:.1f}' for o in os.getloadavg()) if hasattr(os, 'getloadavg') else 'unknown'

def main():
    from flowbook.cli.terminal import parse_size
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument('models', nargs='*', default=['flowbook_fast', 'raft'])
    ap.add_argument('--calls', type=int, default=200)
    ap.add_argument('--size', type=parse_size, default=(256, 320), help='height and width')
    ap.add_argument('--threads', type=int, nargs='+', default=[1, 2])
    ap.add_argument('--iters', type=int, help="iterations of recurrent networks; default: each network's own number")
    ap.add_argument('--out', type=Path, help='Markdown file to write as well')
    args = ap.parse_args()
    before, rows = load(), []
    for name in args.models:
        first = None
        for n in args.threads:
            ms = apart(__file__, 'measure', name, args.size, args.calls, args.iters, threads=n)
            rows.append(row(name, n, ms, first))
            first = first or float(np.median(ms))
    height, width = args.size
    said = f'{args.calls} calls at {height}x{width}, {platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, load {before} before and {load()} after'
    text = f'{said}\n\n{table(rows)}\n'
    print(text)
    if args.out: args.out.write_text(f'# Times of single calls\n\n{text}', encoding='utf-8')

if __name__ == '__main__': main()
