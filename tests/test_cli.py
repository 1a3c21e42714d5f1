"The program in a process of its own: exit codes, what it prints where, what it imports, what a signal does to it"
import json, os, signal, subprocess, sys, time
import pytest
from typer.testing import CliRunner
from flowbook import __version__
from flowbook.cli.main import app

SMALL = ['data.n_train=8', 'data.n_valid=2', 'data.bs=4', 'data.scenes.size=(64,96)',
         'data.scenes.textures=24']

def start(*args, cwd):
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'COLUMNS': '100', 'PYTHONWARNINGS': 'ignore'}
    return subprocess.Popen([sys.executable, '-m', 'flowbook.cli.main', *map(str, args)], cwd=cwd, env=env,
                            text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)

def finish(p, timeout=300):
    out, err = p.communicate(timeout=timeout)
    return p.returncode, out, err

def test_demo(tmp_path):
    code, out, err = finish(start('demo', cwd=tmp_path))
    assert (code, err)==(0, ''), err
    for part in ('flowbook_small', 'DIS (medium)', 'Farneback', 'zero flow', 'EPE px', 'Fl-all %',
                 'next: flowbook infer'):
        assert part in out, out
    assert sorted(p.name for p in (tmp_path/'flowbook-demo').iterdir())==['flow.flo', 'flow.png',
        'side_by_side.png']

def test_demo_is_quick_and_good(tmp_path):
    "The promise of the README, with room for a slow machine"
    began = time.time()
    code, out, err = finish(start('demo', '--json', '--device', 'cpu', '--out', 'd', cwd=tmp_path))
    assert code==0 and time.time() - began < 120, err
    res = json.loads(out)
    assert res['methods']['flowbook_small']['epe'] < res['methods']['Farneback']['epe'] < res['methods']['zero flow']['epe']
    assert all(os.path.exists(tmp_path/f) for f in res['files'])

def test_version(tmp_path): assert finish(start('--version', cwd=tmp_path))==(0, f'flowbook {__version__}\n', '')

def test_no_arguments_is_an_overview(tmp_path):
    code, out, err = finish(start(cwd=tmp_path))
    assert (code, err)==(0, '') and 'Begin with    flowbook demo' in out
    for shelf in ('See', 'Train', 'Measure', 'Data', 'Serve'): assert f'\n{shelf} ' in out, out

def test_mistake(tmp_path):
    code, out, err = finish(start('infer', 'a.png', 'b.png', '--out', 'o', cwd=tmp_path))
    assert (code, out, err)==(2, '', 'flowbook: a.png: found no such file or directory, expected a file to read\n')
    assert not (tmp_path/'o').exists()

def test_a_bug_has_a_traceback(monkeypatch):
    "Anything that is not the user's mistake: exit code 1, and the exception is not hidden"
    def broken(*args, **kwargs): raise RuntimeError('a bug')
    monkeypatch.setattr('flowbook.models.registry.stored_rows', broken)
    res = CliRunner().invoke(app, ['models'])
    assert (res.exit_code, str(res.exception))==(1, 'a bug')

def test_inference_imports_no_fastai(tmp_path):
    "infer, demo, test and models go without fastai; --help and --version are in test_package.py"
    code = '''
import sys
from typer.testing import CliRunner
from flowbook.cli.main import app
from flowbook.data.pair import demo_paths
a,b,truth = map(str, demo_paths())
for args in ['models'], ['demo', '--out', 'd'], ['infer', a, b, '--gt', truth, '--out', 'i'], ['test', 'flowbook_small', '--n', '1'], ['config', 'list']:
    res = CliRunner().invoke(app, args)
    assert res.exit_code==0, (args, res.output)
bad = [m for m in sys.modules if m.split('.')[0] in ('fastai', 'torchvision', 'nbdev')]
assert not bad, bad
'''
    res = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True,
                         timeout=300)
    assert res.returncode==0, res.stderr

@pytest.mark.skipif(os.name!='posix', reason='signals')
def test_interrupt_and_resume(tmp_path):
    "Ctrl-C after the first epoch: says how to go on, exit code 130; --resume ends with the table of an unbroken run"
    args = ['train', 'quickstart', *SMALL, 'data.n_train=64', 'schedule.epochs=3', '--work-dir', 'run',
            '--device', 'cpu']
    p = start(*args, cwd=tmp_path)
    first = p.stderr.readline()
    assert first.startswith('epoch 1/3'), first
    time.sleep(.5) # the checkpoint is written right after the line
    p.send_signal(signal.SIGINT)
    code, out, err = finish(p)
    assert code==130 and '--resume' in err and 'Traceback' not in err, err
    code, out, err = finish(start(*args, '--resume', cwd=tmp_path))
    assert code==0 and 'next: flowbook infer' in out, err
    assert [l[:9] for l in err.splitlines()][-1]=='epoch 3/3'
    rows = (tmp_path/'run'/'log.csv').read_text().splitlines()
    assert [r.split(',')[0] for r in rows]==['epoch', '0', '1', '2'] and len({r.count(',') for r in rows})==1, rows
    code, out, err = finish(start('infer', *demo(), '--out', 'flow', '--model', 'pwcnet_tiny', '--weights',
                                  'run/weights.safetensors', cwd=tmp_path))
    assert code==0, err

def demo():
    from flowbook.data.pair import demo_paths
    return demo_paths()[:2]
