#!/usr/bin/env python3
"""What the matcher of the compact RAFT buys: three networks of the same size, the same scenes, the same steps.

    python benchmarks/matcher.py [--steps 200]

Prints, for each 50 training steps, the mean EPE of the final flow divided by that of zero flow.
"""
import argparse
import torch
from flowbook.data.scenes import SceneConfig, make_scenes
from flowbook.models.compact import CompactRAFT, compact_parts
from flowbook.models.raft import RAFT
from flowbook.train.losses import sequence_loss

class Normalised(RAFT):
    "RAFT whose correlated features are normalised"
    encode = CompactRAFT.encode

def learn(model, steps, config, bs=8, lr=1e-3):
    opt = torch.optim.AdamW(model.parameters(), lr, weight_decay=1e-4)
    scores, epe, zero = [], 0., 0.
    for i in range(steps):
        for g in opt.param_groups: g['lr'] = lr*min(1., (i + 1)/30)
        s = make_scenes(range(i*bs, i*bs + bs), config)
        with torch.autocast('cpu', torch.bfloat16): out = model(s.img1, s.img2, iters=3)
        opt.zero_grad()
        sequence_loss(out, s.flow, s.valid).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.)
        opt.step()
        epe += (out.flow.detach().float() - s.flow).norm(dim=1).mean().item(); zero += s.flow.norm(dim=1).mean().item()
        if (i + 1) % 50 == 0: scores.append(epe/zero); epe = zero = 0.
    return scores

def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument('--steps', type=int, default=200)
    steps = ap.parse_args().steps
    config = SceneConfig(size=(128, 160), displacement=((1., .1), (4., .3), (12., .4), (32., .2)),
                         photometric=.7)
    print('| network | ' + ' | '.join(f"steps {i - 49}-{i}" for i in range(50, steps + 1, 50)) + ' |')
    print('|---' * (steps//50 + 1) + '|')
    for name, kind in (('RAFT', RAFT), ('+ normalised features', Normalised), ('+ matcher', CompactRAFT)):
        torch.manual_seed(0)
        print(f"| {name} | " + ' | '.join(f"{s:.2f}"
                                          for s in learn(kind(**compact_parts()), steps, config)) + ' |',
              flush=True)

if __name__ == '__main__': main()
