"Evaluation in processes of its own: two that share a data set, one that is killed, one whose memory is measured"
import json, os, re, shutil, socket, subprocess, sys, time
import numpy as np, pytest, torch
from flowbook.data.make import make_dataset

APP = '''
import typer
from flowbook.cli.evaluation import bench, compare, submit, test
from flowbook.cli.terminal import Program
app = typer.Typer(cls=Program)
for f in (test, compare, submit, bench): app.command()(f)
app()
'''

def start(*args, **env):
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'COLUMNS': '100', 'PYTHONWARNINGS': 'ignore', **env}
    return subprocess.Popen([sys.executable, '-c', APP, *map(str, args)], env=env, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)

def finish(p):
    out, err = p.communicate(timeout=300)
    assert p.returncode == 0, err
    return out

def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return str(s.getsockname()[1])

def test_two_processes_give_the_figures_of_one(tmp_path):
    "Every score, the worst pairs and the report; three pairs, so that the shares are uneven"
    make_dataset('middlebury', tmp_path/'mb', n=3, size=(64, 96))
    words = ['test', 'flowbook_small', '--data', 'middlebury', '--root', tmp_path/'mb', '--alone', '--json',
             '--device', 'cpu']
    one = json.loads(finish(start(*words, '--report', tmp_path/'one.html')))
    env = dict(WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=free_port())
    both = [start(*words, '--report', tmp_path/'two.html', RANK=str(i), LOCAL_RANK=str(i), **env)
            for i in (0, 1)]
    first, second = map(finish, both)
    assert second == ''
    two = json.loads(first)
    a, b = (o['sets']['middlebury']['flowbook_small'] for o in (one, two))
    assert list(a) == list(b) and 'epe_images' in a
    assert all(abs(a[k] - b[k]) <= 1e-5 for k in a if k != 'ms'), (a, b)
    rows = [[l.split('</td>')[0]
             for l in (tmp_path/f).read_text().split('All pairs, worst first')[1].split('<tr><td class=n>')[1:]]
            for f in ('one.html', 'two.html')]
    assert len(rows[0]) == 3 and rows[0] == rows[1]

def test_a_killed_submission_goes_on(tmp_path):
    make_dataset('sintel', tmp_path/'Sintel', n=2, size=(192, 256))
    words = ['submit', 'sintel', '--model', 'flowbook_small', '--root', tmp_path/'Sintel', '--out',
             tmp_path/'s.zip', '--json', '--device', 'cpu']
    p, tree = start(*words), tmp_path/'s.zip.parts'/'tree'
    while p.poll() is None and not list(tree.rglob('frame*.flo')): time.sleep(.02)
    p.kill()
    p.wait()
    left = list(tree.rglob('frame*.flo'))
    assert not (tmp_path/'s.zip').exists() and 1 <= len(left) <= 4
    found = json.loads(finish(start(*words)))
    assert found['computed'] == 4 - len(left) and found['files'] == 4
    assert not tree.parent.exists()
    finish(start('submit', 'sintel', '--root', tmp_path/'Sintel', '--check', tmp_path/'s.zip'))

def test_memory_grows_with_the_picture():
    from flowbook.infer.bench import peak_memory
    small, large = (peak_memory('flowbook_small', o, iters=2) for o in ((128, 192), (512, 768)))
    assert 0 < small < large < 4000

browser = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome', 'chrome'))),
               None)

@pytest.mark.skipif(not browser, reason='needs chromium')
def test_the_report_sorts_in_a_browser(tmp_path):
    "Worst first; a click on a heading sorts by it, a second one the other way round"
    from types import SimpleNamespace
    from flowbook.apps.report import Report, write_report
    report = Report(most=2)
    for i, e in enumerate((2., 10., 9.)):
        img, flow = torch.rand(1, 3, 16, 16), torch.zeros(1, 2, 16, 16)
        report(i, SimpleNamespace(img1=img, img2=img, flow=flow, valid=flow[:, :1] == 0, name=f'pair{i}'),
               dict(model=np.full((16, 16, 2), e/2**.5, np.float32)))
    write_report(tmp_path/'r.html', 'sorted', {}, report)
    page = (tmp_path/'r.html').read_text()
    for clicks, order in ((0, '120'), (1, '120'), (2, '021')):
        (tmp_path/'c.html').write_text(page.replace('</script>',
                                                    'document.querySelectorAll("th button")[1].click();'*clicks + '</script>'))
        dom = subprocess.run([browser, '--headless=new', '--no-sandbox', '--disable-gpu', '--dump-dom',
                              f"file://{tmp_path/'c.html'}"], capture_output=True, text=True,
                             timeout=120).stdout
        assert ''.join(re.findall(r'<td class="n">(?:<a [^>]*>)?pair(\d)', dom)) == order, (clicks, dom[-500:])

def test_a_static_row_in_every_report(tmp_path):
    "Whatever the data set: how far a method moves what stands still, or that nothing does"
    from typer.testing import CliRunner
    from flowbook.cli.main import app
    from flowbook.data.base import list_datasets
    for name in list_datasets():
        own = ['images=*.png', 'flow=*.flo'] if name=='folder' else []
        make_dataset(name, tmp_path/name, n=2, size=(64, 96))
        words = ['test', 'dis', '--data', name, '--root', tmp_path/name, '--n', 1, '--alone', '--device', 'cpu', '--report', tmp_path/f'{name}.html', *own]
        res = CliRunner().invoke(app, [str(o) for o in words])
        assert res.exit_code == 0, (name, res.output)
        row = re.search(r'pixels that do not move</td><td[^>]*>([^<]*)</td>', (tmp_path/f'{name}.html').read_text())
        assert row and re.fullmatch(r'[\d.]+|no such pixels', row[1]), (name, row)
