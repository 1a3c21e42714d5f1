"README.md tells the truth: its Python runs as it stands there, and its commands exist"
import importlib, os, pkgutil, re, shutil, subprocess, sys
from pathlib import Path
import flowbook
from flowbook.data.pair import demo_paths

readme = (Path(__file__).resolve().parent.parent/'README.md').read_text(encoding='utf-8')
blocks = re.findall(r'^```(\w+)\n(.*?)^```', readme, re.M|re.S)

def test_python_runs(tmp_path):
    code = next(text for lang, text in blocks if lang=='python')
    assert len([l for l in code.splitlines() if l.strip()]) <= 10
    for p, name in zip(demo_paths(), ('a.png', 'b.png')): shutil.copy(p, tmp_path/name)
    (tmp_path/'snippet.py').write_text(code)
    env = {**os.environ, 'MPLBACKEND': 'agg', 'OMP_NUM_THREADS': '1'}
    res = subprocess.run([sys.executable, 'snippet.py'], cwd=tmp_path, env=env, capture_output=True,
                         text=True, timeout=300)
    assert res.returncode==0, res.stderr
    assert (tmp_path/'out.flo').stat().st_size==12 + 8*256*352

def test_commands_exist():
    from typer.testing import CliRunner
    from flowbook.cli.main import app
    lines = [l.split('#')[0].split() for lang, text in blocks for l in text.splitlines()
             if l.startswith('flowbook ')]
    assert len(lines) >= 5
    for words in lines:
        flags = [w for w in words if w.startswith('--')]
        shown = CliRunner().invoke(app, [*words[1:2], '--help'] if words[1]!='--help' else ['--help'],
                                   env=dict(COLUMNS='200', TERMINAL_WIDTH='200'))
        assert shown.exit_code==0, words
        for f in flags: assert f in shown.stdout, (words, f)

def test_install_commands():
    "The two lines that .ci/run takes from here"
    lines = [l for _, text in blocks for l in text.splitlines() if l.startswith('python3 -m venv ')]
    assert lines==['python3 -m venv .venv && .venv/bin/pip install -q . && .venv/bin/flowbook demo',
                   'python3 -m venv .venv-dev && .venv-dev/bin/pip install -q -e ".[dev]" && .venv-dev/bin/python tools/check.py']

def test_all_has_everything():
    "`from flowbook.all import *` brings what chapters export, but for what they share among themselves"
    from flowbook.core.faces import APART, HELPERS
    everything, lacking = importlib.import_module('flowbook.all'), []
    for m in pkgutil.walk_packages(flowbook.__path__, 'flowbook.'):
        if m.name.startswith(('flowbook.all', 'flowbook.cli.', *(f'flowbook.{o}' for o in APART))): continue
        module = importlib.import_module(m.name)
        if m.ispkg: continue
        lacking += [f'{m.name}.{n}' for n in getattr(module, '__all__', ()) if n not in HELPERS
                    and not hasattr(everything, n)]   # where two rooms use a name, the later one has it
    assert not lacking, lacking
    assert not {*HELPERS} & {*everything.__all__}

def test_one_evening(tmp_path, monkeypatch):
    "The README's path from two photos to a file for other programs, small; each command names the next"
    import shlex
    from PIL import Image
    from typer.testing import CliRunner
    from flowbook.cli.book import EVENING
    from flowbook.cli.main import app
    from flowbook.data.pair import demo_pair
    from flowbook.io.video import frames2video
    monkeypatch.chdir(tmp_path)
    def run(words):
        res = CliRunner().invoke(app, words, prog_name='flowbook', env=dict(COLUMNS='200'))
        assert res.exit_code == 0, (words, res.output, res.exception)
        return [shlex.split(l.removeprefix('next: flowbook '), comments=True) for l in res.stdout.splitlines()
                if l.startswith('next: flowbook ')]
    pair = demo_pair()
    for i,img in enumerate((pair.img1, pair.img2)): Image.fromarray(img[:96, :128]).save(f'{"ab"[i]}.png')
    frames2video(['a.png', 'b.png', 'a.png'], 'walk.mp4')
    run(['data', 'make', 'folder', 'mine', '--n', '8', '--size', '64x96'])
    text = next(t for _,t in blocks if 'flowbook infer a.png b.png' in t)
    path = [shlex.split(l.removeprefix('flowbook '), comments=True) for l in text.splitlines()][1:]   # demo: test_cli
    assert [w[0] for w in path] == ['infer', 'video', 'data', 'train', 'compare', 'export']
    assert [['flowbook', *w] for w in path] == [shlex.split(o) for o in EVENING][1:]   # as help and book have it
    small = dict(
        train=['schedule.epochs=1', 'data.bs=2', 'data.crop=(64,64)', 'data.workers=0'],
        compare=['--n', '1', '--no-memory'], export=['--size', '64x96'])
    for words,after in zip(path, [*path[1:], None]):
        said = run([*words, *small.get(words[0], [])])
        if after is None: continue
        [step] = said
        own = [o for o in step if o not in small.get('train', [])]   # what this run adds to the README's words
        assert step[0] == after[0] and (own == after or after[0] == 'export'), (own, after)
    assert (tmp_path/'flow.onnx').stat().st_size > 10_000
