#!/usr/bin/env python3
"""Does a training run repeat itself? Runs the first iterations of a recipe again and compares the losses it logs with those of an old log.

    python benchmarks/rerun.py [--recipe flowbook_small] [--log benchmarks/logs/flowbook_small.txt] [--iters 300]

On the machine of the log, with the same number of threads, they agree in every digit; elsewhere sums are added up in another order, and losses drift apart slowly.
"""
import argparse, contextlib, io, re, tempfile
from pathlib import Path
from fastai.callback.core import Callback, CancelFitException
from flowbook.recipes.base import get_recipe, run_recipe

class Stop(Callback):
    "End the run after `iters` iterations"
    order = 90
    def __init__(self, iters): self.limit = iters
    def after_batch(self):
        if self.training and self.learn.train_iter >= self.limit: raise CancelFitException

def losses(path): return {int(i): float(l)
                          for i, l in re.findall(r'iteration (\d+)  lr \S+  loss (\S+)',
                                                 Path(path).read_text())}

def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument('--recipe', default='flowbook_small'); ap.add_argument('--iters', type=int, default=300)
    ap.add_argument('--log', default=Path(__file__).parent/'logs'/'flowbook_small.txt')
    args = ap.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        with contextlib.redirect_stdout(io.StringIO()):
            run_recipe(get_recipe(args.recipe), tmp, validate=False, cbs=[Stop(args.iters)])   # no bar
        new, old = losses(Path(tmp)/'log.txt'), losses(args.log)
    shared = sorted(new.keys() & old.keys())
    print('| iteration | logged | again |\n| --- | --- | --- |')
    for i in shared: print(f'| {i} | {old[i]} | {new[i]} |')
    print(f'largest relative difference {max(abs(new[i]/old[i] - 1) for i in shared):.1e}')

if __name__ == '__main__': main()
