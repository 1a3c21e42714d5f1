#!/usr/bin/env python3
"""Run notebooks for real and store their outputs, small: name cells, export, execute, shrink, clean.

    python tools/refresh.py [nbs/io/10_files.ipynb ...]      # no names: every notebook

Runs the cells that `nbdev_test --flags slow` runs, in order, in one process per notebook and in the notebook's folder. Cells with
`eval: false`, `#| data`, or `#| cuda` where there is no GPU, keep the outputs they had (in the file, else in the last commit).
Pictures become JPEG at 72 dpi; progress bars, stderr, addresses, times and machine paths are dropped. A second run changes nothing.
When a cell fails its traceback is printed, the exit code is 1, and the notebook keeps its old outputs.
"""
import argparse, ast, base64, hashlib, io, json, os, re, subprocess, sys, tempfile, time
from pathlib import Path

root = Path(__file__).resolve().parent.parent
MAX_PICTURE, MAX_LINES, MAX_NOTEBOOK = 40_000, 15, 200_000 # bytes, lines, bytes: beyond these a note is printed
FORMATS = """from matplotlib_inline.backend_inline import set_matplotlib_formats
set_matplotlib_formats('jpeg', pil_kwargs=dict(quality=85))
import matplotlib
matplotlib.rcParams.update({'figure.dpi': 72, 'savefig.dpi': 72})"""
PROGRESS = ('<progress', 'progress-bar', 'jupyter-widgets', 'fastprogress') # marks of a progress bar in HTML
NOISE = re.compile(r'^(array\()?\[*<?(Axes|Figure size|Text\(|matplotlib\.)') # what a plotting call returns
TIMES = re.compile(r'^ *(CPU times|Wall time|Total time):.*\n?', re.M)
SCRUB = [(re.compile(r'\x1b\[[0-9;?]*[A-Za-z]'), ''),                              # terminal colours
         (re.compile(r'[^\n]*\r(?!\n)'), ''),                                      # a redrawn line shows what was drawn last
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
    if cell.cell_type!='code' or d.keys()&{'export', 'exporti', 'exports'} or d.get('eval:', [''])[0].lower()=='false':
        return False
    kinds = {isinstance(o, (ast.Import, ast.ImportFrom)) for tree in cell.parsed_() or []
             for o in ast.walk(tree)
             if isinstance(o, (ast.Import, ast.ImportFrom, ast.Expr, ast.Assign))}
    return len(kinds)==2

def notes(nb):
    "What goes beyond the style guide, one line each"
    for i,c in enumerate(nb.cells):
        if mixed(c):
            yield f'cell {i}: imports beside other code: the docs run such a cell, move its imports to the top'
        for o in c.get('outputs', []):
            text = ''.join(o.get('text') or o.get('data', {}).get('text/plain', ''))
            if (n := text.count('\n')) > MAX_LINES: yield f'cell {i}: {n} lines of text, at most {MAX_LINES}'
            for k,v in o.get('data', {}).items():
                n = len(v)*3//4 if k.startswith('image/') else 0 # base64
                if n > MAX_PICTURE: yield f'cell {i}: picture of {n//1000} kB, at most {MAX_PICTURE//1000}'

def run_cells(nb, path):
    "Run what CI runs and store outputs; returns an error text or None"
    from execnb.shell import CaptureShell, format_exc
    os.chdir(path.parent)
    sys.path.insert(0, str(root))
    os.environ['IN_TEST'] = '1'
    shell = CaptureShell(path)
    shell.run(FORMATS)
    kept = last_outputs(path)
    for i,cell in enumerate(nb.cells):
        if cell.cell_type!='code': continue
        if skipped(cell):
            cell.outputs = cell.outputs or kept.get(cell.source, [])
            continue
        cell.outputs, start = [], time.time()
        shell.cell(cell)
        if shell.exc:
            src = '\n'.join(f'    {l}' for l in cell.source.splitlines())
            return f"{path.relative_to(root)} cell {i}:\n{src}\n\n{''.join(format_exc(shell.exc))[-4000:]}"
        took = time.time()-start
        imports = re.match(r'(#.*\n)*(from|import) ', cell.source)
        if took > 5 and 'slow' not in directives(cell) and not imports:
            print(f'  note: cell {i} took {took:.0f} s: `#| slow`?')
        cell.outputs = small(cell.outputs)

def refresh(path):
    "Name, export, run, store and clean one notebook; returns an error text or None"
    import warnings
    from execnb.nbio import read_nb, write_nb
    from nbdev.clean import clean_nb
    from nbdev.export import nb_export
    warnings.simplefilter('ignore')
    start, path = time.time(), Path(path).resolve()
    os.chdir(root)
    nb = read_nb(path)
    name_cells(nb)
    nb.metadata = dict(kernelspec=dict(display_name='python3', language='python', name='python3'))
    clean_nb(nb)
    write_nb(nb, path) # exported code names its cells: ids first
    if any('default_exp' in directives(c) for c in nb.cells): nb_export(path, lib_path='flowbook')
    err = run_cells(nb, path)
    if err: return err
    clean_nb(nb)
    write_nb(nb, path)
    for n in notes(nb): print('  note:', n)
    size = path.stat().st_size
    if size > MAX_NOTEBOOK: print(f'  note: {size//1000} kB, at most {MAX_NOTEBOOK//1000}')
    print(f'{path.relative_to(root)}: {time.time()-start:.1f} s, {size/1000:.0f} kB')

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('notebooks', nargs='*')
    names = ap.parse_args().notebooks
    os.environ['MPLBACKEND'] = 'module://matplotlib_inline.backend_inline'
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    os.environ.setdefault('PYTHONHASHSEED', '0')
    if len(names)==1: sys.exit(refresh(names[0]))
    hidden = lambda p: any(o[0] in '._' for o in p.relative_to(root).parts)
    if not names: names = [str(p) for p in sorted((root/'nbs').rglob('*.ipynb')) if not hidden(p)]
    failed = [n for n in names if subprocess.run([sys.executable, __file__, n]).returncode]
    sys.exit(f"failed: {', '.join(failed)}" if failed else None)

if __name__=='__main__': main()
