"The gate's step `words` finds the words that the glossary replaces, and leaves code, quotations and other meanings alone"
import json, sys
from pathlib import Path
import pytest

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root/'tools'))
import check # noqa: E402

@pytest.mark.parametrize('text,word,better', [
    ('A film of eight frames.', 'film', 'video'), ('Every data set has one.', 'data set', 'dataset'), ('Runs on the processor.', 'processor', 'CPU'),
    ('It was learnt.', 'learnt', 'learned'), ('GMA beside RAFT.', 'beside', 'next to, compared with'), ('9.4 M weights', '9.4 M weights', 'parameters'),
    ('The present flow.', 'present', 'current'), ('the norm behind the convolution', 'behind', 'after'), ('The first picture is larger.', 'first picture', 'image'),
    ('This is no error.', 'is no', 'is not a, are not'), ('a model of yours', 'of yours', 'your, our, their')])
def test_found(text, word, better): assert [(w, b) for w,b,_ in check.wording(text)]==[(word, better)]

@pytest.mark.parametrize('text', [
    'Call `make_film` or `film`.', 'He said "the film".', 'They call it \u201ca data set\u201d.', '```\nfilm = 1\n```\n', 'Besides, a preprocessor.', '[a video](film.ipynb)',
    'There is no error.', 'What is behind an object is hidden.', 'Present it.', 'The picture shows the flow.', 'It is no longer slow.', 'things-film'])
def test_left_alone(text): assert [*check.wording(text)]==[]

def test_sentences():
    text = '## Of films\nOne is long. A film\nis short:\n- no film'
    assert [s for _,_,s in check.wording(text)]==['## Of films', 'A film is short:', '- no film']

def test_where(tmp_path):
    cells = [dict(cell_type='markdown', source=['A film.']),
             dict(cell_type='code', source=['#| export\n', 'def f(\n', '    a, # A film, or none\n', "    b='# no'\n", '):\n', '    "Read a film"\n', '    raise E("found no film here")\n', '    x = "film"\n']),
             dict(cell_type='code', source=['film = 1 # the film\n'])]
    path = tmp_path/'a.ipynb'
    path.write_text(json.dumps(dict(cells=cells)))
    found = [(at, sentence) for at,text in check.prose(path) for _,_,sentence in check.wording(text)]
    assert found==[('cell 0', 'A film.'), ('cell 1', 'A film, or none'), ('cell 1', 'Read a film'), ('cell 1', 'found no film here')]

def test_the_budget_falls(monkeypatch, capsys):
    monkeypatch.setattr(check, 'notebooks', lambda: [])
    monkeypatch.setattr(check, 'prose', lambda path: [('text', 'A film.')])
    monkeypatch.setitem(check.LEFT, 'words', 0)
    with pytest.raises(check.Failed, match='1 words, at most 0'): check.check_words()
    assert "README.md text: 'film', better 'video': A film." in capsys.readouterr().out
