#!/usr/bin/env python3
"""Docs without Quarto: nbdev's processors, Markdown, then HTML by Pandoc; README.md from the index notebook.

    python tools/docs.py             # write _docs/: open _docs/index.html, no server or network needed
    python tools/docs.py --readme    # write README.md
    python tools/docs.py --check     # render everything into a temporary folder and report what is wrong

The check fails on: a notebook missing from the sidebar of _quarto.yml or a page of it missing, a page
without title or description, a broken link, anchor or picture, a picture without alt text, a public method
without a heading, a README.md or nbs/nbdev.yml that differs from what would be written.
"""
import argparse, base64, html, inspect, json, os, posixpath, re, shutil, sys, tempfile, warnings
from functools import lru_cache, partial
from itertools import groupby
from html.parser import HTMLParser
from multiprocessing import get_context
from pathlib import Path
from urllib.parse import unquote, urlsplit

root = Path(__file__).resolve().parent.parent
nbs = root/'nbs'
API = 'api.ipynb' # stands for a page that no notebook makes
PICTURES = {'image/jpeg': 'jpg', 'image/png': 'png', 'image/svg+xml': 'svg'}
TEMPLATE = '''<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title$</title><meta name="description" content="$summary$">
<style>$highlighting-css$</style><link rel="stylesheet" href="$up$styles.css">
<script src="$up$search.js" data-up="$up$" defer></script></head>
<body class="offline"><nav class="side" aria-label="Book">
<input type="search" id="find" placeholder="Search" aria-label="Search" autocomplete="off">
<ul id="found" aria-live="polite"></ul>
<details><summary>Contents</summary>$side$</details></nav>
<script>$script$</script>
<main><h1>$title$</h1><p class="description">$description$</p>
$body$</main><nav id="TOC" aria-label="On this page">$toc$</nav></body></html>
'''
# the list of pages is open where there is room for it, and shows where the reader is
SIDE = '''const side = document.querySelector('nav.side'), here = side.querySelector('a.here')
side.querySelector('details').open = matchMedia('(min-width: 40.01rem)').matches
if (here) side.scrollTop = here.offsetTop - side.clientHeight/2'''
# a row of PAGES: address, title, sections; a section: anchor, heading, text
SEARCH = '''const up = document.currentScript.dataset.up
const box = document.getElementById('find'), found = document.getElementById('found')
function score(words, title, head, text) {
  const name = head.toLowerCase(), last = name.split('.').pop(), page = title.toLowerCase()
  let sum = 0
  for (const w of words) {
    if (name == w || last == w) sum += 100
    else if (name.startsWith(w) || last.startsWith(w)) sum += 40
    else if (name.includes(w)) sum += 20
    else if (page.includes(w)) sum += 10
    else if (text.includes(w)) sum += 1
    else return 0
  }
  return sum
}
function hits(asked) {
  const words = asked.toLowerCase().split(/\\s+/).filter(w => w)
  if (!words.length) return []
  const all = PAGES.flatMap(([url, title, parts]) => parts.map(([id, head, text]) =>
    ({url: url + (id && '#' + id), title, head, score: score(words, title, head, text)})))
  return all.filter(o => o.score).sort((a, b) => b.score - a.score)
}
box.addEventListener('input', () => {
  const best = hits(box.value).slice(0, 20)
  found.replaceChildren(...best.map(o => {
    const a = document.createElement('a'), li = document.createElement('li')
    a.href = up + o.url; a.textContent = o.head
    li.append(a, o.head == o.title ? '' : ' \\u2013 ' + o.title)
    return li
  }))
  if (box.value.trim() && !best.length) found.append('nothing found')
})
box.addEventListener('keydown', e => {
  const first = found.querySelector('a')
  if (e.key == 'Enter' && first) location = first.href
})
'''

def page_name(nb):
    "Where nbdev and Quarto put a notebook's page: `io/44_files.ipynb` -> `io/files.html`"
    folder, name = posixpath.split(nb)
    return posixpath.join(folder, re.sub(r'^\d+[a-zA-Z0-9]*_', '', name)[:-len('.ipynb')]+'.html')

def files(suffix=''):
    "Files under nbs/ that are part of the book, relative to it"
    rel = (p.relative_to(nbs) for p in nbs.rglob('*'+suffix) if p.is_file())
    return sorted(p.as_posix() for p in rel if not any(o[0] in '._' for o in p.parts))

def text(o): return ''.join(o) if isinstance(o, list) else o

def fenced(s, lang=''):
    fence = '`'*max(3, 1+max(map(len, re.findall('`+', s)), default=0))
    return f'{fence}{lang}\n{s.rstrip()}\n{fence}'

def plain_text(md):
    "Markdown without its marks, in one line"
    md = re.sub(r'<[^>]+>|\$+', '', re.sub(r'!?\[([^]]*)\]\([^)]*\)', r'\1', md))
    return re.sub(r'\s+', ' ', re.sub(r'[][`*|\\]', '', md)).strip()

def caption(md):
    "What a picture after `md` shows, for those who do not see it: the heading above it, and last sentence"
    head, body = re.split(r'^#+ (.*)$', f'# \n{md}', flags=re.M)[-2:]
    body = re.sub(r'^(`{3,}).*?^\1$|^(\||:::).*$', '', body, flags=re.M|re.S)
    last = re.split(r'(?<=[.:!?]) (?=[A-Z])', plain_text(body))[-1]
    return ': '.join(o for o in (plain_text(head), last.rstrip(':')) if o)[:200]

def output_md(o, picture, alt=''):
    "One output as Markdown: the richest form that needs no script"
    data = o.get('data', {})
    for mime,ext in PICTURES.items():
        if mime in data: return picture(text(data[mime]), ext, alt)
    if 'text/markdown' in data: return text(data['text/markdown'])
    if 'text/html' in data: return text(data['text/html'])
    plain = text(o.get('text', '') or data.get('text/plain', ''))
    return fenced(plain) if plain.strip() else ''

def shown_name(cell):
    "`A.b` of the cell `show_doc(A.b)`, which nbdev adds after what is exported; None of any other"
    found = re.search(r'^show_doc\(([\w.]+)', cell.source, re.M) if cell.cell_type=='code' else None
    return found and found[1]

def in_order(cells, code):
    "`cells` with neighbouring `show_doc` in the order of `code`: nbdev turns those of one cell round"
    def place(cell):
        owner, _, name = shown_name(cell).rpartition('.')
        found = re.search(rf'^def {name}\(\s*self: *{owner}\b' if owner else rf'^(class|def) {name}\b', code,
                          re.M)
        return found.start() if found else len(code)
    runs = [(shown, [*run]) for shown,run in groupby(cells, lambda c: bool(shown_name(c)))]
    return [c for shown,run in runs for c in (sorted(run, key=place) if shown else run)]

@lru_cache
def public_methods():
    "Module to the public methods of public classes that it defines, `A.b`"
    from flowbook._modidx import d
    public, found = set(), {}
    for module in d['syms']:
        code = root.joinpath(*module.split('.')).with_suffix('.py').read_text(encoding='utf-8')
        listed = re.search(r'^__all__ = \[(.*?)\]', code, re.M|re.S)
        public |= set(re.findall(r"'(\w+)'", listed[1])) if listed else set()
    for module,names in d['syms'].items():
        names = [n.removeprefix(f'{module}.').split('.') for n in names]
        found[module] = [f'{o[0]}.{o[1]}' for o in names if len(o)==2 and o[0] in public and o[1][0]!='_']
    return found

def undocumented(module, shown):
    "Public methods of `module` not among the names `shown`, those in the body of a class: class to Markdown"
    from importlib import import_module
    from nbdev.doclinks import NbdevLookup
    from nbdev.showdoc import show_doc
    space, found = vars(import_module(module)), {}
    for name in public_methods().get(module, []):
        if name in shown: continue
        owner, method = name.split('.')
        obj = inspect.getattr_static(space[owner], method)
        obj = getattr(obj, '__func__', getattr(obj, 'fget', None)) or obj
        if not inspect.isfunction(obj): obj = getattr(space[owner], method)
        md = show_doc(obj, name=name, title_level=4)._repr_markdown_()
        if not inspect.getdoc(obj): md = md.replace('*Call self as a function.*', '')
        found.setdefault(owner, []).append(NbdevLookup().linkify(md))
    return found

def notebook_md(name, picture):
    "Front matter and Markdown of a notebook; `picture(data, extension, alt)` stores one, gives its Markdown"
    from execnb.nbio import read_nb
    from nbdev.process import extract_directives
    from nbdev.processors import FilterDefaults
    os.chdir(nbs/Path(name).parent) # as the tests run it
    sys.path.insert(0, str(root))
    os.environ['IN_TEST'] = '1'
    nb, parts, said = read_nb(nbs/name), [], ''
    code = '\n'.join(c.source for c in nb.cells if c.cell_type=='code')
    module = re.search(r'^#\| *default_exp +(\S+)', code, re.M)
    FilterDefaults()(nb)
    nb.cells = in_order(nb.cells, code)
    methods = undocumented(f'flowbook.{module[1]}', set(map(shown_name, nb.cells))) if module else {}
    for c in nb.cells:
        if c.cell_type=='raw': continue # the front matter
        if c.cell_type=='markdown':
            parts.append(re.sub(r'^(#+ .*) -$', r'\1', c.source, flags=re.M)) # nbdev's mark for mere groups
            said += f'\n\n{parts[-1]}'
            continue
        off = {k.rstrip(':') for k,v in extract_directives(c).items() if v[:1]==['false']}
        c.source = re.sub(r'^ *#\|.*\n?', '', c.source, flags=re.M)
        if 'include' in off: continue
        if 'echo' not in off and c.source.strip(): parts.append(fenced(c.source, 'python'))
        alt = caption(said) or dict(getattr(nb, 'frontmatter_', {})).get('title', '')
        outs = [output_md(o, picture, alt) for o in c.get('outputs', [])] if 'output' not in off else []
        asis = c.source.startswith('show_doc')
        parts += [s if asis else f'::: cell-output\n{s}\n:::' for s in outs if s]
        if asis: parts += methods.pop(shown_name(c), [])
    parts += [o for several in methods.values() for o in several]
    md = '\n\n'.join(p.strip('\n') for p in parts)+'\n'
    md = md.replace('#LNone"', '"') # a line that nbdev does not know
    # nbdev links names inside signatures too, where a link is only noise
    linked = re.compile(r'\[(`[^`\n]+`)\]\([^)\s]+\)')
    return dict(getattr(nb, 'frontmatter_', {})), re.sub(r'^(`{3,})python\n.*?^\1$',
        lambda m: linked.sub(r'\1', m[0]), md, flags=re.M|re.S)

def outside_code(f, md):
    "Apply `f` to the parts of `md` that are not fenced code"
    parts = re.split(r'(^(`{3,}).*?^\2$)', md, flags=re.M|re.S) # text, code, its fence, text, ...
    return ''.join(f(o) if i%3==0 else o for i,o in enumerate(parts) if i%3!=2)

def local_links(md, name):
    "Links to the published site or to notebooks become links between pages; badges, which the web draws, go"
    md = re.sub(r'\[!\[[^]]*\]\(https?://[^)]*\)\]\([^)]*\)\s*', '', md)
    from nbdev.config import get_config
    cfg, here = get_config(), posixpath.dirname(name) or '.'
    site = re.compile(re.escape(cfg.doc_host+cfg.doc_baseurl)+r'/?([^\s)"#>]*)')
    md = site.sub(lambda m: posixpath.relpath(m[1] or 'index.html', here), md)
    return re.sub(r'(\]\(|href=")([^\s):"#]+\.ipynb)', lambda m: m[1]+page_name(m[2]), md)

def pages_listed():
    "The sidebar of _quarto.yml: section title and notebooks"
    import yaml
    quarto = yaml.safe_load((root/'_quarto.yml').read_text(encoding='utf-8'))
    return [(o['section'], o['contents']) for o in quarto['website']['sidebar']['contents']]

def sidebar(titles, name):
    "The sidebar as HTML, seen from the page of notebook `name`"
    here = posixpath.dirname(name) or '.'
    mark = lambda o: ' class="here"' if o==name else ''
    link = lambda o: (f'<li><a{mark(o)} href="{posixpath.relpath(page_name(o), here)}">'
                      f'{html.escape(titles[o])}</a></li>')
    return ''.join(f"<p>{section}</p><ul>{''.join(link(o) for o in contents if o in titles)}</ul>"
                   for section,contents in [*pages_listed(), ('Index', [API])] if set(contents)&set(titles))

def convert(name, out):
    "Notebook -> (front matter, Markdown); pictures go to `out`; an error comes back as text"
    stem, n = Path(page_name(name)).stem, iter(range(10**6))
    def picture(data, ext, alt):
        file = Path(page_name(name)).parent/f'{stem}_files'/f'{next(n)}.{ext}'
        (out/file).parent.mkdir(parents=True, exist_ok=True)
        (out/file).write_bytes(data.encode() if ext=='svg' else base64.b64decode(data))
        return f'![{alt}]({stem}_files/{file.name})'
    warnings.simplefilter('ignore') # tools/refresh.py has said so
    try: return notebook_md(name, picture)
    except Exception as e: return f'{e.__cause__ or type(e).__name__}: '+' / '.join(str(e).splitlines()[:4])

def page(name, fm, md, titles, out):
    "Write one HTML page"
    import pypandoc
    tpl = (out/page_name(name)).with_suffix('.template')
    promise = local_links(fm.get('description', ''), name)
    tpl.parent.mkdir(parents=True, exist_ok=True)
    plain = lambda s: html.escape(re.sub(r'[`*]|\]\([^)]*\)|\[', '', s))
    vals = dict(title=plain(titles[name]), summary=plain(promise), side=sidebar(titles, name),
                up='../'*name.count('/'), script=SIDE,
        description=re.sub('</?p>', '',
                           pypandoc.convert_text(promise, 'html', 'markdown',
                                                 extra_args=['--wrap=none'])).strip())
    tpl.write_text(TEMPLATE, encoding='utf-8')
    args = ['--standalone', '--toc', '--toc-depth=3', '--mathml', '--wrap=none', f'--template={tpl}']
    args += [f'--variable={k}:{v}' for k,v in vals.items()]
    body = pypandoc.convert_text(local_links(md, name), 'html5', 'markdown-implicit_figures', extra_args=args)
    boxed = re.sub(r'<math display="block".*?</math>', r'<span class="formula">\g<0></span>', body,
                   flags=re.S)
    (out/page_name(name)).write_text(boxed, encoding='utf-8')
    tpl.unlink()

class Sections(HTMLParser):
    "The text of a page by its headings: rows of anchor, heading, text; code is left out"
    def __init__(self, s):
        super().__init__()
        self.rows, self.inside, self.head, self.code = [], False, False, 0
        self.feed(s)
    def handle_starttag(self, tag, attrs):
        self.inside |= tag=='main'
        if self.inside and re.fullmatch('h[1-6]', tag):
            self.rows.append([dict(attrs).get('id', ''), '', ''])
            self.head = True
        self.code += tag in ('pre', 'math')
    def handle_endtag(self, tag):
        self.inside &= tag!='main'
        self.head &= not re.fullmatch('h[1-6]', tag)
        self.code -= tag in ('pre', 'math')
    def handle_data(self, data):
        if self.inside and self.rows and not self.code: self.rows[-1][1 if self.head else 2] += data

def search_script(pages, titles):
    "The search box's script, with the text of all sections; `pages` is notebook -> HTML"
    squeezed = lambda o: ' '.join(dict.fromkeys(o.lower().split()))
    rows = [[page_name(n), titles[n], [[i, ' '.join(h.split()), squeezed(t)] for i,h,t in Sections(o).rows]]
            for n,o in pages.items()]
    return f'const PAGES = {json.dumps(rows, ensure_ascii=False, separators=(",", ":"))}\n{SEARCH}'

def api_md():
    "Every public name with the page that explains it, by first letter"
    from nbdev.config import get_config
    from flowbook._modidx import d
    found = {}
    for module,names in d['syms'].items():
        for name,(page,file) in names.items():
            name = name.removeprefix(f'{module}.')
            public = re.search(r'^__all__ = \[(.*?)\]', (root/file).read_text(encoding='utf-8'), re.M|re.S)
            if public and f"'{name}'" in public[1]:
                place = page.removeprefix(get_config().doc_baseurl).lstrip('/')
                found.setdefault(name, f'[`{name}`]({place}) ({module})')
    rows, last = [], ''
    for name in sorted(found, key=str.lower):
        if name[0].upper()!=last: rows += ['', f'## {(last := name[0].upper())}', '']
        rows.append(f'- {found[name]}')
    return '\n'.join(rows)+'\n'

def llms_txt(done):
    "All pages by section, as llmstxt.org: title, address, promise; `done`: name -> (front matter, Markdown)"
    from nbdev.config import get_config
    cfg = get_config()
    plain = lambda s: re.sub(r'\[([^]]*)\]\([^)]*\)|`', lambda m: m[1] or '', s)
    line = lambda n: (f"- [{plain(done[n][0].get('title', n))}]"
                      f"({cfg.doc_host}{cfg.doc_baseurl}/{page_name(n)}): "
                      f"{plain(done[n][0].get('description', ''))}")
    parts = [(section, [o for o in contents if o in done]) for section,contents in pages_listed()]
    text = [f'## {section}\n\n'+'\n'.join(map(line, pages)) for section,pages in parts if pages]
    return f'# {cfg.lib_name}\n\n> {cfg.description}\n\n'+'\n\n'.join(text)+'\n'

def readme():
    "README.md's text from nbs/index.ipynb, links and pictures relative to the top folder"
    def picture(*args):
        raise ValueError('nbs/index.ipynb: found a picture output, expected a link to a file in nbs/images')
    fm, md = notebook_md('index.ipynb', picture)
    md = re.sub(r'^::: cell-output\n(.*?)\n:::$', r'\1', md, flags=re.M|re.S)
    link = re.compile(r'(\]\(|(?:src|href)=")(?!https?:|mailto:|#|/)([^\s)"]+)')
    md = outside_code(lambda s: link.sub(lambda m: m[1]+posixpath.normpath('nbs/'+m[2]), s), md)
    return f"# {fm['title']}\n\n> {fm['description']}\n\n{md}"

def without_heading(done):
    "Public methods without a heading: notebook and method; `done` is notebook -> (front matter, Markdown)"
    from flowbook._modidx import d
    made = {page_name(n): n for n in done}
    for module,names in public_methods().items():
        for name in names:
            page = d['syms'][module][f'{module}.{name}'][0]
            page = page.removeprefix(d['settings']['doc_baseurl']).lstrip('/')
            n = made.get(page.partition('#')[0])
            if n and not re.search(rf'^#+ {re.escape(name)}$', done[n][1], re.M): yield n, name

class Links(HTMLParser):
    "Collects the targets and the anchors of a page, and pictures without alt text"
    def __init__(self, s):
        super().__init__()
        self.targets, self.ids, self.silent = [], set(), []
        self.feed(s)
    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        self.ids.update(a[k] for k in ('id', 'name') if a.get(k) and (k=='id' or tag=='a'))
        self.targets += [a[k] for k in ('href', 'src') if a.get(k)]
        if tag=='img' and not a.get('alt'): self.silent.append(a.get('src'))

def broken_links(pages):
    "Links of `pages`, path -> `Links`, that lead nowhere"
    from nbdev.config import get_config
    source = get_config().git_url+'/blob/'+get_config().branch+'/'
    for p,links in pages.items():
        for t in links.targets:
            u = urlsplit(t)
            if t.startswith(source):
                if not (root/unquote(t[len(source):].split('#')[0])).exists(): yield p, t
            if u.scheme or u.netloc: continue # offline: the world outside is not asked
            target = (p.parent/unquote(u.path)).resolve() if u.path else p
            if not target.exists(): yield p, t
            elif u.fragment and target in pages and unquote(u.fragment) not in pages[target].ids: yield p, t

def workers():
    "Two processes, a fresh one for each notebook as in the tests; forked from one with the slow imports"
    ctx = get_context('forkserver')
    # `flowbook.all` alone imports nothing before it is asked
    ours = sorted('.'.join(p.relative_to(root).with_suffix('').parts)
                  for p in (root/'flowbook').glob('*/[!_]*.py'))
    ctx.set_forkserver_preload([*ours, 'nbdev.processors', 'nbdev.showdoc', 'execnb.shell', 'pypandoc',
                                'IPython'])
    return ctx.Pool(2, maxtasksperchild=1)

def build(out):
    "Render all notebooks into `out`; returns what is wrong"
    names, bad = files('.ipynb'), []
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    for f in files(): # pictures and whatever else pages refer to
        (out/f).parent.mkdir(parents=True, exist_ok=True)
        if not f.endswith(('.ipynb', '.yml')): shutil.copy(nbs/f, out/f)
    with workers() as pool:
        found = pool.map_async(partial(convert, out=out), names, chunksize=1).get(timeout=1800)
        res = dict(zip(names, found, strict=True))
    bad += [f'{n}: does not render: {r}' for n,r in res.items() if isinstance(r, str)]
    done = {n: r for n,r in res.items() if not isinstance(r, str)}
    bad += [f'{n}: no {k} in the first cell' for n,(fm,_) in done.items() for k in ('title', 'description')
            if not fm.get(k)]
    listed = [o for _,contents in pages_listed() for o in contents]
    bad += [f'{n}: not in the sidebar of _quarto.yml' for n in names if n not in listed]
    bad += [f'{n}: in the sidebar of _quarto.yml, but there is no such notebook' for n in listed
            if n not in names]
    about = dict(title='Every name',
                 description='All public functions and classes, and the chapter that explains each')
    done[API] = about, api_md()
    titles = {n: fm.get('title', n) for n,(fm,_) in done.items()}
    (out/'llms.txt').write_text(llms_txt(done), encoding='utf-8')
    bad += [f'{n}: no heading for {name}' for n,name in without_heading(done)]
    with workers() as pool:
        pool.starmap(page, [(n, fm, md, titles, out) for n,(fm,md) in done.items()], chunksize=1)
    written = {n: (out/page_name(n)).read_text(encoding='utf-8') for n in done}
    (out/'search.js').write_text(search_script(written, titles), encoding='utf-8')
    pages = {out/page_name(n): Links(o) for n,o in written.items()}
    bad += [f'{p.relative_to(out)}: {src} has no alt text' for p,o in pages.items() for src in o.silent]
    return bad+[f'{p.relative_to(out)}: {t} leads nowhere' for p,t in broken_links(pages)]

def check_readme():
    "What is wrong with README.md and nbs/nbdev.yml"
    import pypandoc
    from nbdev.quarto import refresh_quarto_yml
    want, have = readme(), (root/'README.md').read_bytes().decode()
    yml = (nbs/'nbdev.yml').read_text(encoding='utf-8')
    if want!=have: yield 'README.md: differs from nbs/index.ipynb, run tools/docs.py --readme'
    if os.name!='nt' and not (root/'nbs/_quarto.yml').is_symlink():
        yield 'nbs/_quarto.yml: a copy, expected a link to ../_quarto.yml'
    page = Links(pypandoc.convert_text(want, 'html', 'gfm-tex_math_dollars'))
    yield from (f'README.md: {t} leads nowhere' for _,t in broken_links({root/'README.md': page}))
    refresh_quarto_yml() # from settings.ini
    if (nbs/'nbdev.yml').read_text(encoding='utf-8')!=yml:
        yield 'nbs/nbdev.yml: differed from settings.ini, rewritten'

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--readme', action='store_true', help='write README.md')
    ap.add_argument('--check', action='store_true', help='only say what is wrong')
    args = ap.parse_args()
    os.chdir(root) # where nbdev finds settings.ini
    if args.readme: (root/'README.md').write_bytes(readme().encode())
    if args.readme and not args.check: return
    with tempfile.TemporaryDirectory() as tmp:
        bad = build(Path(tmp).resolve()) + list(check_readme() if args.check else ())
        if not args.check:
            shutil.rmtree(root/'_docs', ignore_errors=True)
            shutil.copytree(tmp, root/'_docs')
    print(*bad, f"docs: {len(files('.ipynb'))} pages, {len(bad)} problems", sep='\n')
    sys.exit(bool(bad))

if __name__=='__main__': main()
