"No command writes over what it reads: by its name, by another spelling, through links; no results among frames"
import json, os, shutil
import numpy as np, pytest
from typer.testing import CliRunner
from flowbook.cli.main import app
from flowbook.data.make import make_dataset
from flowbook.io.files import asset_path
from flowbook.io.flowfiles import write_flow
from flowbook.io.images import write_image
from flowbook.io.video import VideoWriter
from flowbook.recipes.base import get_recipe

@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root,rng = tmp_path_factory.mktemp('own'),np.random.default_rng(0)
    frames = [rng.integers(0, 256, (64,96,3), np.uint8) for _ in range(3)]
    for o in ('frames', 'gt', 'run'): (root/o).mkdir()
    for i,o in enumerate(frames): write_image(o, root/f'frames/{i}.png')
    for i in range(2): write_flow(np.zeros((64,96,2), np.float32), root/f'gt/{i}.flo')
    with VideoWriter(root/'walk.mp4', 10) as w:
        for o in frames: w.write(o)
    for o in ('flow.png', 'side_by_side.png', 'b.png'): shutil.copy(root/'frames/0.png', root/o)
    shutil.copy(root/'gt/0.flo', root/'flow.flo')
    for o in ('w.safetensors', 'run/weights.safetensors'):
        shutil.copy(asset_path('flowbook_small.safetensors'), root/o)
    shutil.copy(root/'w.safetensors', root/'w.pt2')
    (root/'plan.json').write_text(json.dumps(get_recipe('quickstart')))
    (root/'run/log.csv').write_text('iteration,loss\n1,2\n')
    make_dataset('sintel', root/'sintel', n=2)
    (root/'own').mkdir()
    shutil.copy(root/'plan.json', root/'own/recipe.json')
    shutil.copytree(root/'frames', root/'own/sub')
    (root/'own/log.csv').write_text('img1,img2\nsub/0.png,sub/1.png\n')
    for link,to in (('l.mp4', 'walk.mp4'), ('lf', 'frames'), ('gt_flo', 'gt'),
        ('l.safetensors', 'w.safetensors')):
        (root/link).symlink_to(to)
    os.link(root/'walk.mp4', root/'h.mp4')
    return root

COMMANDS = [
    'video walk.mp4 --out walk.mp4 --model zero', 'video walk.mp4 --out l.mp4 --model zero',
            'video l.mp4 --out walk.mp4 --model zero', 'video walk.mp4 --out h.mp4 --model zero',
    'video frames --out frames --model zero', 'video frames --out lf --model zero',
            'video lf --out frames/../frames --model zero', 'video frames/*.png --out frames --model zero',
    'video frames --out gt.mp4 --gt gt --save-flo --model zero', 'video frames --out gt --gt gt --model zero',
    'frames2video walk.mp4 --out walk.mp4', 'frames2video walk.mp4 --out ./l.mp4 --scale .5',
            'merge walk.mp4 gt --out walk.mp4', 'merge frames gt --out frames', 'merge frames gt --out gt',
    'infer flow.png b.png --out . --model zero', 'infer b.png side_by_side.png --out . --model zero',
            'infer b.png frames/0.png --gt flow.flo --out . --model zero', 'demo b.png flow.png --out .',
    'convert w.safetensors w.safetensors', 'convert w.safetensors ./l.safetensors',
            'convert l.safetensors w.safetensors', 'export flowbook_small --weights w.pt2 --out w.pt2',
    'slurm plan.json --out plan.json', 'curves run --out run/log.csv', 'test plan.json --save plan.json',
            'compare flowbook_small:plan.json --save plan.json',
    'test flowbook_small --data sintel --root sintel --out-dir sintel/training/clean/{scene}',
            'test flowbook_small --data sintel --root sintel --show-dir sintel',
    'train quickstart --work-dir run --load-from run/weights.safetensors', 'train own/recipe.json --work-dir own',
            'train quickstart --data folder --root own csv=log.csv --work-dir own',
            'train quickstart data=folder data.root=own data.options.csv=log.csv --work-dir own',
    'infer b.png frames/0.png --gt flow.flo --out flow.flo --model dis',
            'infer --data folder --root own images=sub/*.png --out own/sub --model zero',
    'bench plan.json --save plan.json', 'compare plan.json --save plan.json',
            'compare zero --data folder --root own csv=log.csv --save own/log.csv',
            'test zero --data folder --root own csv=log.csv --save own/log.csv',
]

@pytest.mark.parametrize('line', COMMANDS)
def test_refused_and_untouched(line, root, monkeypatch):
    monkeypatch.chdir(root)
    scene = next((root/'sintel/training/clean').iterdir()).name
    before = {p: p.read_bytes() for p in root.rglob('*') if p.is_file()}
    res = CliRunner().invoke(app, line.format(scene=scene).split(), prog_name='flowbook')
    assert (res.exit_code, res.stdout)==(2, ''), (res.exit_code, res.stdout, res.stderr, res.exception)
    assert 'that is read' in res.stderr and len(res.stderr.splitlines())==1, res.stderr
    assert {p: p.read_bytes() for p in root.rglob('*') if p.is_file()}==before
