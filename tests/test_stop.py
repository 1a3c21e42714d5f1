"Long commands that are stopped: Ctrl-C is one line and exit code 130, kill -9 loses nothing that was finished, and --resume ends where an unbroken run does"
import csv, json, os, signal, subprocess, sys, time
from pathlib import Path
import cv2, numpy as np, pytest
from typer.testing import CliRunner
from flowbook.cli import terminal
from flowbook.cli.main import app
from flowbook.data.make import make_dataset
from flowbook.io.images import write_image

pytestmark = pytest.mark.skipif(os.name!='posix', reason='signals')
ROOT = Path(__file__).resolve().parent.parent

@pytest.fixture(scope='module')
def world(tmp_path_factory):
    "A film of 14 frames as a folder, four short clips, a mask, points, a data set, a folder of PPM"
    d = tmp_path_factory.mktemp('world')
    ground = cv2.resize(np.random.default_rng(0).integers(0, 255, (12,16,3), dtype=np.uint8), (128,96), interpolation=cv2.INTER_CUBIC)
    def film(folder, n, step):
        for i in range(n): write_image(np.roll(ground, step*i, 1), (d/folder).mkdir(parents=True, exist_ok=True) or d/folder/f'{i:03}.png')
    film('film', 14, 2)
    for k in range(4): film(f'clips/c{k}', 4, k + 1)
    mask = np.zeros((96,128), np.uint8)
    mask[30:60,40:80] = 1
    cv2.imwrite(str(d/'mask.png'), mask)
    (d/'points.csv').write_text('x,y\n40,30\n64.5,50\n')
    make_dataset('sintel', d/'Sintel', n=4, size=(96,128))
    for i in range(6): write_image(np.roll(ground, i, 0), (d/'ppm').mkdir(exist_ok=True) or d/'ppm'/f'{i}.ppm')
    return d

def run(*args):
    res = CliRunner().invoke(app, [str(o) for o in args], prog_name='flowbook')
    return res.exit_code,res.stdout,res.stderr

def results(folder):
    "Every file below, and what it holds; times in it differ"
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob('*')) if p.is_file()}

def hidden(folder): return [o for o in folder.rglob('.flowbook-*')]

RESUMED = dict(
    points=('track', 'WORLD/film', '--points', 'WORLD/points.csv', '--out', 'OUT/t.csv'),
    grid=('track', 'WORLD/film', '--grid', 5, '--out', 'OUT/t.npz'),
    trails=('track', 'WORLD/film', '--grid', 5, '--out', 'OUT/t.avi'),
    stmap=('track', 'WORLD/film', '--exr', 'stmap', '--out', 'OUT/maps'),
    nuke=('track', 'WORLD/film', '--exr', 'nuke', '--ref', 6, '--start', 1, '--stop', 13, '--out', 'OUT/maps'),
    propagate=('propagate', 'WORLD/mask.png', 'WORLD/film', '--frame', 6, '--out', 'OUT/masks'),
    score=('score', 'WORLD/clips', '--out', 'OUT/s.csv'),
    scores=('score', 'WORLD/clips', '--out', 'OUT/s.json', '--workers', 2),
    video=('video', 'WORLD/film', '--out', 'OUT/v', '--save-flo'))
RESUMED = {k: (*v, '--model', 'dis', '--device', 'cpu') for k,v in RESUMED.items()}

def fill(args, world, out): return [str(o).replace('WORLD', str(world)).replace('OUT', str(out)) for o in args]

@pytest.fixture(scope='module')
def whole(world, tmp_path_factory):
    "The results of unbroken runs"
    made = {}
    def get(name):
        if name not in made:
            out = tmp_path_factory.mktemp(name)
            code,_,err = run(*fill(RESUMED[name], world, out))
            assert code==0, err
            made[name] = results(out)
        return made[name]
    return get

def signal_at(n, monkeypatch, number=signal.SIGINT):
    "A signal when something is counted for the `n`th time"
    seen,inside = [],terminal.Counting.__call__
    def count(self, *args):
        inside(self, *args)
        seen.append(args)
        if len(seen)==n: signal.raise_signal(number)
    monkeypatch.setattr(terminal.Counting, '__call__', count)
    return seen

def same(found, expected):
    assert sorted(found)==sorted(expected)
    for k,v in expected.items():
        if not k.endswith('flowbook-video.json'): assert found[k]==v, k

@pytest.mark.parametrize('n', [1, 3])
@pytest.mark.parametrize('name', RESUMED)
def test_ctrl_c_and_resume(name, n, world, whole, tmp_path, monkeypatch):
    expected,args = whole(name),fill(RESUMED[name], world, tmp_path)
    with monkeypatch.context() as m:
        signal_at(n, m, signal.SIGTERM if n==3 else signal.SIGINT)
        code,out,err = run(*args)
    assert (code, out)==(130, ''), (out, err)
    lines = err.splitlines()
    assert lines[0].startswith('stopped after ') and lines[1:]==['next: the same command with --resume does the rest'], err
    assert not hidden(tmp_path)
    code,out,err = run(*args)
    assert code==2 and 'of another run' in err, err           # nothing is written over without a word
    assert run(*args, '--resume')[0]==0
    same(results(tmp_path), expected)
    assert not hidden(tmp_path)

KILLED = """
import os, signal, sys
from flowbook.cli import main, terminal
inside,seen,n = terminal.Counting.__call__,[],int(sys.argv.pop(1))
def count(self, *args):
    inside(self, *args)
    seen.append(args)
    if len(seen)==n: os.kill(os.getpid(), signal.SIGKILL)
terminal.Counting.__call__ = count
main.main()
"""
def killed(n, args):
    return subprocess.run([sys.executable, '-c', KILLED, str(n), *args], capture_output=True, text=True, timeout=300,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}).returncode

@pytest.mark.parametrize('name', RESUMED)
def test_kill_9_and_resume(name, world, whole, tmp_path):
    "Twice, at the fourth and at the third count of what was left"
    expected,args = whole(name),fill(RESUMED[name], world, tmp_path)
    assert killed(4 if 'score' not in name else 2, args)==-signal.SIGKILL
    before = {k: v for k,v in results(tmp_path).items() if '/0' in k}     # finished pictures
    if 'score' not in name: killed(3, [*args, '--resume'])
    code,out,err = run(*args, '--resume')
    assert code==0, err
    found = results(tmp_path)
    same(found, expected)
    assert {k: found[k] for k in before}==before               # nothing lost
    assert not hidden(tmp_path)

STOPPED = dict(
    test=('test', 'flowbook_fast', '--n', 3, '--report', 'OUT/r.html', '--save', 'OUT/s.json', '--device', 'cpu'),
    compare=('compare', 'flowbook_fast', 'dis', '--n', 3, '--no-memory', '--report', 'OUT/r.html', '--save', 'OUT/s.csv', '--device', 'cpu'),
    bench=('bench', 'dis', '--size', '64x96', '--batch', 1, 2, '--runs', 1, '--no-memory', '--save', 'OUT/s.csv', '--device', 'cpu'),
    submit=('submit', 'sintel', '--model', 'dis', '--root', 'WORLD/Sintel', '--out', 'OUT/s.zip', '--device', 'cpu'),
    infer=('infer', 'WORLD/film', '--model', 'dis', '--out', 'OUT/flow', '--device', 'cpu'),
    infer_data=('infer', '--data', 'sintel', '--root', 'WORLD/Sintel', '--model', 'dis', '--out', 'OUT/flow', '--device', 'cpu'),
    check=('data', 'check', 'sintel', 'WORLD/Sintel', '--workers', 1),
    adapt=('adapt', 'WORLD/film', '--work-dir', 'OUT/a', '--model', 'pwcnet_tiny', '--weights', 'WORLD/tiny.safetensors', '--steps', 4, '--device', 'cpu'),
    frames2video=('frames2video', 'WORLD/film', '--out', 'OUT/v.mp4'),
    merge=('merge', 'WORLD/film', 'WORLD/film', '--out', 'OUT/v.mp4'))

@pytest.mark.parametrize('name', STOPPED)
def test_ctrl_c(name, world, tmp_path, monkeypatch):
    "What has no --resume: one line or two, and no half a file"
    from flowbook.models.weights import save_weights
    from flowbook.models.zoo import create_model
    if name=='adapt': save_weights(create_model('pwcnet_tiny'), world/'tiny.safetensors')
    args = fill(STOPPED[name], world, tmp_path)
    with monkeypatch.context() as m:
        seen = signal_at(2, m)
        code,out,err = run(*args)
    assert (code, out)==(130, '') and len(seen)==2, (code, out, err)
    assert err.startswith('stopped') and err.count('\n') <= 2 and 'Traceback' not in err, err
    assert not hidden(tmp_path) and not hidden(world)
    left = results(tmp_path)
    if name=='submit': assert 's.zip' not in left and sum(k.endswith('.flo') for k in left)==2
    elif name in ('infer', 'infer_data'): assert len(left)==4    # the flow and the picture of two pairs
    else: assert left=={}, left
    if name=='submit': assert run(*args)[0]==0

def test_kill_9_of_convert_delete(world, tmp_path):
    "Each picture is there afterwards, in the old format or in the new"
    import shutil
    shutil.copytree(world/'ppm', tmp_path/'ppm')
    assert killed(3, ['data', 'convert', str(tmp_path/'ppm'), '--to', 'png', '--delete', '--workers', '1'])==-signal.SIGKILL
    pictures = lambda: {p.stem: cv2.imread(str(p)) for p in sorted((tmp_path/'ppm').glob('[0-9]*'))}
    there,expected = pictures(),{p.stem: cv2.imread(str(p)) for p in (world/'ppm').iterdir()}
    assert sorted(there)==sorted(expected) and all((there[k]==v).all() for k,v in expected.items())
    assert run('data', 'convert', tmp_path/'ppm', '--to', 'png', '--delete')[0]==0
    assert sorted(p.name for p in (tmp_path/'ppm').iterdir())==[f'{i}.png' for i in range(6)]
    assert all((pictures()[k]==v).all() for k,v in expected.items())

def test_ctrl_c_of_export_and_fetch(tmp_path, monkeypatch):
    import torch, urllib.request
    with monkeypatch.context() as m:
        m.setattr(torch.onnx, 'export', lambda *a, **k: signal.raise_signal(signal.SIGINT))
        code,out,err = run('export', 'pwcnet_tiny', '--untrained', '--out', tmp_path/'m.onnx', '--size', '64x64')
        assert (code, out)==(130, '') and err.startswith('stopped') and err.count('\n')==1, err
    class Slow:
        headers,url = {'Content-Length': '9999999'},'https://example.org/w.pth'
        def __enter__(self): return self
        def __exit__(self, *_): pass
        def read(self, n=-1): signal.raise_signal(signal.SIGINT)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path/'home'))
    monkeypatch.setattr(urllib.request, 'urlopen', lambda *a, **k: Slow())
    code,out,err = run('fetch', 'raft', 'princeton-things')
    assert (code, out)==(130, '') and err.startswith('stopped') and err.count('\n')==1, err
    assert results(tmp_path)=={}

def test_ctrl_c_reaches_the_workers(world, tmp_path):
    "From a terminal every process gets the signal: the workers end, and say nothing"
    args = fill(RESUMED['scores'], world, tmp_path)
    for k in range(4): assert (world/f'clips/c{k}').is_dir()
    p = subprocess.Popen([sys.executable, '-m', 'flowbook.cli', *args], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True, env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)})
    deadline = time.time() + 200
    part = tmp_path/'s.json.part'
    while time.time() < deadline and p.poll() is None and not (part.exists() and len(part.read_text().splitlines()) > 1): time.sleep(.01)
    os.killpg(p.pid, signal.SIGINT)
    out,err = p.communicate(timeout=120)
    assert 'Traceback' not in err and (p.returncode, out) in ((130, ''), (0, out)), err
    assert run(*args, '--resume')[0]==0 or p.returncode==0
    assert [Path(o['clip']).name for o in json.loads((tmp_path/'s.json').read_text())]==[f'c{k}' for k in range(4)]

WRITERS = {k: v for k,v in (RESUMED | STOPPED).items() if k!='check'}
WRITERS |= dict(film=('video', 'WORLD/film', '--out', 'OUT/v.mp4', '--model', 'dis', '--device', 'cpu'),
    video_exr=('video', 'WORLD/film', '--out', 'OUT/v', '--exr', 'nuke', '--model', 'dis', '--device', 'cpu'),
    pictures=('test', 'flowbook_fast', '--n', 1, '--show-dir', 'OUT/p', '--device', 'cpu'),
    flows=('test', 'flowbook_fast', '--n', 1, '--out-dir', 'OUT/p', '--device', 'cpu'),
    flow=('infer', 'WORLD/film/000.png', 'WORLD/film/001.png', '--model', 'dis', '--out', 'OUT/flow.flo'),
    demo=('demo', '--out', 'OUT/d'),
    train=('train', 'quickstart', '--work-dir', 'OUT/run', '--device', 'cpu'),
    export=('export', 'pwcnet_tiny', '--untrained', '--size', '64x64', '--out', 'OUT/m.onnx'),
    convert=('convert', 'WORLD/tiny.safetensors', 'OUT/w.safetensors'),
    make=('data', 'make', 'sintel', 'OUT/s'), book=('book', 'OUT/b'),
    slurm=('slurm', 'quickstart', '--out', 'OUT/job.sh', '--work-dir', 'OUT/run'))
WRITERS['bench_backends'] = ('bench', 'pwcnet_tiny', '--backends', 'pytorch', '--size', '64x64', '--save', 'OUT/s.csv')

@pytest.mark.parametrize('where', ['file', '/proc'])
@pytest.mark.parametrize('name', WRITERS)
def test_where_nothing_can_be_written(name, where, world, tmp_path, monkeypatch):
    "Named before the work, not after it"
    from flowbook.infer import predictor
    from flowbook.models.weights import save_weights
    from flowbook.models.zoo import create_model
    if where=='/proc' and not Path('/proc').is_dir(): pytest.skip('no /proc')
    if not (world/'tiny.safetensors').exists(): save_weights(create_model('pwcnet_tiny'), world/'tiny.safetensors')
    (tmp_path/'file').write_text('x')
    out = tmp_path/'file' if where=='file' else Path('/proc')
    def work(*args, **kw): raise AssertionError('it began to work')
    for k in '__call__', 'predict', 'batch': monkeypatch.setattr(predictor.FlowPredictor, k, work)
    monkeypatch.setattr(terminal.Counting, '__call__', work)
    code,said,err = run(*fill(WRITERS[name], world, out))
    assert (code, said)==(2, '') and err.count('\n')==1 and str(out) in err, (code, said, err)
    assert (tmp_path/'file').read_text()=='x'

FULL = {k: (v, 6000) for k,v in RESUMED.items()}                    # bytes that a file may have
FULL |= {k: (WRITERS[k], 2500) for k in ('film', 'frames2video')}
FULL |= {k: (WRITERS[k], 6000) for k in ('video_exr', 'submit', 'infer', 'flow', 'pictures', 'export', 'convert', 'demo')}
FULL |= dict(points=(RESUMED['points'], 700), score=(RESUMED['score'], 700), scores=(RESUMED['scores'], 700),
    propagate=(RESUMED['propagate'], 1000), trails=(RESUMED['trails'], 4000), grid=(RESUMED['grid'], 3000),
    save=(('compare', 'dis', 'flowbook_fast', '--n', 1, '--no-memory', '--save', 'OUT/s.json', '--device', 'cpu'), 100),
    report=(STOPPED['test'], 3000),
    train=(('train', 'quickstart', 'model=pwcnet_tiny', 'data.n_train=4', 'data.n_valid=2', 'data.bs=2', 'schedule.epochs=1', '--work-dir', 'OUT/run', '--device', 'cpu'), 20_000))

@pytest.mark.parametrize('name', FULL)
def test_full_disk(name, world, tmp_path):
    "One line that names the file; no half a file; after room was made, --resume does the rest"
    import resource
    from flowbook.models.weights import save_weights
    from flowbook.models.zoo import create_model
    if not (world/'tiny.safetensors').exists(): save_weights(create_model('pwcnet_tiny'), world/'tiny.safetensors')
    args,room = FULL[name]
    args = fill(args, world, tmp_path)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, old[1]))
    try: code,out,err = run(*args)
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, old)
    lines = [l for l in err.splitlines() if not l.startswith(('note: ', 'epoch '))]
    assert code==2 and 'Traceback' not in err and len(lines)==1, (code, out, err)
    assert 'full disk' in lines[0], err
    assert not hidden(tmp_path) and not hidden(world), hidden(tmp_path)
    if name not in RESUMED: return
    code,out,err = run(*args, '--resume')
    assert code==0, err
