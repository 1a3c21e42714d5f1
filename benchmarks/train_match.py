#!/usr/bin/env python3
"""Train MatchFlow from nothing, or go on, on the cores of a CPU.

    python benchmarks/train_match.py RUN_DIR --minutes 90 [--processes 2] [--from WEIGHTS] [--rate 6e-4]
    python benchmarks/train_match.py RUN_DIR --keep    writes weights and curve to benchmarks/logs

The recipe is `match_flow`, with photographs among the textures; what is special here is how the pairs reach the network. Rendering takes a tenth of the time: each process keeps a ring of rendered pairs, replaces two of them in each step, and
draws random crops from it, so that a pair is seen about twice. The processes average their gradients. RUN_DIR/state.pt holds all that is needed to go on (run the same command again with more minutes);
`--from` starts from weights alone, with a short warm-up. The learning rate falls linearly to zero at `--minutes`, which count from the first step of the first run.
"""
import argparse, os, random, time
from dataclasses import replace
from pathlib import Path
import torch, torch.distributed as dist, torch.multiprocessing as mp
from flowbook.data.scenes import SceneConfig, held_out_seed, make_scenes, scene_number
from flowbook.models.weights import load_weights, save_weights
from flowbook.models.zoo import create_model
from flowbook.recipes.base import get_recipe
from flowbook.train.losses import create_loss, epe_loss

PHOTOS = dict(photos='packaged', photo_share=.35)   # needs scikit-image or scikit-learn: pip install "flowbook[photos]"
CROP, MICRO, ACCUMULATE, RING, NEW, HELD_OUT = (192, 256), 2, 2, 1504, 16, 64

class Ring:
    "Rendered pairs, the oldest replaced first; random crops of them"
    def __init__(self, config, seed, rank, ranks, start):
        h, w = config.size
        kinds = (3, torch.uint8), (3, torch.uint8), (2, torch.half), (1, torch.bool), (1, torch.bool)
        self.parts = [torch.empty(RING, c, h, w, dtype=k) for c, k in kinds]
        self.config, self.seed, self.next, self.ranks = config, seed, start*ranks + rank, ranks
        self.at = self.filled = 0
        self.random = random.Random(1000*seed + rank + start)

    def add(self, n=NEW):
        s = make_scenes([scene_number(self.seed, self.next + i*self.ranks) for i in range(n)], self.config)
        self.next += n*self.ranks
        new = (s.img1*255).round(), (s.img2*255).round(), s.flow, s.valid, s.occ
        for part, x in zip(self.parts, new, strict=True): part[self.at:self.at + n] = x.to(part.dtype)
        self.at, self.filled = (self.at + n) % RING, min(RING, self.filled + n)

    def crop(self):
        draw, i = self.random, self.random.randrange(self.filled)
        y, x = (draw.randrange(s - c + 1) for s, c in zip(self.config.size, CROP, strict=True))
        img1, img2, flow, valid, occ = (p[i][:, y:y + CROP[0], x:x + CROP[1]] for p in self.parts)
        flow = flow.float()
        for axis, share in ((2, .5), (1, .3)):
            if draw.random() < share:
                img1, img2, flow, valid, occ = (o.flip(axis) for o in (img1, img2, flow, valid, occ))
                flow[2 - axis] *= -1
        if draw.random() < .3:
            order = draw.sample(range(3), 3)
            img1, img2 = img1[order], img2[order]
        return img1.float()/255, img2.float()/255, flow, valid, occ

    def batch(self): return [torch.stack(o) for o in zip(*(self.crop() for _ in range(MICRO)), strict=True)]

def rate_at(step, share, peak, warmup=400):
    "Learning rate after `share` of the time"
    return peak*min(1, (step + 1)/warmup)*max(.01, min(1, (1 - share)/.85))

def measure(model, config, seed, rank, ranks):
    "EPE of the running mean on held-out scenes, this process's part of them"
    total, n = torch.zeros(()), HELD_OUT//ranks
    for i in range(rank*n, (rank + 1)*n):
        s = make_scenes([scene_number(held_out_seed(seed), i)], config)
        with torch.inference_mode(), torch.autocast('cpu', torch.bfloat16): flow = model(s.img1, s.img2).flow
        total += epe_loss(flow, s.flow, s.valid)
    dist.all_reduce(total)
    return float(total)/(n*ranks)

def work(rank, args):
    dist.init_process_group('gloo', init_method=f'tcp://127.0.0.1:{args.port}', rank=rank, world_size=args.processes)
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    recipe, folder = get_recipe('match_flow'), Path(args.run)
    config = replace(SceneConfig(**recipe['data']['scenes']), **PHOTOS)
    model, mean = create_model('match_flow').train(), create_model('match_flow').eval()
    if args.start: load_weights(model, args.start)
    mean.load_state_dict(model.state_dict())
    loss_func = create_loss(None, model, ('occ',))
    params = list(model.parameters())
    groups = [dict(params=[p for p in params if p.ndim > 1], weight_decay=1e-4),
              dict(params=[p for p in params if p.ndim <= 1], weight_decay=0.)]
    opt = torch.optim.AdamW(groups, lr=args.rate, betas=(.9, .99))
    step, before, state = 0, 0., folder/'state.pt'
    if state.exists():
        saved = torch.load(state, weights_only=True)
        model.load_state_dict(saved['model']); mean.load_state_dict(saved['mean']); opt.load_state_dict(saved['opt'])
        step, before = saved['step'], saved['seconds']
    ring = Ring(config, args.seed, rank, args.processes, 4*step)
    while ring.filled < (RING if step == 0 else RING//3): ring.add(32)
    dist.barrier()
    start, logged, sums = time.time() - before, time.time(), []
    def save(seconds):
        torch.save(dict(model=model.state_dict(), mean=mean.state_dict(), opt=opt.state_dict(), step=step,
                        seconds=seconds), folder/'state.tmp')
        os.replace(folder/'state.tmp', state)
    def report(seconds):
        epe = measure(mean, config, args.seed, rank, args.processes)
        if rank: return
        print(f'held out: {epe:.3f} px after {step} steps', flush=True)
        with (folder/'curve.csv').open('a') as f: f.write(f'{step},{seconds:.0f},{epe:.4f}\n')
    while True:
        clock = torch.tensor([time.time() - start], dtype=torch.double)
        dist.broadcast(clock, 0)
        share = float(clock)/(60*args.minutes)
        if share >= 1 or step == args.steps: break
        for g in opt.param_groups: g['lr'] = rate_at(step, share, args.rate)
        if step % 8 == 0: ring.add()
        for _ in range(ACCUMULATE):
            img1, img2, *truth = ring.batch()
            with torch.autocast('cpu', torch.bfloat16): out = model(img1, img2)
            loss = loss_func(out, *truth)
            (loss/(ACCUMULATE*args.processes)).backward()
            sums.append(float(loss))
        grad = torch.cat([p.grad.flatten() for p in params])
        dist.all_reduce(grad)
        for p, g in zip(params, grad.split([p.numel() for p in params]), strict=True): p.grad.copy_(g.view_as(p))
        if torch.nn.utils.clip_grad_norm_(params, 1.).isfinite(): opt.step()
        opt.zero_grad(set_to_none=False)
        step += 1
        decay = min(.999, (1 + step)/(10 + step))
        with torch.no_grad(): torch._foreach_lerp_(list(mean.parameters()), params, 1 - decay)
        if step % 100 == 0 or step == args.steps:
            if rank == 0: print(f'{step} steps, {float(clock):.0f} s, loss {sum(sums)/len(sums):.3f}, '
                                f'{step*MICRO*ACCUMULATE*args.processes/float(clock):.1f} crops/s', flush=True)
            sums = []
        if step % 1000 == 0: report(float(clock))
        if rank == 0 and time.time() - logged > 150:
            logged = time.time()
            save(float(clock))
    if rank == 0: save(float(clock))
    report(float(clock))
    dist.destroy_process_group()

def keep(args):
    "Put what is needed to go on into the repository: weights in half precision, and the curve"
    run, to = Path(args.run), Path(__file__).resolve().parent/'logs'
    saved = torch.load(run/'state.pt', weights_only=True, map_location='cpu')
    model = create_model('match_flow')
    model.load_state_dict(saved['mean'])
    save_weights(model, to/'match_flow.safetensors', model='match_flow', licence='Apache-2.0', step=str(saved['step']),
                 seed=str(args.seed), hours=f"{saved['seconds']/3600:.2f}", trained_on='rendered scenes')
    (to/'match_flow.csv').write_text((run/'curve.csv').read_text())

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('run')
    ap.add_argument('--minutes', type=float, default=90.); ap.add_argument('--steps', type=int, help='stop after so many')
    ap.add_argument('--processes', type=int, default=2); ap.add_argument('--port', type=int, default=29517)
    ap.add_argument('--from', dest='start'); ap.add_argument('--rate', type=float, default=6e-4)
    ap.add_argument('--seed', type=int, default=17)
    ap.add_argument('--keep', action='store_true')
    args = ap.parse_args()
    Path(args.run).mkdir(parents=True, exist_ok=True)
    if args.keep: keep(args)
    else: mp.spawn(work, (args,), args.processes)

if __name__ == '__main__': main()
