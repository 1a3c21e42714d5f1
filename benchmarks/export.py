#!/usr/bin/env python3
"""Every network in every format: is the file equal to the model?

    pip install -e ".[export]"
    OMP_NUM_THREADS=1 python benchmarks/export.py ['raft*' ...] [--size 64 96] [--iters 2] [--out benchmarks/export.md]

Exports each network with freshly drawn weights (seed 0; flow heads turned down until flows stay below 30 px: random ones may lead thousands of pixels away) to ONNX and to torch.export, once at a fixed size and once for any size, runs the file beside the
model on procedural pairs, and prints the largest difference, in pixels. A file for any size is run at twice the size, and at another size with a batch of two.
With --out the rows of an earlier table for models that are not named are kept.
"""
import argparse, contextlib, io, logging, re, sys, tempfile, time
from pathlib import Path
import torch
from torch import nn
from flowbook.core.errors import FlowbookError
from flowbook.models.registry import list_models
from flowbook.models.zoo import create_model
from flowbook.models.classical import Classical
from flowbook.models.contract import texture_pair
from flowbook.models.export import export_model

kinds = [('onnx', False), ('onnx', True), ('torch_export', False), ('torch_export', True)]
heads = ['model', 'ONNX', 'ONNX, any size', 'torch.export', 'torch.export, any size', 'largest flow, px',
         'file, MB']

@torch.no_grad()
def settle(model, size, **options):
    "Turn down all layers that predict flow until the largest vector is 30 px"
    pair = model.from_pair(*texture_pair(size))
    for _ in range(8):
        largest = model(*pair, **options).flow.abs().max().item()
        if largest <= 30: break
        for m in model.modules():
            if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d)) and m.out_channels == 2:
                for p in m.parameters(): p.mul_(max(.1, 20/largest))
    return model

def row(name, size, iters, folder):
    "Cells of one model"
    torch.manual_seed(0)
    model, cells, largest, megabytes = create_model(name).eval(), [], 0., 0.
    iters = iters if hasattr(model, 'iters') else None
    settle(model, size, **{} if iters is None else dict(iters=iters))
    for format, dynamic in kinds:
        path, start = folder/('a.onnx' if format == 'onnx' else 'a.pt2'), time.perf_counter()
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                found = export_model(model, path, tuple(2*s for s in size) if dynamic else size, format,
                                     dynamic, iters)
        except FlowbookError as e:
            print(f'{name} {format} {dynamic}: {e}', file=sys.stderr, flush=True)
            cells.append('fails')
            continue
        cells.append(f'{found.delta:.1e}')
        largest, megabytes = max(largest, *(c[4] for c in found.checks)), max(megabytes, found.bytes/1e6)
        print(f'{name} {format} {dynamic}: {found.delta:.1e}, {time.perf_counter() - start:.0f} s',
              file=sys.stderr, flush=True)
    return [f'`{name}`', *cells, f'{largest:.0f}', f'{megabytes:.1f}']

def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument('patterns', nargs='*', default=['*'], help='names of models, or shell-style patterns')
    ap.add_argument('--size', nargs=2, type=int, default=(64, 96),
                    help='height and width of the fixed size; any size: twice that')
    ap.add_argument('--iters', type=int, default=2, help='iterations of recurrent models')
    ap.add_argument('--out', type=Path, help='Markdown file to write')
    args = ap.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    names = sorted({n for p in args.patterns for n in list_models(p)})
    with torch.device('meta'): names = [n for n in names if not isinstance(create_model(n), Classical)]
    rows = {}
    if args.out and args.out.exists():
        for line in args.out.read_text(encoding='utf-8').splitlines():
            if (m := re.match(r'\| `([^`]+)` \|', line)): rows[m[1]] = line
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            rows[name] = f"| {' | '.join(row(name, tuple(args.size), args.iters, Path(folder)))} |"
        table = '\n'.join([f"| {' | '.join(heads)} |", '| --- |' + ' ---: |'*(len(heads) - 1),
                           *(rows[k] for k in sorted(rows))])
        if args.out: args.out.write_text(table + '\n', encoding='utf-8')
    print(table)

if __name__ == '__main__': main()
