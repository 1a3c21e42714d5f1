"Two hundred clips: workers that die, a run that is killed, a pool and Ray; nothing lost, nothing twice, as a serial run would have it"
import csv, json, multiprocessing, os, subprocess, sys, threading, time, zipfile
from dataclasses import asdict
from pathlib import Path
import numpy as np, psutil, pytest
from flowbook.infer.many import clip_predictor, collect_rows, find_clips, process_clips, run_clip
from flowbook.infer.submit import make_submission, submit_clips
from flowbook.io.images import write_image

N = 200
OPTIONS = dict(suffix='', predictor=dict(model='dis_fast', device='cpu'), layout='flow', save_flo=True)
WORK = """
import os
from flowbook.infer.many import find_work
def work(clip, folder, log, kind='video', deadly=(), **options):
    "What the work of that kind does, written down; the process dies at the first attempt of some clips, when the work is done but not moved"
    result = find_work(kind)(clip, folder, **options)
    with open(f'{log}/{clip.name}', 'a') as f: f.write(f'{os.getpid()}\\n')
    if clip.name in deadly and len(open(f'{log}/{clip.name}').readlines()) == 1: os.kill(os.getpid(), 9)
    return result
"""

@pytest.fixture(scope='module')
def clips(tmp_path_factory):
    root = tmp_path_factory.mktemp('clips')
    for n in range(N):
        img = np.random.default_rng(n).integers(0, 255, (8, 12, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        (root/f'clip{n:03}').mkdir()
        for i in range(2): write_image(np.roll(img, (i, 2*i), (0, 1)), root/f'clip{n:03}'/f'{i}.png')
    return root

@pytest.fixture(scope='module')
def serial(clips, tmp_path_factory):
    out = tmp_path_factory.mktemp('serial')
    for o in find_clips(clips):
        run_clip(dict(clip=asdict(o), work='video', options=OPTIONS, out=str(out), settings=''))
    return results(out)

def results(out):
    "Every file of the results and what it holds; a film's state says which folder its frames came from, and the rest is the same"
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in sorted(Path(out).glob('clip*/[0-9]*'))}

@pytest.fixture
def work(tmp_path, monkeypatch):
    (tmp_path/'code').mkdir()
    (tmp_path/'log').mkdir()
    (tmp_path/'code'/'deadly_work.py').write_text(WORK)
    monkeypatch.syspath_prepend(str(tmp_path/'code'))
    root = Path(__file__).resolve().parent.parent
    monkeypatch.setenv('PYTHONPATH',
                       os.pathsep.join([str(tmp_path/'code'), str(root), os.environ.get('PYTHONPATH', '')]))
    return dict(work='deadly_work:work', log=str(tmp_path/'log'))

def check(rows, out, serial, log, died):
    assert [(o.name, o.status) for o in rows] == [(f'clip{n:03}', 'done') for n in range(N)]
    with open(out/'manifest.csv', newline='', encoding='utf-8') as f: table = list(csv.DictReader(f))
    assert [o['name'] for o in table] == [f'clip{n:03}' for n in range(N)] and {o['pairs'] for o in table} == {'1'}
    assert results(out) == serial and len(serial) == 2*N
    assert not list((out/'.unfinished').iterdir())
    runs = {p.name: len(p.read_text().splitlines()) for p in Path(log).iterdir()}
    assert runs == {o.name: 1 + (o.name in died) for o in rows}   # nothing lost, nothing twice

@pytest.fixture(params=['local', 'ray'])
def engine(request, monkeypatch):
    if request.param == 'ray':
        pytest.importorskip('ray', reason='ray is an extra')
        # a machine with other things to do: Ray would end workers when little memory is left
        monkeypatch.setenv('RAY_memory_monitor_refresh_ms', '0')
    return request.param

def test_workers_that_die(clips, serial, work, tmp_path, engine):
    died = ['clip077', 'clip150']
    rows = process_clips(clips, tmp_path/'out', engine=engine, deadly=died, **work, **OPTIONS)
    check(rows, tmp_path/'out', serial, work['log'], died)
    assert {o.name: o.attempts for o in rows if o.attempts > 1} == dict.fromkeys(died, 2)

def test_a_run_that_is_killed(clips, serial, work, tmp_path):
    "kill -9 of the program in the middle; the next run does the rest"
    code = 'import json, sys; from flowbook.infer.many import process_clips; process_clips(**json.loads(sys.argv[1]))'
    args = dict(source=str(clips), out=str(tmp_path/'out'), **work, **OPTIONS)
    run = subprocess.Popen([sys.executable, '-c', code, json.dumps(args)])
    rows = tmp_path/'out'/'.rows'
    deadline = time.time() + 240
    while time.time() < deadline and len(list(rows.glob('[!.]*.json'))) < 20: time.sleep(.02)
    run.kill()
    run.wait()
    done = {o.name for o in collect_rows(tmp_path/'out')}
    assert 20 <= len(done) < N
    time.sleep(3)   # its workers notice that nobody is there
    begun = {p.name for p in Path(work['log']).iterdir()}
    rows = process_clips(**args)
    twice = {p.name for p in Path(work['log']).iterdir() if len(p.read_text().splitlines()) > 1}
    assert twice <= begun - done and len(twice) <= 2   # at most what was under way
    assert [(o.name, o.status) for o in rows] == [(f'clip{n:03}', 'done')
                                                  for n in range(N)] and results(tmp_path/'out') == serial

def test_parquet(clips, tmp_path):
    parquet = pytest.importorskip('pyarrow.parquet', reason='pyarrow is an extra')
    sources = [o.source for o in find_clips(clips)[:2]]
    process_clips(sources, tmp_path/'out', workers=1, manifest='manifest.parquet', **OPTIONS)
    table = parquet.read_table(tmp_path/'out'/'manifest.parquet').to_pylist()
    assert [(o['name'], o['status'], o['pairs']) for o in table] == [('clip000', 'done', 1),
        ('clip001', 'done', 1)]

DIS = dict(model='dis_fast', device='cpu')

@pytest.mark.parametrize('kind, options', [('score', {}), ('track', dict(points=3, jumps=(1,)))])
def test_scores_and_tracks(clips, work, tmp_path, engine, kind, options):
    "Rows and files as a serial run has them, though a worker dies"
    options = dict(options, predictor=DIS)
    for o in find_clips(clips):
        run_clip(dict(clip=asdict(o), work=kind, options=options, out=str(tmp_path/'serial'), settings=''))
    died, out = ['clip042', 'clip133'], tmp_path/'out'
    rows = process_clips(clips, out, engine=engine, deadly=died, kind=kind, **work, **options)
    assert [(o.name, o.status, o.attempts) for o in rows] == [(f'clip{n:03}', 'done', 1 + (f'clip{n:03}' in died))
                                                              for n in range(N)]
    assert [o.result for o in rows] == [o.result for o in collect_rows(tmp_path/'serial')]
    held = lambda folder: {p.name: p.read_bytes() for p in folder.glob('clip*')}
    assert held(out) == held(tmp_path/'serial') and len(held(out)) == (N if kind == 'track' else 0)
    assert {p.name: len(p.read_text().splitlines()) for p in Path(work['log']).iterdir()} == {
        o.name: o.attempts for o in rows}
    with open(out/'manifest.csv', newline='', encoding='utf-8') as f: table = list(csv.DictReader(f))
    assert [o['name'] for o in table] == [o.name for o in rows] and {o['frames'] for o in table} == {'2'}

def workers(engine):
    "Processes that work on a clip"
    if engine == 'local': return multiprocessing.active_children()
    return [o for o in psutil.Process().children(recursive=True) if o.name().startswith('ray::run_clip')]

def test_a_submission_one_of_whose_workers_dies(tmp_path, engine):
    "Two hundred pairs of KITTI; kill -9 of a worker, wherever it is"
    (root := tmp_path/'kitti'/'testing'/'image_2').mkdir(parents=True)
    for n in range(N):
        img = np.random.default_rng(n).integers(0, 255, (8, 12, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        for i in range(2): write_image(np.roll(img, (i, 2*i), (0, 1)), root/f'{n:06}_1{i}.png')
    def kill():
        rows = tmp_path/'many.zip.parts'/'.rows'
        while len(list(rows.glob('[!.]*.json'))) < 50: time.sleep(.005)
        while not (found := workers(engine)): pass
        found[0].kill()
    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    rows, found = submit_clips('kitti', tmp_path/'kitti', tmp_path/'many.zip', DIS, engine=engine, workers=2)
    killer.join(1)
    assert not killer.is_alive() and len(rows) == N and {o.status for o in rows} == {'done'}
    assert found['files'] == N and found['complete']
    assert N - 1 <= sum(o.result['computed'] for o in rows) <= N   # what it died after was there already
    make_submission(clip_predictor(DIS), 'kitti', tmp_path/'kitti', tmp_path/'serial.zip')
    with zipfile.ZipFile(tmp_path/'many.zip') as a, zipfile.ZipFile(tmp_path/'serial.zip') as b:
        assert a.namelist() == b.namelist() and all(a.read(o) == b.read(o) for o in a.namelist())
    with open(tmp_path/'many-manifest.csv', newline='', encoding='utf-8') as f: table = list(csv.DictReader(f))
    assert len(table) == len({o['name'] for o in table}) == N and not (tmp_path/'many.zip.parts').exists()
