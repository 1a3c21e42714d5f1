#!/usr/bin/env python3
"""From a finished run to the weights in the package: weights file, model card, log.

    python benchmarks/release_weights.py RUN_DIR --hardware "2 CPU cores (AMD EPYC)" [--figures real_pairs.json]
    python benchmarks/release_weights.py --refresh [--figures real_pairs.json]

RUN_DIR is the work dir of `flowbook train flowbook_small`; how long it took is read from its log. The figures on held-out scenes are computed here, from the half-precision
file as it ships. Run it again with --figures, the JSON file of benchmarks/real_pairs.py, once that has measured the file. The network's flow is finished by variational flow: when that has changed, --refresh
measures again what depends on it, on the same scenes, and leaves the weights alone.
"""
import argparse, csv, datetime, json, shutil
from pathlib import Path
from flowbook.data.scenes import SceneConfig
from flowbook.infer.evaluate import evaluate_recipe
from flowbook.infer.predictor import FlowPredictor
from flowbook.infer.trust import measure_trust
from flowbook.io.files import atomic_path
from flowbook.models.zoo import create_model
from flowbook.models.weights import load_weights, read_state_dict, save_weights
from flowbook.recipes.base import apply_overrides

root = Path(__file__).resolve().parent.parent
STARTS = 'the flow of OpenCV\'s DIS, preset medium, in both directions: a classical method, which runs on the CPU before the network does'

def held_out(recipe, weights, iters):
    "EPE and Fl-all on the recipe's held-out scenes, of the model and of what it has to beat"
    found = evaluate_recipe(apply_overrides(recipe, [f"model.iters={iters}"]), weights, device='cpu')
    return {k: {m: round(v[m], 4) for m in ('epe', 'fl_all')} for k, v in found.items()}

def finished(recipe):
    "The same of the flow as it comes, and of the classical method that finishes it"
    res = {}
    for name in 'flowbook_small', 'variational':
        found = evaluate_recipe(recipe, predictor=FlowPredictor(name, device='cpu'), baselines={})
        res[name] = {m: round(next(iter(found.values()))[m], 4) for m in ('epe', 'fl_all')}
    return res

def confidence(recipe, name):
    "How far the confidence is to be believed on the recipe's held-out scenes, with the temperature that repairs it"
    tuples = lambda o: tuple(map(tuples, o)) if isinstance(o, list) else o
    config = SceneConfig(**{k: tuples(v) for k, v in recipe['data']['scenes'].items()})
    predictor = FlowPredictor(name, device='cpu', calibrated=False)
    return measure_trust(predictor, 24, config, seed=recipe['runtime']['seed']).card()

def hours(log):
    "From the first to the last line of a run's log, without the pauses between its pieces"
    times = [datetime.datetime.fromisoformat(l[:19]) for l in log.read_text().splitlines() if l[:4].isdigit()]
    gaps = [(b - a).total_seconds() for a, b in zip(times, times[1:])]
    return round(sum(g for g in gaps if g < 300)/3600, 2)

def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument('run', nargs='?'); ap.add_argument('--hardware'); ap.add_argument('--figures')
    ap.add_argument('--refresh', action='store_true')
    args = ap.parse_args()
    if not args.refresh and not (args.run and args.hardware): ap.error('RUN_DIR and --hardware, or --refresh')
    name, assets = 'flowbook_small', root/'flowbook'/'assets'
    def write(card):
        with atomic_path(assets/f"{name}.json") as tmp: Path(tmp).write_text(json.dumps(card, indent=1) + '\n')
    if args.refresh:
        card = json.loads((assets/f"{name}.json").read_text())
        card['held_out_scenes']['finished'] = finished(card['recipe'])
        card['trust'] = confidence(card['recipe'], name)
        if args.figures: card['real_pairs'] = json.loads(Path(args.figures).read_text())
        return write(card)
    run = Path(args.run)
    recipe = json.loads((run/'recipe.json').read_text())
    model = create_model(name)
    load_weights(model, read_state_dict(run/'last.pth'))
    digest = save_weights(model, assets/f"{name}.safetensors", model=name, licence='Apache-2.0',
                          starts_from='DIS')
    scores = {str(i): held_out(recipe, assets/f"{name}.safetensors", i) for i in (1, 2, 3)}
    for i, s in scores.items(): print(i, s)
    rows = list(csv.DictReader((run/'log.csv').open()))
    d, steps = recipe['data'], int(rows[-1]['iteration'])
    card = dict(name=name, title='flowbook_small, a refiner of DIS', starts_from=STARTS,
                parameters=sum(p.numel() for p in model.parameters()), licence='Apache-2.0',
                sha256=digest, date=str(datetime.date.today()), recipe_name='flowbook_small',
                hardware=args.hardware, hours=hours(run/'log.txt'), seed=recipe['runtime']['seed'],
                trained=f"{steps} steps of {d['bs']*(1 + d.get('both', False))} pairs on procedural scenes only: flowbook train flowbook_small",
                curve=[[int(r['iteration']), round(float(r['epe']), 4)] for r in rows], recipe=recipe,
                held_out_scenes=scores,
                real_pairs=json.loads(Path(args.figures).read_text()) if args.figures else None)
    write(card)   # the predictor checks the file against it
    card['held_out_scenes']['finished'] = finished(recipe)
    card['trust'] = confidence(recipe, name)
    write(card)
    for suffix in 'csv', 'txt':
        shutil.copy(run/f'log.{suffix}', root/'benchmarks'/'logs'/f'flowbook_small.{suffix}')

if __name__ == '__main__': main()
