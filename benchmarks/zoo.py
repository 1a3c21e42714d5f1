#!/usr/bin/env python3
"""Milliseconds per pair of every estimator, beside torchvision's RAFT and ptlflow's ports, on the CPU

    pip install ptlflow          # in a scratch environment; without it its column stays empty
    OMP_NUM_THREADS=1 python benchmarks/zoo.py ['raft*' ...] [--size 448 1024] [--rounds 5] [--iters 12] [--bf16] [--threads 1] [--out FILE]

One process, batch of one, float32, freshly drawn weights, no gradients, full resolution in and out. All competitors for a model run in turn within each round, so that
a busy machine slows them alike; the table shows the median of the rounds, and the median of the ratios within a round (above 1: flowbook is quicker).
Recurrent networks all do --iters iterations; with --iters 0 each does its own number. A network of three frames gets three. --bf16 also runs flowbook's under bfloat16 autocast; its ratio is to the peer in float32.
Training stages are left out. ptlflow's networks are those that `ptlflow.get_model` builds without further options.
"""
import argparse, os, statistics, sys, warnings
from functools import partial
from pathlib import Path
from unittest import mock

os.environ.setdefault('OMP_NUM_THREADS', '1')
import cv2, torch
from measure import turns
from flowbook.models.registry import list_models
from flowbook.models.zoo import create_model
from flowbook.models.classical import Classical
from flowbook.models.contract import texture_pair
from flowbook.models.summary import flops, num_params

warnings.simplefilter('ignore')
ptlflow_names = dict(flownets='flownets', flownetc='flownetc', flownet2sd='flownetsd', flownet2cs='flownetcs',
                     flownet2css='flownetcss', flownet2='flownet2', pwcnet='pwcnet',
                     gmflow='gmflow', gmflow_refine='gmflow_refine', unimatch_refine6='unimatch_sc2_ref6',
                     dpflow='dpflow', rapidflow='rapidflow', memfof='memfof',
                     liteflownet='liteflownet', liteflownet2='liteflownet2', irrpwc='irr_pwc',
                     maskflownets='maskflownet_s', maskflownet='maskflownet', raft='raft',
                     raft_small='raft_small', gma='gma', sea_raft_s='sea_raft_s', sea_raft_m='sea_raft_m',
                     sea_raft_l='sea_raft_l',
                     neuflow2='neuflow2')
torchvision_names = dict(raft='raft_large', raft_small='raft_small')

def ours(name, iters):
    model = create_model(name).eval()
    kw = dict(iters=iters) if iters and hasattr(model, 'iters') else {}
    return model, lambda *images: model(*images, **kw).flow

def torchvision_run(name, iters):
    import torchvision
    model = getattr(torchvision.models.optical_flow, name)().eval()
    return lambda a, b: model(2*a - 1, 2*b - 1, num_flow_updates=iters or 12)[-1]

def ptlflow_run(name, iters):
    try: import ptlflow
    except ImportError as e:
        print(f'no ptlflow: {e}', file=sys.stderr)
        return None
    from torchvision.models import resnet
    plain = resnet._resnet
    untrained = lambda block, layers, weights, progress, **kw: plain(block, layers, None, progress, **kw)
    with mock.patch.object(resnet, '_resnet', untrained):            # no download of an ImageNet trunk
        model = ptlflow.get_model(name).eval()
    if hasattr(model, 'iters'): model.iters = iters
    return lambda *images: model({'images': torch.stack(images, 1)})['flows'][:, 0]

def bfloat16(run):
    def f(*images):
        with torch.autocast('cpu', torch.bfloat16): return run(*images)
    return f

def timed(competitors, images, rounds):
    "Seconds of each competitor in each round"
    def run(k, f):
        flow = f(*images)
        assert flow.shape == (1, 2, *images[0].shape[-2:]), f'{k}: {tuple(flow.shape)}'
    return turns({k: partial(run, k, f) for k, f in competitors.items()}, rounds)

def row(name, args):
    model, run = ours(name, args.iters)
    iters = args.iters or getattr(model, 'iters', None)
    competitors = {'flowbook': run}
    if args.bf16 and not isinstance(model, Classical): competitors['bf16'] = bfloat16(run)
    if name in torchvision_names:
        competitors['torchvision'] = torchvision_run(torchvision_names[name], iters)
    if name in ptlflow_names and (peer := ptlflow_run(ptlflow_names[name], iters)):
        competitors['ptlflow'] = peer
    images = model.from_pair(*texture_pair(tuple(args.size)))
    with torch.inference_mode(): found = timed(competitors, images, args.rounds)
    ms = lambda k: f'{1000*statistics.median(found[k]):.0f}' if k in found else ''
    ratio = lambda k, to='flowbook': f'{statistics.median(b/a for a, b in zip(found[to], found[k])):.2f}' if {k, to} <= found.keys() else ''
    classical = isinstance(model, Classical)
    gflops = '' if classical else f'{flops(model, tuple(args.size), iters)/1e9:.0f}'
    return [f'`{name}`', '' if classical else f'{num_params(model)/1e6:.1f}', gflops, ms('flowbook'),
            ms('torchvision'), ratio('torchvision'), ms('ptlflow'), ratio('ptlflow'),
            *([ms('bf16'), ratio('ptlflow', 'bf16')] if args.bf16 else [])]

def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument('patterns', nargs='*', default=['*'], help='names of models, or shell-style patterns')
    ap.add_argument('--size', nargs=2, type=int, default=(448, 1024), help='height and width')
    ap.add_argument('--rounds', type=int, default=5)
    ap.add_argument('--iters', type=int, default=12, help='iterations of recurrent networks, 0: each its own')
    ap.add_argument('--bf16', action='store_true', help='also in bfloat16')
    ap.add_argument('--threads', type=int, default=1)
    ap.add_argument('--out', type=Path, help='Markdown file to write as well')
    args = ap.parse_args()
    torch.set_num_threads(args.threads); cv2.setNumThreads(args.threads)
    heads = ['model', 'M parameters', 'GFLOPs', 'ms', 'torchvision ms', 'ratio', 'ptlflow ms', 'ratio',
             *(['bf16 ms', 'ratio to ptlflow'] if args.bf16 else [])]
    lines = [f"| {' | '.join(heads)} |", '| --- |' + ' ---: |'*(len(heads) - 1)]
    names = sorted({n for p in args.patterns for n in list_models(p) if '_pre_' not in n})
    for name in names:
        print(f'{name} ...', end='\r', file=sys.stderr, flush=True)
        lines.append(f"| {' | '.join(row(name, args))} |")
        if args.out: args.out.write_text('\n'.join(lines) + '\n', encoding='utf-8')
    print('\n'.join([f'{args.size[1]}x{args.size[0]}, batch 1, {args.threads} thread{"s"*(args.threads > 1)}, {args.iters or "own"} iterations, median of {args.rounds} rounds, torch {torch.__version__}', '', *lines]))

if __name__ == '__main__': main()
