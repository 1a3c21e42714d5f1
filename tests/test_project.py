"What a stranger meets first: workflows, templates, versions that agree, requirements that are true"
import ast, json, os, re, shutil, subprocess, sys
from configparser import ConfigParser
from pathlib import Path
import pytest

root = Path(__file__).resolve().parent.parent
def read(name): return (root/name).read_text(encoding='utf-8')

def settings():
    cfg = ConfigParser(delimiters=['='])
    cfg.read(root/'settings.ini', encoding='utf-8')
    return cfg['DEFAULT']

def test_the_oldest_versions_are_the_lower_bounds():
    bounds = dict(o.split('>=') for o in settings()['requirements'].split() if '>=' in o)
    oldest = dict(re.findall(r'^(\S+)==(\d+\.\d+(?:\.[1-9]\d*)?)', read('tools/oldest.txt'), re.M))
    assert bounds and bounds.items() <= oldest.items()

def test_pythons_are_tested_from_the_lowest_on():
    tested = set(re.findall(r"'(3\.\d+)'", read('.github/workflows/test.yml')))
    assert settings()['min_python'] == min(tested, key=lambda o: int(o[2:])) and len(tested) >= 5

def test_both_versions_of_fastcore_are_tested():
    "nbdev 2 wants fastcore 1, nbdev 3 fastcore 2: the jobs `tests` and `newest` run all chapters with one each"
    jobs = dict(re.findall(r'^  (\w+):.*\n((?:    .*\n|\n)+)', read('.github/workflows/test.yml'), re.M))
    assert {'nbdev>=2.4.14,<3', 'fastcore<2'} <= set(settings()['dev_requirements'].split())
    assert '-e ".[dev]"' in jobs['tests'] and 'check.py' in jobs['tests'] and 'if:' not in jobs['tests']
    assert '"nbdev>=3"' in jobs['newest'] and '.[dev]' not in jobs['newest'] and 'if:' not in jobs['newest']
    assert 'nbdev-test' in jobs['newest'] and 'pytest' in jobs['newest']

def test_calls_are_counted(tmp_path):
    "The benchmark of single calls, on a model that takes no time"
    done = subprocess.run([sys.executable, 'benchmarks/calls.py', 'zero', '--calls', '5', '--size', '64x96',
                           '--threads', '1', '2', '--out', tmp_path/'calls.md'], cwd=root, capture_output=True, text=True,
                          env={**os.environ, 'PYTHONPATH': str(root)})
    assert done.returncode == 0, done.stderr
    rows = [o.split('|')[1:-1] for o in (tmp_path/'calls.md').read_text().splitlines() if o.startswith('| `zero`')]
    assert [int(o[1]) for o in rows] == [1, 2]
    for o in rows:
        p5, p50, p95, most = map(float, o[2:6])
        assert 0 <= p5 <= p50 <= p95 <= most

def test_extras():
    "`all` has every extra but `dev`"
    cfg = settings()
    kinds = [o.removesuffix('_requirements') for o in cfg if o.endswith('_requirements')]
    code = 'import runpy, setuptools, json; setuptools.setup = lambda **kw: print(json.dumps(kw["extras_require"])); runpy.run_path("setup.py")'
    extras = json.loads(subprocess.run([sys.executable, '-c', code], cwd=root, capture_output=True, text=True,
                                       check=True).stdout)
    assert set(extras) == {*kinds, 'all'}
    assert set(extras['all']) == {o for k in kinds if k != 'dev' for o in cfg[f'{k}_requirements'].split()}

def test_one_opencv():
    names = [o for o in settings()['requirements'].split() if o.startswith('opencv')]
    assert names == ['opencv-python-headless'] and 'py-opencv' in read('conda/recipe.yaml')

def test_the_conda_recipe_asks_for_the_same():
    theirs = set(re.findall(r'^    - ([a-z-]+)',
                            read('conda/recipe.yaml').split('  run:')[1].split('tests:')[0], re.M))
    called = {'torch': 'pytorch', 'opencv-python-headless': 'py-opencv', 'matplotlib': 'matplotlib-base'}
    ours = {re.match('[A-Za-z-]+', o)[0] for o in settings()['requirements'].split()}
    assert theirs - {'python'} == {called.get(o, o) for o in ours}

def test_release_notes():
    ask = lambda tag: subprocess.run([sys.executable, 'tools/check.py', '--release', tag], cwd=root,
                                     capture_output=True, text=True)
    version = settings()['version']
    good, bad = ask(f'v{version}'), ask('v99.0')
    assert good.returncode == 0 and len(good.stdout) > 100 and not good.stdout.startswith('#')
    assert bad.returncode and bad.stderr == f'settings.ini: found version {version}, expected 99.0\n'

@pytest.mark.parametrize('path', sorted((root/'.github/workflows').glob('*.yml')), ids=lambda p: p.stem)
def test_workflows_promise_little(path):
    "No permission that a job does not name, no credentials left behind, third parties by their hash"
    text = path.read_text(encoding='utf-8')
    assert re.search(r'^permissions: \{\}$', text, re.M)
    assert text.count('actions/checkout@') == text.count('persist-credentials: false')
    for action, version in re.findall(r'uses: (\S+)@(\S+)', text):
        assert action.startswith('actions/') or re.fullmatch('[0-9a-f]{40}', version), action

@pytest.mark.parametrize('tool', ['actionlint', 'zizmor'])
def test_workflows_pass(tool):
    if not shutil.which(tool): pytest.skip(f'no {tool}')
    done = subprocess.run({'actionlint': ['actionlint'], 'zizmor': ['zizmor', '--offline', '.']}[tool],
                          cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr

def test_the_bug_form_asks_for_doctor():
    form = read('.github/ISSUE_TEMPLATE/bug.yml')
    assert 'flowbook doctor --json' in form

def without_encoding(source):
    "Lines of `source` that read or write text as the system likes, which on Windows is not UTF-8"
    for o in ast.walk(ast.parse(source)):
        if not isinstance(o, ast.Call) or any(k.arg == 'encoding' for k in o.keywords): continue
        name = o.func.attr if isinstance(o.func, ast.Attribute) else getattr(o.func, 'id', '')
        given = [x.value for x in o.args if isinstance(x, ast.Constant) and isinstance(x.value, str)]
        mode = [x for x in given if re.fullmatch('[rwax]t?', x)]
        if name == 'open' and getattr(getattr(o.func, 'value', None), 'id', '') == 'av': continue   # a video
        if name in ('read_text', 'write_text') or name == 'open' and mode: yield o.lineno
        elif isinstance(o.func, ast.Name) and name == 'open' and len(o.args) == 1: yield o.lineno

def test_text_has_an_encoding():
    assert list(without_encoding("p.read_text()\nopen(p)\nopen(p, 'rb')\np.open('a')\np.write_text(t, encoding='utf-8')\nImage.open(p)")) == [1, 2, 4]
    found = {f'{p.relative_to(root)}:{n}' for p in sorted((root/'flowbook').rglob('*.py')) for n in
             without_encoding(p.read_text(encoding='utf-8'))}
    assert not found

def test_a_narrow_console_is_no_crash(tmp_path):
    "A console of Windows, or of a job without a locale, may know few characters"
    env = {**os.environ, 'PYTHONIOENCODING': 'ascii', 'PYTHONUTF8': '0', 'PYTHONPATH': str(root)}
    for args in (['--help'], ['models'], ['video', '--help']):
        done = subprocess.run([sys.executable, '-m', 'flowbook.cli', *args], cwd=tmp_path, env=env,
                              capture_output=True)
        assert done.returncode == 0 and done.stdout.isascii(), (args, done.stderr[-500:])
