"The offline docs: links and anchors lead somewhere, pictures have words, methods have headings, search finds them"
import json, re, sys
from pathlib import Path
import pytest

root = Path(__file__).resolve().parent.parent
pytest.importorskip('nbdev')
sys.path.insert(0, str(root/'tools'))
import docs # noqa: E402

def test_links_and_anchors(tmp_path, monkeypatch):
    monkeypatch.chdir(root)
    (tmp_path/'b.html').write_text('<main><h2 id="here">b</h2></main>')
    (tmp_path/'a.html').write_text('<a href="b.html#here">1</a><a href="b.html#gone">2</a><a href="c.html">3</a>'
        '<a href="#up">4</a><h2 id="up">a</h2><img src="x.png" alt="a"><img src="b.html"><a href="https://example.org/x">5</a>')
    pages = {p: docs.Links(p.read_text()) for p in tmp_path.iterdir()}
    assert sorted(t for _,t in docs.broken_links(pages))==['b.html#gone', 'c.html', 'x.png']
    assert pages[tmp_path/'a.html'].silent==['b.html']

def test_what_a_picture_shows():
    md = '# Title\n\nText.\n\n## The `wheel`\nOne sentence. Hue is the [direction](x.ipynb), *and* so on:\n\n| a | b |\n|---|---|\n'
    assert docs.caption(md)=='The wheel: Hue is the direction, and so on'
    assert docs.caption('No heading. Here is $u$.')=='Here is u.' and docs.caption('')==''
    out = dict(data={'image/jpeg': 'abc'})
    assert docs.output_md(out, lambda data, ext, alt: (data, ext, alt), 'said')==('abc', 'jpg', 'said')

def test_sections_and_search():
    page = ('<nav>Contents</nav><main><h1>RAFT</h1><p>Compare <b>all</b> pairs</p><pre>hidden</pre>'
            '<h3 id="raft.forward">RAFT.forward</h3><p>Flow flow of a pair</p></main><nav>after</nav>')
    assert docs.Sections(page).rows==[['', 'RAFT', 'Compare all pairs'], ['raft.forward', 'RAFT.forward', 'Flow flow of a pair']]
    script = docs.search_script({'models/20_raft.ipynb': page}, {'models/20_raft.ipynb': 'RAFT'})
    rows = json.loads(re.match(r'const PAGES = (.*)\n', script)[1])
    assert rows==[['models/raft.html', 'RAFT', [['', 'RAFT', 'compare all pairs'], ['raft.forward', 'RAFT.forward', 'flow of a pair']]]]

def test_public_methods():
    found = docs.public_methods()
    assert {'FlowDataset.find_pairs', 'FlowDataset.hold_out'} <= set(found['flowbook.data.base'])
    assert not [o for several in found.values() for o in several if '._' in o]
    assert sum(map(len, found.values())) > 400

def test_methods_have_headings():
    name = 'data/10_base.ipynb'
    shown = {'FlowDataset.hold_out'}
    md = docs.undocumented('flowbook.data.base', shown)
    made = '\n'.join(o for several in md.values() for o in several)
    assert '#### FlowDataset.find_pairs\n' in made and 'hold_out' not in re.findall('^#+ .*$', made, re.M) and 'Call self' not in made
    done = {name: ({}, made)}
    assert ('data/10_base.ipynb', 'FlowDataset.hold_out') in [*docs.without_heading(done)]
    done[name] = {}, made+'\n### FlowDataset.hold_out\n'
    assert not [*docs.without_heading(done)]

def test_order_of_names():
    from types import SimpleNamespace as NS
    cell = lambda s: NS(cell_type='code', source=s)
    code = '@patch\ndef z(self:A): pass\nclass A: pass\ndef b(): pass'
    cells = [cell(f'show_doc({o})') for o in ('b', 'A', 'A.z')]+[NS(cell_type='markdown', source='x')]
    assert [c.source for c in docs.in_order(cells, code)]==['show_doc(A.z)', 'show_doc(A)', 'show_doc(b)', 'x']
