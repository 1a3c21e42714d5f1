#!/usr/bin/env python3
"""Seconds and memory of one pair (MEMFOF: one triple) from small to 4K, beside what `memory_estimate` says

    python benchmarks/sizes.py [MODEL ...] [--sizes 440x1024 1080x1920 2160x3840] [--threads 2] [--limit 600] [--out FILE]

Each figure comes from a process of its own: float32, freshly drawn weights, each network's own number of iterations, the whole image at once, no tiles. After a call at 128x192 the high-water mark
of resident memory is reset (Linux: /proc/self/clear_refs), so libraries and weights don't count, but the images do. A call that takes longer than --limit seconds is ended, and the table says so.
With --out, a row is written when it is known, and rows of models that are not named are kept.
"""
import argparse, json, os, platform, re, subprocess, sys, time
from pathlib import Path

TODAY = ['raft', 'raft_small', 'sea_raft_s', 'sea_raft_m', 'sea_raft_l', 'neuflow2', 'gmflow', 'gmflow_refine', 'unimatch_refine6', 'dpflow', 'rapidflow', 'memfof']

def resident(key):
    with open('/proc/self/status') as f: return next(1024*int(l.split()[1]) for l in f if l.startswith(key))

def measure(name, size, threads):
    "Seconds, bytes and estimated bytes; in a process of its own"
    import cv2, torch
    from flowbook.infer.memory import memory_estimate
    from flowbook.models.contract import texture_pair
    from flowbook.models.zoo import create_model
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    torch.manual_seed(0)
    model = create_model(name).eval()
    def images(size):
        a, b = texture_pair(size)
        return (b, a, b)[:model.frames] if model.frames == 3 else (a, b)
    given = images(size)
    with torch.inference_mode():
        model(*images((128, 192) if model.frames == 2 else (256, 320)))
        Path('/proc/self/clear_refs').write_text('5')
        before, start = resident('VmRSS'), time.perf_counter()
        model(*given)
        took = time.perf_counter() - start
    return took, resident('VmHWM') - before + sum(x.nbytes for x in given), memory_estimate(model, size)

def apart(name, size, threads, limit):
    "`measure` in a new process; a word instead of the figures if it fails or takes too long"
    code = 'import json, sys; sys.path.insert(0, sys.argv[1]); import sizes; print(json.dumps(sizes.measure(*json.loads(sys.argv[2]))))'
    command = [sys.executable, '-W', 'ignore', '-c', code, str(Path(__file__).resolve().parent), json.dumps((name, size, threads))]
    try: done = subprocess.run(command, capture_output=True, text=True, timeout=limit, env={**os.environ, 'OMP_NUM_THREADS': str(threads)})
    except subprocess.TimeoutExpired: return f'over {limit} s'
    if done.returncode < 0: return 'killed: out of memory?'
    if done.returncode: return (done.stderr.strip().splitlines() or ['fails'])[-1].replace('|', '/')
    return json.loads(done.stdout.splitlines()[-1])

def cells(found):
    "Seconds, MiB, and estimate over measurement"
    if isinstance(found, str): return [found, '', '']
    seconds, taken, estimate = found
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
        rows[name] = line([f'`{name}`', *(o for size in args.sizes for o in cells(apart(name, size, args.threads, args.limit)))])
        text = '\n'.join([f'float32, {args.threads} threads, {platform.processor() or platform.machine()}', '', line(heads), '| --- |' + ' ---: |'*(len(heads) - 1), *rows.values()]) + '\n'
        if args.out: args.out.write_text(text, encoding='utf-8')
    print(text)

if __name__ == '__main__': main()
