#!/usr/bin/env python3
"""EPE of a model and of classical methods on a few real pairs with true flow; prints a Markdown table.

    python benchmarks/real_pairs.py FOLDER [--model NAME] [--weights FILE] [--device auto] [--iters N] [--json FILE]

FOLDER holds (pairs that are missing are named and left out):
    middlebury/{RubberWhale,Venus,Urban3}/frame10.png frame11.png flow10.flo    (or .flo.xz)
    sintel/alley_1/clean/frame_0001.png frame_0002.png, sintel/alley_1/flow/frame_0001.flo
    kitti/kitti_000010_10.png kitti_000010_11.png kitti_occ_000010_10.png
    flyingchairs/0000003-img0.ppm 0000003-img1.ppm 0000003-gt.flo               (or .gz)
"""
import argparse, gzip, json, lzma, sys, tempfile, time
from pathlib import Path
from flowbook.core.errors import FlowbookError, fail
from flowbook.infer.evaluate import evaluate_pair
from flowbook.data.pair import load_sample
from flowbook.infer.predictor import FlowPredictor, classical_flow
from flowbook.io.files import atomic_path, ensure_dir

PAIRS = {**{o: [f'middlebury/{o}/{f}' for f in ('frame10.png', 'frame11.png', 'flow10.flo')]
            for o in ('RubberWhale', 'Venus', 'Urban3')},
         'alley_1': ['sintel/alley_1/clean/frame_0001.png', 'sintel/alley_1/clean/frame_0002.png',
                     'sintel/alley_1/flow/frame_0001.flo'],
         'KITTI 000010': [f'kitti/kitti_{o}.png' for o in ('000010_10', '000010_11', 'occ_000010_10')],
         'Chairs 0000003': [f'flyingchairs/0000003-{o}' for o in ('img0.ppm', 'img1.ppm', 'gt.flo')]}
OUTLIERS = {'KITTI 000010'} # pairs whose benchmark counts outliers as well
BASELINES = {'zero flow': 'zero', 'Farneback': 'farneback', 'DIS (fast)': 'dis_fast', 'DIS (medium)': 'dis',
             'variational': 'variational'}
OPENERS = {'.gz': gzip.open, '.xz': lzma.open}

def find(folder, name, tmp):
    "Path of `name` in `folder`, unpacked to `tmp` if need be; None if it is not there"
    if (folder/name).exists(): return folder/name
    for suffix,opener in OPENERS.items():
        packed = folder/f'{name}{suffix}'
        if not packed.exists(): continue
        with opener(packed) as f: data = f.read()
        path = tmp/name
        ensure_dir(path.parent)
        path.write_bytes(data)
        return path

def read_pairs(folder):
    "Name and `FlowSample` of each pair that `folder` has"
    with tempfile.TemporaryDirectory() as tmp:
        for name,files in PAIRS.items():
            paths = [find(folder, f, Path(tmp)) for f in files]
            if None in paths: print(f'skipped: {name}, no {files[paths.index(None)]}', file=sys.stderr)
            else: yield name,load_sample(*paths)

def measure(pairs, methods):
    "Per method and pair: EPE, Fl-all, milliseconds (best of two)"
    res = {m: {} for m in methods}
    for name,s in pairs:
        for m,run in methods.items():
            times = []
            for _ in range(2):
                start = time.perf_counter()
                flow = run(s.img1, s.img2)
                times.append(1000*(time.perf_counter() - start))
            res[m][name] = evaluate_pair(flow, s.flow, s.valid) | dict(ms=min(times))
            print(f"{name}: {m} {res[m][name]['epe']:.3f} px", file=sys.stderr)
    return res

def mean(scores, key): return sum(o[key] for o in scores.values())/len(scores)

def table(res):
    "Markdown: a row per method"
    pairs = list(next(iter(res.values())))
    cell = lambda name, o: f"{o['epe']:.3f}" + (f" / {o['fl_all']:.1f} %" if name in OUTLIERS else '')
    rows = [['EPE px (KITTI: / Fl-all)', *pairs, 'mean EPE', 'ms/pair'], ['---']*(len(pairs) + 3)]
    rows += [[m, *(cell(n, o) for n,o in scores.items()), f"{mean(scores, 'epe'):.3f}",
              f"{mean(scores, 'ms'):.0f}"] for m,scores in res.items()]
    return '\n'.join(f"| {' | '.join(r)} |" for r in rows)

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('folder', type=Path)
    ap.add_argument('--model', default='flowbook_small')
    ap.add_argument('--weights')
    ap.add_argument('--device', default='auto')
    ap.add_argument('--iters', type=int)
    ap.add_argument('--json', type=Path, help='file for the figures')
    args = ap.parse_args()
    try:
        predictor = FlowPredictor(args.model, args.weights, args.device, args.iters)
        methods = {k: lambda a, b, m=m: classical_flow(a, b, m)
                   for k,m in BASELINES.items()} | {predictor.name: predictor}
        if predictor.model.network:   # the network alone, and with its finish
            other = FlowPredictor(args.model, args.weights, args.device, args.iters, polish=not predictor.polish)
            methods[f'{predictor.name}, ' + ('polished' if other.polish else 'network alone')] = other
        res = measure(read_pairs(args.folder), methods)
        if not res[predictor.name]:
            raise fail(FlowbookError, args.folder, 'no pair', 'at least one of the pairs that --help lists')
    except FlowbookError as e: sys.exit(str(e))
    print(table(res))
    if args.json:
        with atomic_path(args.json) as tmp: tmp.write_text(json.dumps(res, indent=1))

if __name__=='__main__': main()
