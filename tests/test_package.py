"What a user installs: the wheel's contents and metadata, and that importing or asking for help stays light"
import email, os, re, shutil, subprocess, sys, zipfile
from configparser import ConfigParser
from pathlib import Path
import pytest

root = Path(__file__).resolve().parent.parent

def python(*args, cwd, env=None): return subprocess.run([sys.executable, *args], cwd=cwd, env=env,
                                                        capture_output=True, text=True, timeout=300)

def build_wheel(tmp, env=None):
    "The wheel of this checkout, built from a copy so that nothing an earlier build left gets in"
    skip = shutil.ignore_patterns('.git', '.venv*', 'build', 'dist', '*.egg-info', '__pycache__', 'kernels-*',
                                  '_docs', '_proc', 'work_dirs')
    shutil.copytree(root, tmp/'src', ignore=skip, symlinks=True)
    res = python('-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation', '-w', str(tmp),
                 str(tmp/'src'), cwd=tmp, env=env)
    assert res.returncode==0, res.stdout+res.stderr
    [path] = tmp.glob('*.whl')
    return path

@pytest.fixture(scope='session')
def wheel(tmp_path_factory):
    "Without kernels, which take long; the gate builds one with them"
    env = os.environ | dict(FLOWBOOK_KERNELS='0')
    with zipfile.ZipFile(build_wheel(tmp_path_factory.mktemp('wheel'), env)) as z: yield z

@pytest.mark.skipif(os.name!='posix', reason='a PATH of links')
def test_a_wheel_without_a_compiler(tmp_path):
    for name in ('sh', 'env', 'uname', 'dirname', 'ls', 'cat', 'sed'):
        if (found := shutil.which(name)): (tmp_path/name).symlink_to(found)
    env = {k: v for k,v in os.environ.items() if k != 'CXX'} | dict(PATH=str(tmp_path))
    assert build_wheel(tmp_path, env).name.endswith('py3-none-any.whl')

def read(wheel, name):
    [found] = [o for o in wheel.namelist() if re.search(rf'\.dist-info/{name}$', o)]
    return wheel.read(found).decode()

def test_wheel_holds_package_and_assets(wheel):
    names = [o for o in wheel.namelist() if '.dist-info/' not in o]
    assert all(o.startswith('flowbook/')
               for o in names) # no tests or tools; of the notebooks only the tutorials
    code = lambda o: o.endswith(('.py', '.pyi', 'py.typed'))
    assert {o for o in names if code(o)} == {p.relative_to(root).as_posix()
                                             for p in (root/'flowbook').rglob('*') if code(p.name)}
    assets = [o for o in names if o.startswith('flowbook/assets/')]
    assert [o for o in assets if o.endswith('.safetensors')], 'no weights in the wheel'
    assert len([o for o in assets if o.endswith(('.png', '.jpg'))]) >= 2, 'no demo frames in the wheel'
    assert {o for o in assets} == {p.relative_to(root).as_posix() for p in (root/'flowbook/assets').rglob('*')
                                   if p.is_file()}

def test_wheel_metadata(wheel):
    cfg = ConfigParser(delimiters=['='])
    cfg.read(root/'settings.ini', encoding='utf-8')
    cfg, meta = cfg['DEFAULT'], email.message_from_string(read(wheel, 'METADATA'))
    assert (meta['Name'], meta['Version'], meta['License-Expression']) == ('flowbook', cfg['version'],
        'Apache-2.0')
    assert meta['Requires-Python'] == f">={cfg['min_python']}"
    assert 'Apache License' in read(wheel, 'licenses/LICENSE')
    needs = [o for o in meta.get_all('Requires-Dist') if 'extra ==' not in o]
    assert len(needs)==len(cfg['requirements'].split())
    assert not [o for o in needs if '<' in o
                or '==' in o], 'users get open requirements; caps are for developers'
    assert 'flowbook = flowbook.cli.main:main' in read(wheel, 'entry_points.txt')

def test_version_is_the_same_everywhere(tmp_path):
    version = re.search(r'^version = (\S+)', (root/'settings.ini').read_text(), re.M)[1]
    assert python('-c', 'import flowbook; print(flowbook.__version__)',
                  cwd=tmp_path).stdout.strip() == version
    assert version in python('-m', 'flowbook.cli.main', '--version', cwd=tmp_path).stdout

def imported(*args, cwd):
    "Names of the modules that `python *args` imports"
    res = python('-X', 'importtime', *args, cwd=cwd)
    assert res.returncode==0, res.stderr
    return {m for m in re.findall(r'^import time:.*\| +(\S+)$', res.stderr, re.M)}

def test_import_is_light(tmp_path):
    assert not imported('-c', 'import flowbook', cwd=tmp_path) & {'torch', 'torchvision', 'fastai',
        'fastcore', 'matplotlib', 'cv2', 'nbdev'}

def test_the_door_is_light(tmp_path):
    "A name brings what it needs, and a room's names nothing before they are asked for"
    ask = "import flowbook, flowbook.data, flowbook.models; dir(flowbook); dir(flowbook.data); flowbook.FlowbookError"
    assert not imported('-c', ask, cwd=tmp_path) & {'torch', 'fastai', 'fastcore', 'matplotlib', 'cv2'}
    assert not imported('-c', 'from flowbook import estimate_flow, create_model, read_flow',
                        cwd=tmp_path) & {'fastai.learner', 'nbdev'}

def test_the_door_opens_quickly(tmp_path):
    "`import flowbook` takes less than a tenth of a second; the best of five, as other programs run on this machine"
    ask = 'import time; start = time.perf_counter(); import flowbook; print(time.perf_counter() - start)'
    assert min(float(python('-c', ask, cwd=tmp_path).stdout) for _ in range(5)) < .1

def test_type_checkers_find_the_door():
    "Stubs name what the doors offer: all of it, and from where it is"
    import ast, flowbook
    for package in (flowbook, *(__import__(f'flowbook.{o}', fromlist=['x'])
                                for o in ('data', 'infer', 'models'))):
        tree = ast.parse((Path(package.__file__).parent/'__init__.pyi').read_text())
        named = {o.asname: n.module for n in tree.body if isinstance(n, ast.ImportFrom) for o in n.names
                 if n.module}
        assert sorted(named)==package.__all__
        for name, module in named.items():
            assert hasattr(__import__(f'{package.__name__}.{module}', fromlist=[name]), name)

STARTS = """
import sys
from typer.main import get_command
from typer.testing import CliRunner
from flowbook.cli.main import app

def run(*args):
    "Which of the slow ones are imported after a command"
    res = CliRunner().invoke(app, args)
    assert res.exit_code==0, (args, res.output)
    slow = 'torch', 'torch._dynamo', 'torchvision', 'fastai', 'sympy', 'matplotlib', 'nbdev'
    return [o for o in slow if o in sys.modules]

def commands(command, *path):
    yield path
    for name, sub in getattr(command, 'commands', {}).items(): yield from commands(sub, *path, name)

paths = list(commands(get_command(app)))
assert len(paths) > 25
for path in paths: assert run(*path, '--help')==[], path
assert run('--version')==run('config', 'list')==[]
from flowbook.data.pair import demo_paths
a, b, _ = map(str, demo_paths())
assert run('models')==run('data', 'list')==run('config', 'list', 'raft*')==[]
for model in 'dis', 'farneback': assert run('infer', a, b, '--model', model, '--out', model)==['matplotlib']
assert run('data', 'check', 'folder', 'pair', 'images=*.png')==['matplotlib']
for model in 'variational', 'flowbook_small':
    assert run('infer', a, b, '--model', model, '--out', model)==['torch', 'matplotlib'], model
"""

def test_a_command_imports_what_it_needs(tmp_path):
    "Help and lists need no PyTorch, OpenCV's methods only OpenCV, networks neither PyTorch's compiler nor fastai"
    (tmp_path/'pair').mkdir()
    for o in '12': shutil.copy(root/f'flowbook/assets/demo_{o}.png', tmp_path/f'pair/frame_{o}.png')
    res = python('-c', STARTS, cwd=tmp_path)
    assert res.returncode==0, res.stderr

def test_everything_waits(tmp_path):
    "`import flowbook.all` knows all names and imports none"
    ask = 'import flowbook.all as f; assert {"RAFT", "flow_learner"} <= set(f.__all__); f.read_flow'
    assert not imported('-c', ask, cwd=tmp_path) & {'torch', 'fastai', 'matplotlib'}

def hints():
    "`pip_install(package, extra)` in the code, also by `need_package`: file and line, package, extra"
    import ast
    for path in (root/'flowbook').rglob('*.py'):
        for o in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if getattr(getattr(o, 'func', None), 'id', '') not in ('pip_install', 'need_package'): continue
            values = [a.value if isinstance(a, ast.Constant) else None for a in o.args]
            yield f'{path.name}:{o.lineno}',values[0],*(values[1:] or [''])

def test_hints_to_install_work():
    "Every `pip install` that a message, chapter or page advises: the extra exists and holds what is missing"
    config = ConfigParser(delimiters=['='])
    config.read(root/'settings.ini', encoding='utf-8')
    extras = {k.removesuffix('_requirements'): [re.match(r'[\w-]+', o)[0].lower() for o in v.split()]
              for k,v in config['DEFAULT'].items() if k.endswith('_requirements')}
    found = [*hints()]
    assert len(found) > 15
    for where,package,extra in found:
        assert not (package and extra) or package.lower() in extras[extra], where
    for path in [*(root/'nbs').rglob('*.ipynb'), root/'README.md', root/'CONTRIBUTING.md']:
        text = path.read_text(encoding='utf-8').replace('\\"', '"')
        named = {*re.findall(r'pip install[^\n`]{0,20}(?:flowbook|\.)\[(\w+)\]', text)}
        assert named <= {*extras, 'all'}, (path, named)
        assert 'pip install flowbook[' not in text, f'{path}: without quotes, zsh takes [ for a pattern'
    spelt = [p.name for p in (root/'flowbook').rglob('*.py') if 'pip install' in p.read_text(encoding='utf-8')]
    assert sorted(spelt) == ['errors.py'], spelt   # `CONTRIB` has it from there too
