#!/usr/bin/env python3
"""Run every test, or the checks that keep notebooks, package and docs in step.

    python tools/check.py            # the tests: nbdev_test over the notebooks, then pytest
    python tools/check.py --gate     # the rest: dependencies, notebooks clean and exported, outputs small, docs, README, wheel
    python tools/check.py --all      # both, as CI does

What can be mended by running it again is mended: a failed `clean` or `export` has done its work, look at the diff and commit it.
`python tools/check.py export docs` runs those two only.
"""
import argparse, json, os, re, shutil, subprocess, sys, time
from pathlib import Path

root = Path(__file__).resolve().parent.parent
bin_dir = Path(sys.executable).parent # of this environment; not resolved, a venv's python is a link
SOFT, HARD = 200_000, 1_500_000 # bytes of a notebook: goal and limit
PICTURE, LINES = 40_000, 15     # goals: bytes of a picture, lines of a text output
HAND_WRITTEN = {'all.py', '_modidx.py', '__init__.py'}

class Failed(Exception): pass

def tool(*args, **env):
    "Run a program of this environment; returns its exit code"
    exe = bin_dir/args[0]
    cmd = [sys.executable, *args[1:]] if args[0]=='python' else [str(exe) if exe.exists() else args[0], *args[1:]]
    print('$', ' '.join(args), flush=True)
    return subprocess.run(cmd, cwd=root, env={**os.environ, **env}).returncode

def need(code, what):
    if code: raise Failed(f'{what} (exit code {code})')

def notebooks():
    hidden = lambda p: any(o[0] in '._' for o in p.relative_to(root).parts)
    return sorted(p for p in (root/'nbs').rglob('*.ipynb') if not hidden(p))

def changed(paths, *args):
    "Files that the command `args` writes differently, appears or removes"
    before = {p: p.read_bytes() for p in paths()}
    need(tool(*args), args[0])
    after = {p: p.read_bytes() for p in paths()}
    return [str(p.relative_to(root)) for p in sorted(before.keys()|after.keys()) if before.get(p)!=after.get(p)]

def not_run():
    "Cells that this test leaves out, by notebook, with the directive that says so"
    for p in notebooks():
        for i,c in enumerate(json.loads(p.read_text(encoding='utf-8'))['cells']):
            why = re.search(r'^#\| *(cuda|data|eval: *false)\b', ''.join(c['source']), re.M) if c['cell_type']=='code' else None
            if why: yield f'{p.relative_to(root)} cell {i}: {why[1]}'

def check_notebooks():
    "every cell that needs neither a GPU nor a data set, `#| slow` ones too"
    print('not run here:', *not_run(), sep='\n  ', flush=True)
    need(tool('nbdev_test', '--n_workers', '2', '--flags', 'slow', '--timing', OMP_NUM_THREADS='1'), 'nbdev_test')
    return len(notebooks())

def check_pytest():
    "what needs a process of its own"
    out = root/'.pytest_cache'/'junit.xml'
    need(tool('python', '-m', 'pytest', '-q', '-n', '2', '--dist', 'worksteal', 'tests', f'--junitxml={out}', OMP_NUM_THREADS='1'), 'pytest')
    found = dict(re.findall(r'(tests|skipped)="(\d+)"', out.read_text()))
    return int(found['tests'])-int(found['skipped'])

def check_pip():
    "no two packages at odds"
    need(tool('python', '-m', 'pip', 'check'), 'pip check')

def check_clean():
    "nbdev_clean changes nothing"
    if names := changed(notebooks, 'nbdev_clean'): raise Failed(f"nbdev_clean changed {', '.join(names)}: commit that")

def exported():
    "Modules that the notebooks name in `default_exp`, as paths inside the package"
    for p in notebooks():
        src = '\n'.join(''.join(c['source']) for c in json.loads(p.read_text(encoding='utf-8'))['cells'])
        yield from (m.replace('.', '/')+'.py' for m in re.findall(r'^#\| *default_exp +(\S+)', src, re.M))

def check_export():
    "each module has its notebook, and nbdev_export changes nothing"
    package = root/'flowbook'
    modules = lambda: sorted(package.rglob('*.py'))
    known = set(exported())
    orphans = [p for p in modules() if p.name not in HAND_WRITTEN and p.relative_to(package).as_posix() not in known]
    if orphans: raise Failed(f"no notebook exports {', '.join(str(p.relative_to(root)) for p in orphans)}: delete by hand")
    if names := changed(modules, 'nbdev_export'): raise Failed(f"nbdev_export changed {', '.join(names)}: commit that")

def outputs(path):
    "Each output of a notebook: cell number, output, its data by type, its text"
    for i,c in enumerate(json.loads(path.read_text(encoding='utf-8'))['cells']):
        for o in c.get('outputs', []):
            data = o.get('data', {})
            yield i, o, data, ''.join(o.get('text', '') or data.get('text/plain', ''))

def check_outputs():
    "stored outputs are small, of the reader's interest, and from no particular machine"
    bad, heavy = [], []
    here = '|'.join(re.escape(f'{p}/') for p in {root, Path.home()})
    here = re.compile(here+r'|/tmp/tmp\w{8}|0x[0-9a-f]{10,}')
    for p in notebooks():
        size, where = p.stat().st_size, p.relative_to(root).as_posix()
        if size > SOFT: (bad if size > HARD else heavy).append(f'{where}: {size//1000} kB, goal {SOFT//1000}, limit {HARD//1000}')
        for i,o,data,text in outputs(p):
            at, page = f'{where} cell {i}:', ''.join(data.get('text/html', ''))
            if o.get('name')=='stderr' or o['output_type']=='error': bad.append(f'{at} {o.get("ename", "stderr")} is stored')
            if m := here.search(text): bad.append(f'{at} machine detail {m.group()!r}')
            if '<progress' in page or any('widget' in k for k in data): bad.append(f'{at} widget or progress bar')
            if (n := text.count('\n')) > LINES: heavy.append(f'{at} {n} lines of text, goal {LINES}')
            sizes = [len(v)*3//4 for k,v in data.items() if k.startswith('image/')] # base64
            heavy += [f'{at} picture of {n//1000} kB, goal {PICTURE//1000}' for n in sizes if n > PICTURE]
    for h in heavy: print('note:', h)
    if bad: raise Failed('\n'.join(bad)+'\nrun tools/refresh.py on them')

def check_docs():
    "every page renders, is in the sidebar, and leads somewhere; README.md is the index notebook"
    need(tool('python', 'tools/docs.py', '--check'), 'tools/docs.py')

def check_wheel():
    "sdist and wheel build in isolation, as an installer does it"
    shutil.rmtree(root/'build', ignore_errors=True) # what an earlier build left would go into the wheel
    shutil.rmtree(root/'dist', ignore_errors=True)
    print('$ python -m build', flush=True)
    res = subprocess.run([sys.executable, '-m', 'build', '--outdir', 'dist', '.'], cwd=root, capture_output=True, text=True)
    need(res.returncode, f'{res.stdout[-2000:]}{res.stderr[-2000:]}\nbuild')
    print(res.stdout.strip().splitlines()[-1])
    shutil.rmtree(root/'build', ignore_errors=True)

TESTS = dict(notebooks=check_notebooks, pytest=check_pytest)
GATE = dict(pip=check_pip, clean=check_clean, export=check_export, outputs=check_outputs, docs=check_docs, wheel=check_wheel)

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--gate', action='store_true', help='the checks instead of the tests')
    ap.add_argument('--all', action='store_true', help='checks and tests')
    known, passed = {**GATE, **TESTS}, 0
    ap.add_argument('steps', nargs='*', metavar='step', help=f"any of {' '.join(known)}")
    args = ap.parse_args()
    if wrong := set(args.steps)-set(known): ap.error(f"found step {', '.join(wrong)}, expected any of {' '.join(known)}")
    for name in args.steps or list(known if args.all else GATE if args.gate else TESTS):
        start = time.time()
        print(f'== {name}: {known[name].__doc__}', flush=True)
        try: passed += known[name]() or 1
        except Failed as e:
            print(f'{e}\n== {name} failed after {time.time()-start:.0f} s\n{passed} passed, 1 failed: {name}')
            sys.exit(1)
        print(f'== {name} ok, {time.time()-start:.0f} s', flush=True)
    print(f'{passed} passed, 0 failed')

if __name__=='__main__': main()
