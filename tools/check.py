#!/usr/bin/env python3
"""Run every test, or the checks that keep notebooks, package and docs in step.

    python tools/check.py            # the tests: nbdev_test over the notebooks, then pytest
    python tools/check.py --gate     # the rest: dependencies, notebooks clean and exported, outputs small,
                                     # docs, README, wheel
    python tools/check.py --all      # both, as CI does
    python tools/check.py --isa base # the tests on an older processor, played by this one: SSE4.1; or avx2
    python tools/check.py --release v0.1.0   # is that the version everywhere? prints its part of CHANGELOG.md

What can be mended by running it again is mended: a failed `clean` or `export` has done its work, look at
the diff and commit it.
`python tools/check.py export docs` runs those two only; `graph` also prints which room imports which.
"""
import argparse, ast, io, json, os, re, shutil, subprocess, symtable, sys, time, tokenize
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

root = Path(__file__).resolve().parent.parent
bin_dir = Path(sys.executable).parent # of this environment; not resolved, a venv's python is a link
# findings from before these steps existed: the numbers may only fall, to zero
LEFT = dict(graph=0, lint=0, words=0)
SOFT, HARD = 200_000, 1_500_000 # bytes of a notebook: goal and limit
PICTURE, LINES = 40_000, 15     # goals: bytes of a picture, lines of a text output
TRUTH = 6 # minutes in which the step `truth` begins notebooks: the tests take 22 of the 35 that CI has
HAND_WRITTEN = {'all.py', '_modidx.py', '__init__.py'}
DRAWING = root/'nbs/images/rooms.svg'
# what PyTorch, its two libraries of arithmetic and, by PyTorch's word, our kernels are told to do without
WORDS = 'ATEN_CPU_CAPABILITY', 'ONEDNN_MAX_CPU_ISA', 'MKL_ENABLE_INSTRUCTIONS'
ISA = dict(base=dict(zip(WORDS, ('default', 'SSE41', 'SSE4_2'), strict=True)),
           avx2=dict(zip(WORDS, ('avx2', 'AVX2', 'AVX2'), strict=True)))
# a module imports from its own room and from those before it
ROOMS = 'core io viz layers ops data augment models train recipes infer mmflow apps cli'.split()

# words that the book does not use, and what it says instead; one of several meanings has its neighbours
_seen = 'size|sides?|pixels?|border|edges?|corners?|part|width|height'
_which = 'first|second|two|both|large|larger|small|smaller|whole|scaled|input|your|the same'
_step = 'cost|conv|layer|norm|encoder|network|last|first|name|number|dot|colon|word|option|loss|step'
WORDING = {
    'films?': 'video', 'data sets?': 'dataset', 'learnt': 'learned', 'heirs?': 'successor',
    'likewise': 'also, the same', 'beside': 'next to, compared with', '(?<!nbdev\'s )processors?': 'CPU',
    'of (yours|ours|theirs)': 'your, our, their', 'refus(e|es|ed|ing)': 'reject',
    '(?<!there )(is|are) no(?! longer| more| less| one| matter| problem)': 'is not a, are not',
    '\\d[\\d.,\u00a0 ]*(M|million|thousand)? weights': 'parameters', 'at the door': 'with a message',
    'found a slip': 'usage error',
    'present(?= (flow|frame|estimate|guess|state|step|value|image))': 'current',
    f'behind(?= (the|each|every|a|its) ({_step}))': 'after',
    '(solid|moving|hidden|near|far|rigid) things?|things?(?= (that )?(moves?|moved|are hidden))': 'object',
    f'({_seen}) of (the|a|each|your|both|two) pictures?|({_which}) pictures?': 'image',
    'pictures?(?= ([12]|one|two|moves?|moved|that do(es)? not move))': 'image',
    '(any|its|their|other|these) numbers?(?= (can|may) be (changed|set|given)| in a row)':
        'argument, parameter'}
WORDING = [(re.compile(rf'(?<![\w-])({k})(?![\w-])', re.I), v) for k,v in WORDING.items()]

class Failed(Exception): pass

def tool(*args, **env):
    "Run a program of this environment; returns its exit code"
    exe = bin_dir/args[0]
    cmd = [sys.executable, *args[1:]] if args[0]=='python' else [str(exe) if exe.exists() else args[0],
        *args[1:]]
    print('$', ' '.join(args), flush=True)
    return subprocess.run(cmd, cwd=root, env={**os.environ, **env}).returncode

def need(code, what):
    if code: raise Failed(f'{what} (exit code {code})')

def notebooks():
    hidden = lambda p: any(o[0] in '._' for o in p.relative_to(root).parts)
    return sorted(p for p in (root/'nbs').rglob('*.ipynb') if not hidden(p))

def changed(paths, *args, after=None):
    "Files that the command `args`, and the function `after` it, write differently, make or remove"
    before = {p: p.read_bytes() for p in paths()}
    need(tool(*args), args[0])
    if after: after()
    now = {p: p.read_bytes() for p in paths()}
    return [str(p.relative_to(root)) for p in sorted(before.keys()|now.keys()) if before.get(p)!=now.get(p)]

def not_run():
    "Cells that this test leaves out, by notebook, with the directive that says so"
    for p in notebooks():
        for i,c in enumerate(json.loads(p.read_text(encoding='utf-8'))['cells']):
            why = re.search(r'^#\| *(cuda|data|eval: *false)\b', ''.join(c['source']),
                            re.M) if c['cell_type']=='code' else None
            if why: yield f'{p.relative_to(root)} cell {i}: {why[1]}'

def check_notebooks():
    "every cell that needs neither a GPU nor a data set, `#| slow` ones too"
    print('not run here:', *not_run(), sep='\n  ', flush=True)
    need(tool('nbdev_test', '--n_workers', '2', '--flags', 'slow', '--timing', OMP_NUM_THREADS='1'),
         'nbdev_test')
    return len(notebooks())

def cell_names(source):
    "Global names that a cell makes, and those that it uses"
    def used(table):
        own = table.get_type()=='module'
        yield from (s.get_name() for s in table.get_symbols() if s.is_referenced() and (own or s.is_global()))
        for t in table.get_children(): yield from used(t)
    table = symtable.symtable(re.sub(r'^ *[%!].*$', 'pass', source, flags=re.M), 'cell', 'exec')
    return {s.get_name() for s in table.get_symbols() if s.is_assigned() or s.is_imported()}, set(used(table))

def check_plain():
    "cells without a flag need no name that only flagged ones make: nbdev_test passes without flags, too"
    bad = []
    for p in notebooks():
        plain, flagged = set(), {}
        for i,c in enumerate(json.loads(p.read_text(encoding='utf-8'))['cells']):
            source = ''.join(c['source'])
            if c['cell_type']!='code' or re.search(r'^#\| *eval: *false', source, re.M): continue
            made, used = cell_names(source)
            flag = re.search(r'^#\| *(slow|cuda|data)\b', source, re.M)
            if flag:
                flagged |= dict.fromkeys(made - flagged.keys(), f'cell {i}, {flag[1]}')
                continue
            for n in sorted(used & flagged.keys() - plain - made):
                bad.append(f'{p.relative_to(root)} cell {i} uses {n}, which {flagged[n]}, makes')
            plain |= made
    if bad: raise Failed('\n'.join(bad))
    return len(notebooks())

def check_pytest():
    "what needs a process of its own"
    out = root/'.pytest_cache'/'junit.xml'
    need(tool('python', '-m', 'pytest', '-q', '-n', '2', '--dist', 'worksteal', 'tests', f'--junitxml={out}',
              OMP_NUM_THREADS='1'), 'pytest')
    found = dict(re.findall(r'(tests|skipped)="(\d+)"', out.read_text()))
    return int(found['tests'])-int(found['skipped'])

def check_pip():
    "no two packages at odds"
    need(tool('python', '-m', 'pip', 'check'), 'pip check')

def check_clean():
    "nbdev_clean changes nothing"
    if names := changed(notebooks, 'nbdev_clean'):
        raise Failed(f"nbdev_clean changed {', '.join(names)}: commit that")

def exported():
    "Modules that the notebooks name in `default_exp`, as paths inside the package"
    for p in notebooks():
        src = '\n'.join(''.join(c['source']) for c in json.loads(p.read_text(encoding='utf-8'))['cells'])
        yield from (m.replace('.', '/')+'.py' for m in re.findall(r'^#\| *default_exp +(\S+)', src, re.M))

def write_stubs():
    "What type checkers read of the faces of the packages"
    sys.path.insert(0, str(root))
    import flowbook
    from flowbook.core.faces import stub
    for o in ROOMS: (root/f'flowbook/{o}/__init__.pyi').write_text(stub(f'flowbook.{o}'), encoding='utf-8')
    (root/'flowbook/__init__.pyi').write_text(stub('flowbook', flowbook.DOOR), encoding='utf-8')

def check_export():
    "each module has its notebook, and neither nbdev_export nor the stubs that follow from it change anything"
    package = root/'flowbook'
    modules = lambda: sorted(p for p in package.rglob('*.py*') if p.suffix in ('.py', '.pyi'))
    known = set(exported())
    orphans = [p for p in package.rglob('*.py') if p.name not in HAND_WRITTEN
               and p.relative_to(package).as_posix() not in known]
    if orphans:
        names = ', '.join(str(p.relative_to(root)) for p in orphans)
        raise Failed(f'no notebook exports {names}: delete by hand')
    if names := changed(modules, 'nbdev_export', after=write_stubs):
        raise Failed(f"nbdev_export changed {', '.join(names)}: commit that")

def check_index():
    "every chapter imports, and the program's lists of models and recipes are the registers' own"
    code = ("from flowbook.all import *; "
            "open('flowbook/assets/index.json', 'w', encoding='utf-8').write(make_index())")
    index = lambda: [p for p in [root/'flowbook/assets/index.json'] if p.exists()]
    if changed(index, 'python', '-W', 'ignore', '-c', code):
        raise Failed('index.json has changed: commit that')

def imports():
    "What modules import of each other, anywhere: module, what it imports from, name; None: a whole module"
    paths = sorted(p for p in (root/'flowbook').glob('*/*.py') if p.name!='__init__.py')
    files = {'.'.join(p.relative_to(root).with_suffix('').parts): p for p in paths}
    for module,path in files.items():
        room, bound = module.rpartition('.')[0], {}
        tree = ast.parse(path.read_text(encoding='utf-8'))
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                yield from ((module, o.name, None) for o in node.names if o.name in files)
            if not isinstance(node, ast.ImportFrom): continue
            # one dot: the room, two: the package
            parent = '.'.join(room.split('.')[:3-node.level]) if node.level else ''
            source = '.'.join(o for o in (parent, node.module) if o)
            for o in node.names:
                whole = f'{source}.{o.name}'
                if whole in files: bound[o.asname or o.name] = whole
                if whole in files: yield module, whole, None
                elif source.startswith('flowbook.'): yield module, source, o.name
        for node in ast.walk(tree): # `loaders._fetch` of an imported module `loaders`
            if (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
                    and node.value.id in bound):
                yield module, bound[node.value.id], node.attr

def circles(graph):
    "Groups of modules that import each other, however indirectly"
    def reached(start):
        found, new = set(), [start]
        while new: new += [o for o in graph.get(new.pop(), ()) if o not in found and not found.add(o)]
        return found
    below = {m: reached(m) for m in graph}
    return sorted({tuple(sorted(o for o in below[m] if m in below.get(o, ()))) for m in graph
                   if m in below[m]})

def drawing(rooms):
    "The rooms as an SVG table: a dot where the room of the row imports from the room of the column"
    n, cell, left, top = len(ROOMS), 20, 76, 70
    mid = lambda i: i*cell + cell/2
    parts = [f'<line x1="0" x2="{left+n*cell}" y1="{top+i*cell}" y2="{top+i*cell}" stroke="#ddd"/>'
             for i in range(n+1)]
    for i,row in enumerate(ROOMS):
        parts.append(f'<text x="{left-8}" y="{top+mid(i)+4}" text-anchor="end">{row}</text>')
        parts.append(f'<text transform="translate({left+mid(i)+4} {top-6}) rotate(-90)">{row}</text>')
        parts.append(f'<rect x="{left+i*cell}" y="{top+i*cell}" width="{cell}" height="{cell}" fill="#ddd"/>')
        cols = [j for j,o in enumerate(ROOMS) if o in rooms[row] and o!=row]
        parts += [f'<circle cx="{left+mid(j)}" cy="{top+mid(i)}" r="5" fill="#2a6f97"/>' for j in cols]
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" width="{left+n*cell}" height="{top+n*cell+1}" '
            'font-family="sans-serif" font-size="13">')
    return '\n'.join([head, *parts, '</svg>\n'])

def check_graph():
    "imports point from a room to those before it; no circles, no private names of another module"
    found, room = sorted(set(imports()), key=str), lambda m: m.split('.')[1]
    graph, rooms, bad = {}, {o: set() for o in ROOMS}, []
    for a,b,name in found:
        graph.setdefault(a, set()).add(b)
        rooms.setdefault(room(a), set()).add(room(b))
        if name and re.match('_(?!_)', name): bad.append(f'{a} imports {name} of {b}: a private name')
        if b.count('.')==1:
            bad.append(f'{a} imports {name} of {b}: modules import from modules, not from the face of a room')
        if not {room(a), room(b)} <= set(ROOMS):
            bad.append(f'{a} imports {b}: a room that ROOMS in tools/check.py does not list')
        elif ROOMS.index(room(b)) > ROOMS.index(room(a)):
            bad.append(f'{a} imports {b}: {room(b)} comes after {room(a)}')
    bad += [f"a circle: {', '.join(o)}" for o in circles(graph)]
    for o in ROOMS: print(f"  {o:8} imports {' '.join(sorted(rooms[o]-{o}, key=ROOMS.index)) or '-'}")
    bad = sorted(set(bad))
    if len(bad) > LEFT['graph']:
        raise Failed('\n'.join([*bad, f"{len(bad)} findings, at most {LEFT['graph']} may be left"]))
    if bad: print(f'note: {len(bad)} findings are left')
    new = drawing(rooms)
    if not DRAWING.exists() or DRAWING.read_text()!=new:
        DRAWING.write_text(new)
        raise Failed(f'{DRAWING.relative_to(root)} is drawn anew: commit that')

def check_lint():
    "ruff, as ruff.toml sets it, finds nothing in package and tools"
    print('$ ruff check flowbook tools setup.py', flush=True)
    res = subprocess.run([bin_dir/'ruff', 'check', '--output-format=json', 'flowbook', 'tools', 'setup.py'],
                         cwd=root, capture_output=True, text=True)
    if res.returncode > 1: raise Failed(res.stderr)
    rows = [(Path(o['filename']), o['location']['row'], o['code'], o['message'])
            for o in json.loads(res.stdout)]
    line = lambda file, row: file.read_text(encoding='utf-8').splitlines()[row-1]
    ours = lambda file, row: not re.search(r"^(__all__ = \[| {11}')", line(file, row)) # nbdev wraps that list
    bad = [f'{f.relative_to(root)}:{row}: {code} {text}' for f,row,code,text in rows if ours(f, row)]
    if len(bad) > LEFT['lint']:
        raise Failed('\n'.join([*bad, f"{len(bad)} findings, at most {LEFT['lint']} may be left"]))
    if bad: print(f'note: {len(bad)} findings are left')

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
        if size > SOFT:
            said = f'{where}: {size//1000} kB, goal {SOFT//1000}, limit {HARD//1000}'
            (bad if size > HARD else heavy).append(said)
        for i,o,data,text in outputs(p):
            at, page = f'{where} cell {i}:', ''.join(data.get('text/html', ''))
            if o.get('name')=='stderr' or o['output_type']=='error':
                bad.append(f'{at} {o.get("ename", "stderr")} is stored')
            if m := here.search(text): bad.append(f'{at} machine detail {m.group()!r}')
            if '<progress' in page or any('widget' in k for k in data):
                bad.append(f'{at} widget or progress bar')
            if (n := text.count('\n')) > LINES: heavy.append(f'{at} {n} lines of text, goal {LINES}')
            sizes = [len(v)*3//4 for k,v in data.items() if k.startswith('image/')] # base64
            heavy += [f'{at} picture of {n//1000} kB, goal {PICTURE//1000}' for n in sizes if n > PICTURE]
    for h in heavy: print('note:', h)
    if bad: raise Failed('\n'.join(bad)+'\nrun tools/refresh.py on them')

def check_truth():
    "notebooks whose code, modules or data changed since they ran show the same: those a few minutes allow"
    need(tool('python', 'tools/refresh.py', '--check', '--minutes', os.environ.get('TRUTH', str(TRUTH))),
         'stored outputs differ')

def prose(path):
    "What a file says to people: cell number and text; of exported code docstrings, messages and comments"
    if path.suffix=='.md': return [('text', path.read_text(encoding='utf-8'))]
    cells = [(c, ''.join(c['source'])) for c in json.loads(path.read_text(encoding='utf-8'))['cells']]
    return [(f'cell {i}', t) for i,(c,source) in enumerate(cells)
            for t in ([source] if c['cell_type']=='markdown' else said(source))]

# a table of names, which may be called anything
NAMES = re.compile(r'\n(\s*[\w.]+(=[\w.]+)?:?(?=\s))+\s*')

def said(source):
    "Docstrings, messages of three words or more, and comments of an exported cell"
    if not re.search(r'^#\| *exporti?\b', source, re.M): return
    source = re.sub(r'^ *[%!].*$', 'pass', source, flags=re.M)
    for t in tokenize.generate_tokens(io.StringIO(source).readline):
        if t.type==tokenize.COMMENT and not t.string.startswith('#|'): yield t.string.lstrip('# ')
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value.split()) > 2:
            if not NAMES.fullmatch(node.value): yield node.value

def without_quotes(text):
    "Text without code, formulas, addresses and quotations, which keep their words"
    text = re.sub(r'^(`{3,}).*?^\1$|\$\$.*?\$\$', '', text, flags=re.M|re.S)
    text = re.sub(r'^(#+ .*)$', r'\1\n', text, flags=re.M) # a heading is a sentence
    text = re.sub(r'`[^`]*`|\$[^$\n]+\$|\]\([^)]*\)|<[^>\n]+>|https?://\S+|^>.*', ' ', text, flags=re.M)
    return re.sub(r'"[^"\n]*"|\u201c[^\u201d]*\u201d', ' ', text)

def wording(text):
    "Uses of words that the book does not use: the word, what to say instead, the sentence"
    for sentence in re.split(r'(?<=[.:?!]) +(?=[A-Z])|\n\s*\n|\n(?=[|*#-])', without_quotes(text)):
        for pattern,better in WORDING:
            for m in pattern.finditer(sentence): yield m[0], better, ' '.join(sentence.split())

def check_words():
    "prose and messages use the field's words: the glossary's others are counted"
    found = [f'{p.relative_to(root)} {at}: {word!r}, better {better!r}: {sentence[:160]}'
             for p in [*notebooks(), root/'README.md']
             for at,text in prose(p) for word,better,sentence in wording(text)]
    print(*found, sep='\n')
    if len(found) > LEFT['words']: raise Failed(f"{len(found)} words, at most {LEFT['words']} may be left")
    if found: print(f'note: {len(found)} words are left')

def check_docs():
    "every page renders, is in the sidebar, and leads somewhere; README.md is the index notebook"
    need(tool('python', 'tools/docs.py', '--check'), 'tools/docs.py')

def check_wheel():
    "sdist and wheel build in isolation, as an installer does it"
    shutil.rmtree(root/'build', ignore_errors=True) # what an earlier build left would go into the wheel
    shutil.rmtree(root/'dist', ignore_errors=True)
    print('$ python -m build', flush=True)
    res = subprocess.run([sys.executable, '-m', 'build', '--outdir', 'dist', '.'], cwd=root,
                         capture_output=True, text=True)
    need(res.returncode, f'{res.stdout[-2000:]}{res.stderr[-2000:]}\nbuild')
    print(res.stdout.strip().splitlines()[-1])
    shutil.rmtree(root/'build', ignore_errors=True)

def release_notes(tag):
    "The part of CHANGELOG.md about `tag`, once every file agrees that this is the version"
    version = tag.removeprefix('v')
    said = {'settings.ini': r'^version = (\S+)', 'CITATION.cff': r'^version: (\S+)',
            'conda/recipe.yaml': r'^  version: (\S+)',
            'flowbook/__init__.py': r"^__version__ = ['\"](\S+)['\"]"}
    for name,pattern in said.items():
        found = re.search(pattern, (root/name).read_text(encoding='utf-8'), re.M)
        found = found and found[1]
        if found != version: raise Failed(f'{name}: found version {found}, expected {version}')
    parts = re.split(r'^## ', (root/'CHANGELOG.md').read_text(encoding='utf-8'), flags=re.M)[1:]
    notes = [o.partition('\n')[2].strip() for o in parts if re.match(rf'{re.escape(version)}\b', o)]
    wanted = f'a line that begins with ## {version}'
    if not notes: raise Failed(f'CHANGELOG.md: found no part on {version}, expected {wanted}')
    return notes[0]

TESTS = dict(notebooks=check_notebooks, pytest=check_pytest)
GATE = dict(pip=check_pip, clean=check_clean, export=check_export, index=check_index, docs=check_docs,
            truth=check_truth, wheel=check_wheel, graph=check_graph, lint=check_lint, plain=check_plain,
            outputs=check_outputs, words=check_words) # those that take long first
KNOWN = {**GATE, **TESTS}
ALONE = {'pip', 'clean', 'export', 'index', *TESTS} # they write what others read, or take all cores

def run_step(name):
    "Run a step here; how much it tested"
    start = time.time()
    print(f'== {name}: {KNOWN[name].__doc__}', flush=True)
    try: passed = KNOWN[name]() or 1
    except Failed as e: raise Failed(f'{e}\n== {name} failed after {time.time()-start:.0f} s') from e
    print(f'== {name} ok, {time.time()-start:.0f} s', flush=True)
    return passed

def run_together(names):
    "Run steps in processes of their own, two at once; what each says comes out when it has ended"
    def one(name):
        res = subprocess.run([sys.executable, __file__, name], cwd=root, text=True, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT)
        *said,last = res.stdout.strip().split('\n')
        print(*said, sep='\n', flush=True)
        passed = re.fullmatch(r'(\d+) passed, 0 failed', last)
        return int(passed[1]) if passed else Failed(f'{name}: {last}')
    with ThreadPoolExecutor(2) as pool: found = list(pool.map(one, names))
    if failed := [str(o) for o in found if isinstance(o, Failed)]: raise Failed('\n'.join(failed))
    return sum(found)

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--gate', action='store_true', help='the checks instead of the tests')
    ap.add_argument('--all', action='store_true', help='checks and tests')
    ap.add_argument('--isa', choices=ISA, help='the tests, without what older processors lack')
    ap.add_argument('--release', metavar='TAG', help='the notes of a release, if all files name its version')
    ap.add_argument('steps', nargs='*', metavar='step', help=f"any of {' '.join(KNOWN)}")
    args, passed = ap.parse_args(), 0
    if wrong := set(args.steps)-set(KNOWN):
        ap.error(f"found step {', '.join(wrong)}, expected any of {' '.join(KNOWN)}")
    os.environ.update(ISA.get(args.isa, {}))
    if args.release:
        try: return print(release_notes(args.release))
        except Failed as e: sys.exit(str(e))
    steps = args.steps or list(KNOWN if args.all else GATE if args.gate else TESTS)
    alone = [o for o in steps if args.steps or o in ALONE]
    try:
        for name in alone: passed += run_step(name)
        if others := [o for o in steps if o not in alone]: passed += run_together(others)
    except Failed as e: sys.exit(f'{e}\n{passed} passed, 1 failed')
    print(f'{passed} passed, 0 failed')

if __name__=='__main__': main()
