#!/usr/bin/env python3
"""Run notebooks for real and store their outputs, small: name cells, export, execute, shrink, clean.

    python tools/refresh.py [NOTEBOOK ...]         # no names: every notebook
    python tools/refresh.py --list                 # which stored outputs may be out of date, and why
    python tools/refresh.py --check [NOTEBOOK ...] # run, say what differs; no names: those of --list
    python tools/refresh.py --check --all          # the same for every notebook

Runs the cells that `nbdev_test --flags slow` runs, in order, in one process per notebook and in its folder.
Cells with `eval: false`, `#| data`, or `#| cuda` where there is no GPU, keep the outputs they had (in the
file, else in the last commit). Pictures become JPEG at 72 dpi; progress bars, stderr, addresses, times and
machine paths are dropped. When a cell fails its traceback is printed, the exit code is 1, and the notebook
keeps its old outputs.

A run leaves a fingerprint in the notebook's metadata: of its cells, of the modules that it imports (and
those that these import), and of the data files of the package that these read. Comments and prose do not
count. Outputs may be out of date when one of the three has changed since.

`--check` compares texts word by word. Numbers may differ by 5 % or by one unit of the last printed digit,
whole numbers by 2 %; below 1e-4 all are equal. Times, dates, addresses, paths and versions are ignored. A
picture has its stored size and differs by at most 3 of 255 on average, and by at most 40 in any square of
8 pixels. `#| varies: true` marks a cell whose output is another at every run, or on another CPU, as what
many steps of training end with; it is not compared, nor is one that prints `skipped: ...`, for want of a
file or a package.
"""
import argparse, ast, base64, copy, hashlib, io, json, os, re, subprocess, sys, tempfile, time, tokenize
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

root = Path(__file__).resolve().parent.parent
MAX_PICTURE, MAX_LINES, MAX_NOTEBOOK = 40_000, 15, 200_000 # bytes, lines, bytes: beyond these, a note
FORMATS = """from matplotlib_inline.config import InlineBackend
InlineBackend.instance().set_trait('figure_formats', {'jpeg'}) # used once pyplot draws, as in Jupyter
InlineBackend.instance().print_figure_kwargs = dict(bbox_inches='tight', pil_kwargs=dict(quality=85))
import matplotlib
matplotlib.rcParams.update({'figure.dpi': 72, 'savefig.dpi': 72})"""
PROGRESS = ('<progress', 'progress-bar', 'jupyter-widgets', 'fastprogress') # marks of a progress bar in HTML
NOISE = re.compile(r'^(array\()?\[*<?(Axes|Figure size|Text\(|matplotlib\.)') # what a plotting call returns
TIMES = re.compile(r'^ *(CPU times|Wall time|Total time):.*\n?', re.M)
SCRUB = [(re.compile(r'\x1b\[[0-9;?]*[A-Za-z]'), ''),                              # terminal colours
         (re.compile(r'[^\n]*\r(?!\n)'), ''),                                      # redrawn lines: the last
         (re.compile(r'[^\n]*\|[\u2588-]+\| *\d+[.\d]*% *\[[^\]\n]*\]'), ''),       # fastprogress
         (re.compile(r'^(?=.*[\u2501\u2578\u2588]).*(\d+%|\d+/\d+).*\n?', re.M),
          ''), # Rich and tqdm, their last state
         (TIMES, ''), (re.compile(r'^(epoch\b.*?) +time *$', re.M), r'\1'),
         (re.compile(r'^(\d+ .*?) +\d+:\d\d(:\d\d)? *$', re.M),
          r'\1'),            # the time column of fastai's table
         (re.compile(r' at 0x[0-9a-fA-F]{6,}'), ''),
         (re.compile(re.escape(tempfile.gettempdir())+r'/tmp\w{8}'), 'tmp'),
         (re.compile(re.escape(str(root))+r'/?'), ''),
         (re.compile(re.escape(str(Path.home()))+r'(?=/)'), '~')]

KEY = 'flowbook' # of the fingerprint in the metadata; settings.ini lets nbdev_clean keep it
REL, REL_WHOLE, TINY = .05, .02, 1e-4     # how far numbers of a text may be apart
MEAN, SQUARE = 3, 40 # how far pictures may be apart, of 255: on average, and in any square of 8 pixels
RICHEST = 'image/jpeg', 'text/markdown', 'text/html', 'text/plain'
NUMBER = re.compile(r'(?<![\w.])[-+\u2212]?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?!\w)|\d+(?:\.\d+)?', re.I)
VARIES = re.compile(r'''
    \d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?)? | \d+:\d\d(:\d\d)?(\.\d+)?         # dates, clocks
  | [-+~]?\d+(\.\d+)?(e[-+]?\d+)?\ ?(ns|us|\u00b5s|\u03bcs|ms|s|min|h|seconds?|minutes?|hours?)\b   # times
  | \d+(\.\d+)?\ ?(fps|[\w.]+(/|\ per\ |\ a\ )(s|second|minute))\b | \d+(\.\d+)?\ times           # rates
  | (https?://)?(localhost|127\.0\.0\.1)(:\d+)? | 0x[0-9a-f]+                               # addresses
  | (?<![\w.])(~|[A-Za-z]:)?[/\\]\w[^\s'"`,)]*[/\\][^\s'"`,)]* | \btmp\w{6,}                        # paths
  | \bv?\d+\.\d+\.\d+[\w.+-]*                                                            # versions''', re.X)

def directives(cell):
    from nbdev.process import extract_directives
    return extract_directives(cell, remove=False) if cell.cell_type=='code' else {}

def skipped(cell):
    "Does CI leave this cell alone?"
    d = directives(cell)
    if d.get('eval:', [''])[0].lower()=='false' or 'data' in d or 'nbdev_export'+'(' in cell.source:
        return True
    if 'cuda' not in d: return False
    import torch
    return not torch.cuda.is_available()

def name_cells(nb):
    "Ids from each cell's first line of text, so that converting a script to a notebook again renames nothing"
    seen = set()
    for c in nb.cells:
        lines = [l.strip() for l in c.source.splitlines()]
        line = next((l for l in lines if l and not l.startswith(('#|', '@', '"""'))), c.source.strip())
        n = 0
        while (id := hashlib.sha1(f'{c.cell_type}{line}{n or ""}'.encode()).hexdigest()[:8]) in seen: n += 1
        seen.add(id)
        c['id'] = id

def last_outputs(path):
    "Outputs in the last commit by cell source: jupytext drops those of cells that do not run here"
    out = subprocess.run(['git', 'show', f'HEAD:./{path.name}'], cwd=path.parent, capture_output=True)
    if out.returncode: return {}
    return {''.join(c['source']): c['outputs'] for c in json.loads(out.stdout)['cells'] if c.get('outputs')}

def scrub(text):
    for pat,to in SCRUB: text = pat.sub(to, text)
    return text

def to_jpeg(data):
    from PIL import Image
    buf = io.BytesIO()
    Image.open(io.BytesIO(base64.b64decode(data))).convert('RGB').save(buf, 'jpeg', quality=85)
    return base64.b64encode(buf.getvalue()).decode()

def small(outputs):
    "`outputs` without noise: what a reader wants to see, the same at every run"
    res = []
    for o in outputs:
        data = o.get('data', {})
        if o.get('name')=='stderr' or any(m in ''.join(data.get('text/html', '')) for m in PROGRESS): continue
        if 'application/vnd.jupyter.widget-view+json' in data: continue
        if 'image/png' in data:
            png = data.pop('image/png')
            data.setdefault('image/jpeg', to_jpeg(png))
        for d,k in [(data,k) for k in data if k.startswith('text/')]+[(o,'text')]*('text' in o):
            d[k] = scrub(''.join(d[k])).splitlines(True)
        if set(data)=={'text/plain'} and NOISE.match(''.join(data['text/plain'])): continue
        if 'text' in o and not ''.join(o['text']).strip(): continue
        res.append(o)
    return res

def mixed(cell):
    "Does a cell import and do other things? The docs run such a cell without the cells before it"
    d = directives(cell)
    if (cell.cell_type!='code' or d.keys()&{'export', 'exporti', 'exports'}
            or d.get('eval:', [''])[0].lower()=='false'):
        return False
    kinds = {isinstance(o, (ast.Import, ast.ImportFrom)) for tree in cell.parsed_() or []
             for o in ast.walk(tree)
             if isinstance(o, (ast.Import, ast.ImportFrom, ast.Expr, ast.Assign))}
    return len(kinds)==2

def notes(nb):
    "What goes beyond the style guide, one line each"
    for i,c in enumerate(nb.cells):
        if mixed(c):
            yield (f'cell {i}: imports beside other code: the docs run such a cell, '
                   'move its imports to the top')
        for o in c.get('outputs', []):
            text = ''.join(o.get('text') or o.get('data', {}).get('text/plain', ''))
            if (n := text.count('\n')) > MAX_LINES: yield f'cell {i}: {n} lines of text, at most {MAX_LINES}'
            for k,v in o.get('data', {}).items():
                n = len(v)*3//4 if k.startswith('image/') else 0 # base64
                if n > MAX_PICTURE: yield f'cell {i}: picture of {n//1000} kB, at most {MAX_PICTURE//1000}'

def run_cells(nb, path):
    "Run what CI runs and store outputs; returns an error text or None, and slow cells: number and seconds"
    from execnb.shell import CaptureShell, format_exc
    os.chdir(path.parent)
    sys.path.insert(0, str(root))
    os.environ['IN_TEST'] = '1'
    shell = CaptureShell(path)
    shell.run(FORMATS)
    kept, slow = last_outputs(path), []
    for i,cell in enumerate(nb.cells):
        if cell.cell_type!='code': continue
        if skipped(cell):
            cell.outputs = cell.outputs or kept.get(cell.source, [])
            continue
        cell.outputs, start = [], time.time()
        shell.cell(cell)
        if shell.exc:
            src = '\n'.join(f'    {l}' for l in cell.source.splitlines())
            err = f"{path.relative_to(root)} cell {i}:\n{src}\n\n{''.join(format_exc(shell.exc))[-4000:]}"
            return err, slow
        took = time.time()-start
        imports = re.match(r'(#.*\n)*(from|import) ', cell.source)
        if took > 5 and 'slow' not in directives(cell) and not imports: slow.append((i, took))
        cell.outputs = small(cell.outputs)
    return None, slow

def docstrings(tree):
    "Docstrings in parsed code, but for those of what is registered: tables print them"
    for o in ast.walk(tree):
        if not isinstance(o, (ast.Module, ast.ClassDef, ast.FunctionDef)): continue
        if any('register' in ast.unparse(d) for d in getattr(o, 'decorator_list', ())): continue
        if ast.get_docstring(o) is not None: yield o.body[0]

def bare(source):
    "Code without comments, docstrings and empty lines; what Python cannot read stays as it is"
    lines = source.splitlines()
    try:
        for t in tokenize.generate_tokens(io.StringIO(source).readline):
            if t.type==tokenize.COMMENT: lines[t.start[0]-1] = lines[t.start[0]-1][:t.start[1]]
        for o in docstrings(ast.parse(source)):
            for i in range(o.lineno-1, o.end_lineno): lines[i] = ''
    except (tokenize.TokenError, SyntaxError): pass # a magic or a shell command
    return '\n'.join(l.rstrip() for l in lines if l.strip())

def digest(*parts): return hashlib.sha256('\0'.join(parts).encode()).hexdigest()[:12]

@lru_cache(None)
def package():
    "Modules of the package with their code, what each imports, and the data files that each may read"
    from check import imports
    code = {f'flowbook.{p.parent.name}.{p.stem}': p.read_text(encoding='utf-8')
            for p in sorted((root/'flowbook').glob('*/[!_]*.py'))}
    graph = {m: set() for m in code}
    for module,other,_ in imports():
        if module in graph and other in code: graph[module].add(other)
    files = subprocess.check_output(['git', 'ls-files', 'flowbook'], cwd=root, text=True)
    data = [p for p in files.split() if not p.endswith(('.py', '.pyi', '.typed'))]
    asks = {m: re.search(r'(?<!def )asset_path\(', text) for m,text in code.items()}
    reads = {m: {p for p in data if p.startswith(f"flowbook/{m.split('.')[1]}/")
                 or asks[m] and p.startswith('flowbook/assets/') and Path(p).suffix in text}
             for m,text in code.items()}
    return {m: bare(text) for m,text in code.items()}, graph, reads

@lru_cache(None)
def face(room):
    "Name to module of what a package offers, from its stub: `'Sintel'` to `'flowbook.data.sintel'`"
    stub = root.joinpath(*room.split('.'), '__init__.pyi').read_text(encoding='utf-8')
    return {name: f'{room}.{module}' for module,name in re.findall(r'^from \.(\S+) import (\w+)', stub, re.M)}

def named(source):
    "Modules of the package that a notebook's code names, directly or through the face of a package"
    modules = package()[0]
    if re.search(r'from flowbook\.all import|import flowbook\.all', source): return set(modules)
    found = {m for m in re.findall(r'flowbook\.[a-z]\w*\.\w+', source) if m in modules}
    for room,several,one in re.findall(r'from (flowbook(?:\.\w+)*) import +(?:\(([^)]*)\)|(.*))', source):
        if room in modules: continue
        for name in re.findall(r'\w+', several or one):
            if f'{room}.{name}' in modules: found.add(f'{room}.{name}')
            elif room.count('.') < 2: found |= {face(room)[name]} if name in face(room) else set()
    door = face('flowbook')
    return found | {door[o] for o in re.findall(r'\bflowbook\.(\w+)', source) if o in door}

def reach(names):
    "`names` and what they import, however indirectly"
    graph, found, new = package()[1], set(), [*names]
    while new: new += [o for o in graph.get(new.pop(), ()) if o not in found and not found.add(o)]
    return found | set(names)

def fingerprint(cells, also=()):
    "Hashes of what the outputs of `cells` follow from; `also`: modules loaded by name, which no import shows"
    run = [c.source for c in cells if c.cell_type=='code']
    run = [o for o in run if not re.search(r'^#\| *eval: *false', o, re.M)]
    code, _, reads = package()
    also = sorted(set(also) & code.keys())
    modules = sorted(reach(named('\n'.join(run)) | set(also)))
    files = sorted({f for m in modules for f in reads[m]})
    data = [hashlib.sha256((root/f).read_bytes().replace(b'\r\n', b'\n')).hexdigest() for f in files]
    return dict(cells=digest(*map(bare, run)), modules=digest(*modules, *(code[m] for m in modules)),
                data=digest(*files, *data)) | (dict(also=also) if also else {})

def loaded(cells):
    "Modules that a run has loaded by name: those that the notebook's imports do not lead to"
    source = '\n'.join(c.source for c in cells if c.cell_type=='code')
    return {m for m in list(sys.modules) if m in package()[0]} - reach(named(source))

def stale(path):
    "Why the stored outputs of a notebook may be out of date; None: they are not"
    from execnb.nbio import read_nb
    nb = read_nb(path)
    stored = nb.metadata.get(KEY)
    if not stored: return 'no fingerprint'
    now = fingerprint(nb.cells, stored.get('also', ()))
    names = dict(cells='its cells', modules='modules that it imports', data='data files of the package')
    changed = [v for k,v in names.items() if now[k]!=stored.get(k)]
    return f"changed: {', '.join(changed)}" if changed else None

def steady(text):
    "`text` without what is another at every run, in one shape: words, and numbers as they are printed"
    text = VARIES.sub('~', untimed(scrub(text)))
    return NUMBER.sub('#', re.sub(r'[-\s|:]*\n[-\s|:]*|\s+', ' ', text)), NUMBER.findall(text)

def untimed(text):
    "A Markdown table without the columns of times"
    lines, drop = [], set()
    for line in text.splitlines():
        cells = line.strip().strip('|').split('|') if line.lstrip().startswith('|') else None
        if cells is None: drop = set()
        elif not drop and (not lines or not lines[-1].lstrip().startswith('|')):
            timed = r'\b(ms|s|sec|seconds?|minutes?|times?|fps|speed|faster)\b|/s\b|per second|a second'
            drop = {i for i,c in enumerate(cells) if re.search(timed, c)}
        lines.append('|'.join(['', *(c for i,c in enumerate(cells) if i not in drop), '']) if cells else line)
    return '\n'.join(lines)

def alike(a, b):
    "Are two printed numbers equal within the tolerance?"
    if a==b: return True
    x, y = (float(o.replace('\u2212', '-')) for o in (a, b))
    whole = not set('.e') & set((a+b).lower())
    def unit(o): # of the last digit: 0.01 for 1.25, 1e-7 for 1.2e-06
        digits, _, power = o.lower().partition('e')
        return 10.**(int(power or 0) - len(digits.partition('.')[2]))
    far, most = abs(x-y), max(abs(x), abs(y))
    if whole: return far <= REL_WHOLE*most
    return most < TINY or far <= max(REL*most, 1.01*max(unit(a), unit(b)))

def text_differs(old, new):
    "How two texts differ, in one line; None: they agree"
    (words, numbers), (words2, numbers2) = steady(old), steady(new)
    if words!=words2:
        at = max(len(os.path.commonprefix([words, words2]))-20, 0)
        return f'text: stored {words[at:at+60]!r}, today {words2[at:at+60]!r}'
    bad = [f'{a} is {b}' for a,b in zip(numbers, numbers2, strict=True) if not alike(a, b)]
    more = [f'{len(bad)-5} more'] if len(bad) > 5 else []
    return f"numbers: {', '.join(bad[:5]+more)} today" if bad else None

def picture_differs(old, new):
    "How two pictures in base64 differ, in one line; None: they agree"
    import numpy as np
    from PIL import Image
    read = lambda o: Image.open(io.BytesIO(base64.b64decode(o))).convert('RGB')
    a, b = (np.asarray(read(o), np.float32) for o in (old, new))
    size = lambda o: f'{o.shape[1]}x{o.shape[0]}'
    if a.shape!=b.shape: return f'picture: stored {size(a)}, today {size(b)}'
    diff = abs(a-b).mean(2)
    h, w = diff.shape
    squares = np.pad(diff, ((0, -h%8), (0, -w%8))).reshape(-(-h//8), 8, -(-w//8), 8).mean((1, 3))
    if diff.mean() <= MEAN and squares.max() <= SQUARE: return None
    y, x = np.unravel_index(squares.argmax(), squares.shape)
    return (f'picture: differs by {diff.mean():.1f} on average (at most {MEAN}), '
            f'by {squares.max():.0f} at x {8*x}, y {8*y} (at most {SQUARE})')

def outputs_differ(old, new):
    "How what two runs of a cell show differs, a line each"
    if len(old)!=len(new): return [f'{len(new)} outputs, stored {len(old)}']
    found = []
    for a,b in zip(old, new, strict=True):
        (d, t), (d2, t2) = ((o.get('data', {}), ''.join(o['text']) if 'text' in o else None) for o in (a, b))
        kind = next((k for k in RICHEST if k in d and k in d2), None)
        old_text, new_text = (''.join(d[kind]), ''.join(d2[kind])) if kind else (t, t2)
        if old_text is None or new_text is None:
            found.append(f"{', '.join(d2) or 'text'}, stored {', '.join(d) or 'text'}")
        else: found.append((picture_differs if kind=='image/jpeg' else text_differs)(old_text, new_text))
    return [o for o in found if o]

def differs(stored, run):
    "What a run of a notebook shows in another way than its stored outputs: one line each"
    for i,(a,b) in enumerate(zip(stored, run, strict=True)):
        if a.cell_type!='code' or skipped(a) or 'varies:' in directives(a): continue
        texts = [''.join(o.get('text', '')) for o in b.get('outputs', [])]
        if any(re.search('^skipped: ', t, re.M) for t in texts): continue
        yield from (f'cell {i}: {o}' for o in outputs_differ(a.get('outputs', []), b.get('outputs', [])))

def check(path):
    "Run one notebook and compare; returns what differs as a text, or None"
    from execnb.nbio import read_nb
    from nbdev.clean import clean_nb
    start, path = time.time(), Path(path).resolve()
    nb = read_nb(path)
    stored = copy.deepcopy(nb.cells)
    err, _ = run_cells(nb, path)
    if err: return err
    clean_nb(nb)
    bad = [f'{path.relative_to(root)} {o}' for o in differs(stored, nb.cells)]
    print(f'{path.relative_to(root)}: {time.time()-start:.1f} s, {len(bad)} differences')
    return '\n'.join(bad) or None

def mixed_up(whys):
    "The order to run: notebooks that changed themselves first, the others as each commit shuffles them"
    salt = digest(*package()[0].values())
    return sorted(whys, key=lambda n: ('cells' not in whys[n], digest(salt, n)))

def check_many(names, minutes=None):
    "Check notebooks, two at a time, until `minutes` are over; returns those that differ and those left out"
    end = time.time() + 60*(minutes or 1e6)
    def one(name):
        if time.time() > end: return name, None
        res = subprocess.run([sys.executable, __file__, '--check', name], capture_output=True, text=True)
        print(res.stdout+res.stderr, end='', flush=True)
        return name, res.returncode
    with ThreadPoolExecutor(2) as pool: done = [*pool.map(one, names)]
    return [n for n,code in done if code], [n for n,code in done if code is None]

def refresh(path):
    "Name, export, run, store and clean one notebook; returns an error text or None"
    from execnb.nbio import read_nb, write_nb
    from nbdev.clean import clean_nb
    from nbdev.export import nb_export
    start, path = time.time(), Path(path).resolve()
    os.chdir(root)
    nb = read_nb(path)
    name_cells(nb)
    nb.metadata = dict(kernelspec=dict(display_name='python3', language='python', name='python3'))
    clean_nb(nb)
    write_nb(nb, path) # exported code names its cells: ids first
    if any('default_exp' in directives(c) for c in nb.cells): nb_export(path, lib_path='flowbook')
    err, slow = run_cells(nb, path)
    if err: return err
    for i,took in slow: print(f'  note: cell {i} took {took:.0f} s: `#| slow`?')
    nb.metadata[KEY] = fingerprint(nb.cells, loaded(nb.cells))
    clean_nb(nb, allowed_metadata_keys=[KEY])
    write_nb(nb, path)
    for n in notes(nb): print('  note:', n)
    size = path.stat().st_size
    if size > MAX_NOTEBOOK: print(f'  note: {size//1000} kB, at most {MAX_NOTEBOOK//1000}')
    print(f'{path.relative_to(root)}: {time.time()-start:.1f} s, {size/1000:.0f} kB')

def notebooks():
    hidden = lambda p: any(o[0] in '._' for o in p.relative_to(root).parts)
    return [str(p.relative_to(root)) for p in sorted((root/'nbs').rglob('*.ipynb')) if not hidden(p)]

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('notebooks', nargs='*')
    ap.add_argument('--check', action='store_true', help='run and compare, store nothing')
    ap.add_argument('--all', action='store_true', help='with --check: every notebook')
    ap.add_argument('--list', action='store_true', help='only say whose outputs may be out of date, and why')
    ap.add_argument('--minutes', type=float, help='with --check: begin no notebook after that time')
    args = ap.parse_args()
    os.environ['MPLBACKEND'] = 'module://matplotlib_inline.backend_inline'
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    os.environ.setdefault('PYTHONHASHSEED', '0')
    names, whys = args.notebooks or notebooks(), {}
    if args.list or args.check and not args.notebooks and not args.all:
        whys = {n: why for n in names if (why := stale(root/n))}
        names = mixed_up(whys)
    if args.list: return print(*(f'{n}: {why}' for n,why in sorted(whys.items())), sep='\n')
    if len(args.notebooks)==1: sys.exit((check if args.check else refresh)(names[0]))
    if args.check:
        bad, left = check_many(names, args.minutes)
        for n in left: print(f"not run for lack of time: {n} ({whys.get(n, 'all are asked for')})")
        print(f'{len(names)-len(left)} notebooks run, {len(bad)} differ, {len(left)} left out')
        sys.exit(f"run tools/refresh.py {' '.join(bad)}" if bad else None)
    failed = [n for n in names if subprocess.run([sys.executable, __file__, n]).returncode]
    sys.exit(f"failed: {', '.join(failed)}" if failed else None)

if __name__=='__main__': main()
