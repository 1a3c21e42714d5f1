#!/usr/bin/env python3
"""Seconds and memory of one pair (MEMFOF: one triple) from small to 4K, beside what `memory_estimate` says

    python benchmarks/sizes.py [MODEL ...] [--sizes 440x1024 1080x1920 2160x3840] [--threads 2] [--limit 600] [--out FILE]

Each figure comes from a process of its own: float32, freshly drawn weights, each network's own number of iterations, the whole image at once, no tiles. After a call at 128x192 the high-water mark
of resident memory is reset (Linux: /proc/self/clear_refs), so libraries and weights don't count, but the images do. A call that takes longer than --limit seconds is ended, and the table says so.
With --out, a row is written when it is known, and rows of models that are not named are kept.
"""
import argparse, platform, re, subprocess, time
from pathlib import Path
from measure import apart

TODAY = ['raft', 'raft_small', 'sea_raft_s', 'sea_raft_m', 'sea_raft_l', 'neuflow2', 'gmflow', 'gmflow_refine', 'unimatch_refine6', 'dpflow', 'rapidflow', 'memfof']

def resident(key):
    with open('/proc/self/status') as f: return next(1024*int(l.split()[1]) for l in f if l.startswith(key))

def measure(name, size):
    "Seconds, bytes and estimated bytes; in a process of its own"
    import torch
    from flowbook.infer.memory import memory_estimate
    from flowbook.models.contract import texture_pair
    from flowbook.models.zoo import create_model
    model = create_model(name).eval()
    given = model.from_pair(*texture_pair(size))
    with torch.inference_mode():
        model(*model.from_pair(*texture_pair((128, 192))))
        Path('/proc/self/clear_refs').write_text('5')
        before, start = resident('VmRSS'), time.perf_counter()
        model(*given)
        took = time.perf_counter() - start
    return took, resident('VmHWM') - before + sum(x.nbytes for x in given), memory_estimate(model, size)

def cells(name, size, threads, limit):
    "Seconds, MiB, and estimate over measurement; or a word instead"
    try: seconds, taken, estimate = apart(__file__, 'measure', name, size, threads=threads, limit=limit)
    except subprocess.TimeoutExpired: return [f'over {limit:g} s', '', '']
    except RuntimeError as e: return [str(e).replace('|', '/'), '', '']
    return [f'{seconds:.1f}', f'{taken/2**20:.0f}', f'{estimate/taken:.2f}']

def main():
    from flowbook.cli.terminal import parse_size
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument('models', nargs='*', default=TODAY)
    ap.add_argument('--sizes', type=parse_size, nargs='+', default=[(440, 1024), (1080, 1920), (2160, 3840)], help='height x width')
    ap.add_argument('--threads', type=int, default=2)
    ap.add_argument('--limit', type=float, default=600, help='seconds')
    ap.add_argument('--out', type=Path, help='Markdown file to write as well')
    args = ap.parse_args()
    line = lambda cells: f"| {' | '.join(cells)} |"
    heads = ['model', *(o for h, w in args.sizes for o in (f'{h}x{w}: s', 'MiB', 'estimated / measured'))]
    rows = {}
    if args.out and args.out.exists():
        rows = {m[1]: l for l in args.out.read_text(encoding='utf-8').splitlines() if (m := re.match(r'\| `([^`]+)` \|', l))}
    for name in args.models:
        rows[name] = line([f'`{name}`', *(o for size in args.sizes for o in cells(name, size, args.threads, args.limit))])
        text = '\n'.join([f'float32, {args.threads} threads, {platform.processor() or platform.machine()}', '', line(heads), '| --- |' + ' ---: |'*(len(heads) - 1), *rows.values()]) + '\n'
        if args.out: args.out.write_text(text, encoding='utf-8')
    print(text)

if __name__ == '__main__': main()
