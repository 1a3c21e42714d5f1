#!/usr/bin/env python3
"""From a finished run to the weights in the package: weights file, model card, log.

    python benchmarks/release_weights.py RUN_DIR --hardware "2 CPU cores (AMD EPYC)" --hours 1.2 [--figures real_pairs.json]

RUN_DIR is the work dir of `flowbook train flowbook_small`. The figures on held-out scenes are computed here, from the half-precision file as it ships.
"""
import argparse, datetime, json, shutil
from pathlib import Path
from flowbook.infer.evaluate import evaluate_recipe
from flowbook.models.base import create_model
from flowbook.models.weights import load_weights, read_state_dict, save_weights
from flowbook.recipes.core import apply_overrides

root = Path(__file__).resolve().parent.parent

def held_out(recipe, weights, iters):
    "EPE and Fl-all on the recipe's held-out scenes, of the model and of zero flow"
    found = evaluate_recipe(apply_overrides(recipe, [f"model.iters={iters}"]), weights, device='cpu')
    pick = lambda scores: {k: round(scores[k], 4) for k in ('epe', 'fl_all')}
    return dict(model=pick(found[recipe['model']['name']]), zero=pick(found['zero flow']))

def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument('run'); ap.add_argument('--hardware', required=True); ap.add_argument('--hours', type=float, required=True); ap.add_argument('--figures')
    args = ap.parse_args()
    run, name, assets = Path(args.run), 'flowbook-small', root/'flowbook'/'assets'
    recipe = json.loads((run/'recipe.json').read_text())
    model = create_model(name)
    load_weights(model, read_state_dict(run/'last.pth'))
    assets.mkdir(exist_ok=True)
    digest = save_weights(model, assets/f"{name}.safetensors", model=name, licence='Apache-2.0')
    by_iters = {i: held_out(recipe, assets/f"{name}.safetensors", i) for i in (4, 6, 8, 12)}
    for i, s in by_iters.items(): print(i, s)
    steps = recipe['schedule']['epochs']*(recipe['data']['n_train']//recipe['data']['bs'])
    card = dict(name=name, parameters=sum(p.numel() for p in model.parameters()), licence='Apache-2.0', sha256=digest, date=str(datetime.date.today()),
                trained=f"{steps} steps of {recipe['data']['bs']} pairs on procedural scenes only: flowbook train flowbook_small", hardware=args.hardware, hours=args.hours,
                seed=recipe['runtime']['seed'], recipe=recipe, held_out_scenes={str(i): s for i, s in by_iters.items()},
                real_pairs=json.loads(Path(args.figures).read_text()) if args.figures else None)
    (assets/f"{name}.json").write_text(json.dumps(card, indent=1) + '\n')
    (root/'benchmarks'/'logs').mkdir(exist_ok=True)
    shutil.copy(run/'log.csv', root/'benchmarks'/'logs'/'flowbook_small.csv')

if __name__ == '__main__': main()
