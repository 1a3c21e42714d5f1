#!/usr/bin/env python3
"""What a Learner costs over a plain loop, and milliseconds of a training step of RAFT and PWC-Net beside ptlflow

    pip install ptlflow          # in a scratch environment; without it its column stays empty
    OMP_NUM_THREADS=1 python benchmarks/training.py [--what overhead step] [--device cpu] [--size 96 128] [--bs 1] [--iters 12] [--rounds 5] [--precision fp32]

Overhead: a network of one convolution on batches that are ready in memory, so that the loop is all there is. The plain loop has the same optimiser (AdamW, fused), clipping, schedule and reading of the loss. Beside it the Learner
as `flow_learner` makes it, and as `run_training` sets it up, with schedule, NaN guard and log. All of them run in turn within each round; the table shows medians. The goal is below 1.0 ms per iteration.

Step: forward, loss, backward, clipping, optimiser on one batch that stays, after two steps of warming up. Both libraries take turns within a round. RAFT makes 12 iterations in both. Weights are random: the time does not depend on them.
"""
import argparse, os, statistics, tempfile, time

os.environ.setdefault('OMP_NUM_THREADS', '1')
import torch
from fastai.data.core import DataLoaders
from flowbook.data.loaders import FlowDL
from flowbook.models.base import FlowOutput
from flowbook.models.zoo import create_model
from flowbook.train.learner import flow_learner
from flowbook.train.losses import epe_loss, loss_for
from flowbook.train.run import run_training
from flowbook.train.schedules import lr_schedule

def sync(device):
    if device.startswith('cuda'): torch.cuda.synchronize()

class Tiny(torch.nn.Module):
    "As little as a flow network can be"
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(6, 2, 3, padding=1)
    def forward(self, img1, img2):
        flow = self.conv(torch.cat([img1, img2], 1))
        return FlowOutput(flow, [flow])

class Ready:
    "A data set whose batches are in memory"
    n_inp = 2
    def __init__(self, n, size=(16, 16)): self.n, self.made = n, (torch.rand(2, 3, *size),
        torch.rand(2, 3, *size), torch.rand(2, 2, *size), torch.ones(2, 1, *size, dtype=torch.bool))
    def __len__(self): return self.n
    def __getitem__(self, i): return self.made
    def batch(self, idxs, passes=0): return self.made

def loaders(iters): return DataLoaders(FlowDL(Ready(2*iters), bs=2, training=True), FlowDL(Ready(2), bs=2),
                                       device=torch.device('cpu'))

def plain(iters):
    "The loop that one would write"
    dl, model, rate = loaders(iters).train, Tiny(), lr_schedule(dict(policy='one_cycle'), 1e-3, iters)
    opt, total = torch.optim.AdamW(model.parameters(), fused=True), 0.
    start = time.perf_counter()
    for i, (img1, img2, flow, valid) in enumerate(dl):
        for g in opt.param_groups: g['lr'] = rate(i)
        loss = epe_loss(model(img1, img2), flow, valid)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.)
        opt.step(); opt.zero_grad()
        total += loss.item()
    return time.perf_counter() - start

def timed_fit(learn, fit):
    with learn.no_bar(), learn.no_logging():
        start = time.perf_counter()
        fit()
        return time.perf_counter() - start

def learner(iters):
    learn = flow_learner(loaders(iters), Tiny(), epe_loss)
    return timed_fit(learn, lambda: learn.fit(1, 1e-3))

def whole_run(iters):
    learn = flow_learner(loaders(iters), Tiny(), epe_loss)
    with tempfile.TemporaryDirectory() as d:
        once = timed_fit(learn, lambda: run_training(learn, d, dict(iters=1, every=1),
                                                     dict(pictures=0)))      # files, evaluation and what is done once
        return timed_fit(learn, lambda: run_training(learn, d,
                                                     dict(iters=iters, every=iters,
                                                         lr=dict(policy='one_cycle')),
                                                     dict(pictures=0))) - once

def overhead(args):
    loops, rows = dict(plain=plain, learner=learner, run_training=whole_run), {}
    for _ in range(args.rounds):
        for name, loop in loops.items(): rows.setdefault(name, []).append(1000*loop(args.loop)/args.loop)
    print('| loop | ms per iteration | over the plain loop |\n| --- | --- | --- |')
    for name, ms in rows.items():
        print(f"| {name} | {statistics.median(ms):.2f} | {statistics.median(m - p for m, p in zip(ms, rows['plain'])):+.2f} |")

def ours(name, batch, args):
    "A training step of flowbook"
    model = create_model(name, **(dict(iters=12) if name=='raft' else {})).to(args.device).train()
    loss_func, opt = loss_for(model), torch.optim.AdamW(model.parameters(), 1e-5, fused=True)
    def step():
        with torch.autocast(args.device.split(':')[0], torch.bfloat16, enabled=args.precision=='bf16'):
            out = model(*batch[:2])
        finish(loss_func(out, *batch[2:]), model, opt)
    return step

def theirs(name, batch, args):
    "The same of ptlflow; None without it"
    try: import ptlflow
    except ImportError: return None
    model = ptlflow.get_model(name).to(args.device).train()
    if hasattr(model, 'iters'): model.iters = 12
    opt = torch.optim.AdamW(model.parameters(), 1e-5, fused=True)
    inputs = dict(images=torch.stack(batch[:2], 1), flows=batch[2][:, None], valids=batch[3].float()[:, None])
    def step():
        with torch.autocast(args.device.split(':')[0], torch.bfloat16, enabled=args.precision=='bf16'):
            out = model(inputs)
        loss = model.loss_fn(out, inputs)
        finish(loss['loss'] if isinstance(loss, dict) else loss, model, opt)
    return step

def finish(loss, model, opt):
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], 1.)
    opt.step(); opt.zero_grad()

def steps(args):
    print(f"\n| training step, {args.bs} x {args.size[0]}x{args.size[1]}, {args.device}, {args.precision} | flowbook ms | ptlflow ms | ptlflow / flowbook |\n| --- | --- | --- | --- |")
    h, w = args.size
    for name in args.models:
        torch.manual_seed(0)
        batch = [t.to(args.device)
                 for t in (torch.rand(args.bs, 3, h, w), torch.rand(args.bs, 3, h, w),
                           5*torch.randn(args.bs, 2, h, w), torch.ones(args.bs, 1, h, w, dtype=torch.bool))]
        both = {k: s for k, s in dict(flowbook=ours(name, batch, args),
                                      ptlflow=theirs(name, batch, args)).items() if s}
        ms = {k: [] for k in both}
        for r in range(args.rounds + 1):
            for k, s in both.items():
                sync(args.device); start = time.perf_counter()
                for _ in range(args.iters): s()
                sync(args.device)
                if r:
                    ms[k].append(1000*(time.perf_counter() - start)/args.iters)       # the first round warms up
        m = {k: statistics.median(v) for k, v in ms.items()}
        print(f"| {name} | {m['flowbook']:.0f} | {m.get('ptlflow', float('nan')):.0f} | {m.get('ptlflow', float('nan'))/m['flowbook']:.2f} |", flush=True)

if __name__=='__main__':
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--what', nargs='+', default=['overhead', 'step'], choices=['overhead', 'step'])
    p.add_argument('--models', nargs='+', default=['raft', 'pwcnet'])
    p.add_argument('--device', default='cpu')
    p.add_argument('--precision', default='fp32', choices=['fp32', 'bf16'])
    p.add_argument('--size', nargs=2, type=int, default=[128, 192])
    p.add_argument('--bs', type=int, default=1)
    p.add_argument('--iters', type=int, default=2, help='steps per round')
    p.add_argument('--loop', type=int, default=300, help='iterations of the overhead loops')
    p.add_argument('--rounds', type=int, default=5)
    args = p.parse_args()
    torch.set_num_threads(int(os.environ['OMP_NUM_THREADS']))
    if 'overhead' in args.what: overhead(args)
    if 'step' in args.what: steps(args)
