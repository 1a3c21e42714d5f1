"JupyterLab in a real browser: the tutorial runs, the widgets render, the mouse and the sliders move the pictures"
import base64, io, json, os, re, shutil, socket, subprocess, sys, time, urllib.request
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
import cv2, numpy as np, pytest
import flowbook
from flowbook.io.video import VideoWriter

root = Path(__file__).resolve().parent.parent
browser = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome', 'chrome'))),
               None)
driver = shutil.which('chromedriver')
missing = [n for n in ('selenium', 'jupyterlab', 'anywidget')
           if not find_spec(n)] + ['chromium']*(not browser) + ['chromedriver']*(not driver)
pytestmark = pytest.mark.skipif(bool(missing), reason=f"browser tests need {' '.join(missing)}")
FLAGS = ('--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking '
         '--disable-component-update --disable-sync --window-size=1200,1700').split()
VIEWER = '''from flowbook.apps.widgets import FlowViewer
FlowViewer([pair, FlowSample(pair.img2, pair.img1)], models=['dis', 'flowbook_small'])'''
EXPLORER = '''from flowbook.apps.explorer import AugmentExplorer
AugmentExplorer(pair)'''

SEEN = '''window.seen = ''
const look = () => { const o = document.querySelector('.working span'); if (o) window.seen = o.textContent }
const whole = {childList: true, subtree: true, characterData: true}
new MutationObserver(look).observe(document.getElementById('result'), whole)'''

def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

def wait_for(what, check, seconds=120, log=None):
    "Whatever true thing `check` gives in time; errors of a page in motion count as not yet"
    end,last = time.time() + seconds,None
    while time.time() < end:
        try:
            if value := check(): return value
        except Exception as e: last = e
        time.sleep(.3)
    pytest.fail(f"{what}: not within {seconds} s{f' ({last!r})' if last else ''}{log() if log else ''}")

def notebook(path):
    "The first tutorial with both widgets after its last cell"
    nb = json.loads((root/'nbs/tutorials/first_flow.ipynb').read_text())
    cell = lambda i,source: dict(cell_type='code', id=f'widget{i}', execution_count=None, metadata={},
                                 outputs=[], source=source)
    for c in nb['cells']:
        if c['cell_type']=='code': c['outputs'],c['execution_count'] = [],None
    nb['cells'] += [cell(0, 'from flowbook.core.types import FlowSample'), cell(1, VIEWER), cell(2, EXPLORER)]
    path.write_text(json.dumps(nb))

@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    "Address of a JupyterLab with a home of its own, where the tutorial lies"
    home,port = tmp_path_factory.mktemp('lab'),free_port()
    (home/'work').mkdir()
    notebook(home/'work/tutorial.ipynb')
    env = {**os.environ, 'HOME': str(home), 'OMP_NUM_THREADS': '1',
           **{f'JUPYTER_{n}': str(home/n.lower()) for n in ('CONFIG_DIR', 'DATA_DIR', 'RUNTIME_DIR')},
           'IPYTHONDIR': str(home/'ipython'), 'MPLCONFIGDIR': str(home/'mpl'), 'PYTHONPATH': str(root)}
    options = [f'--ServerApp.port={port}', '--ServerApp.port_retries=0', '--IdentityProvider.token=',
               '--no-browser', '--allow-root',
               '--expose-app-in-browser', f'--ServerApp.root_dir={home/"work"}',
               '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate']
    with open(home/'log', 'w') as log:
        p = subprocess.Popen([sys.executable, '-m', 'jupyterlab', *options], env=env, cwd=home/'work',
                             stdout=log, stderr=log, start_new_session=True)
    try:
        address = f'http://127.0.0.1:{port}'
        def up():
            if p.poll() is not None: pytest.fail(f'JupyterLab ended: {(home/"log").read_text()[-2000:]}')
            return urllib.request.urlopen(f'{address}/api/status', timeout=5).status==200
        wait_for('JupyterLab', up, log=lambda: (home/'log').read_text()[-2000:])
        yield address
    finally:
        p.terminate()   # the server ends its kernels
        try: p.wait(20)
        except subprocess.TimeoutExpired: p.kill()

@pytest.fixture(scope='module')
def page(tmp_path_factory):
    "A browser with a profile of its own"
    from selenium import webdriver
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for o in FLAGS + [f'--user-data-dir={tmp_path_factory.mktemp("profile")}']: options.add_argument(o)
    page = webdriver.Chrome(options, webdriver.ChromeService(driver))
    page.set_page_load_timeout(90)
    yield page
    page.quit()

def find(page, css): return page.find_elements('css selector', css)

def pixels(element):
    from PIL import Image
    return np.array(Image.open(io.BytesIO(element.screenshot_as_png)).convert('RGB')).astype(int)

def keep(page, name):
    "Leave a screenshot where somebody asked for them"
    if folder := os.environ.get('FLOWBOOK_SCREENSHOTS'): page.save_screenshot(str(Path(folder)/f'{name}.png'))

def loaded(page, canvas, side='left'):
    "The picture of one side, once it is there"
    img = canvas.find_element('css selector', f'.fb-{side} img.fb-picture')
    return page.execute_script('return arguments[0].complete && arguments[0].naturalWidth', img) and img

def changes(page, element, before, what):
    "Wait until the pixels of `element` are others than `before`"
    def other():
        now = pixels(element)
        return now.shape!=before.shape or (np.abs(now-before) > 8).mean() > .01
    return wait_for(what, other, 60)

@pytest.fixture(scope='module')
def canvases(lab, page):
    "The two widgets, after the whole tutorial has run"
    page.get(f'{lab}/lab/tree/tutorial.ipynb')
    wait_for('the notebook', lambda: find(page, '.jp-Notebook .jp-Cell'))
    # without a screen nothing has the focus, and the newest JupyterLab then has no current widget
    js = '''const it = [...jupyterapp.shell.widgets('main')][0]
    if (it) jupyterapp.shell.activateById(it.id)
    return !!jupyterapp.shell.currentWidget'''
    def front():
        find(page, '.jp-Notebook .jp-Cell')[0].click()
        return page.execute_script(js)
    wait_for('the notebook in front', front)
    idle = "const s = jupyterapp.shell.currentWidget?.sessionContext?.session; return s?.kernel?.status"
    wait_for('the kernel', lambda: page.execute_script(idle)=='idle')
    page.execute_script("jupyterapp.commands.execute('notebook:run-all-cells')")
    def both():
        errors = page.execute_script("return [...jupyterapp.shell.currentWidget.content.widgets].flatMap(c => c.model.sharedModel.outputs || [])"
                                     ".filter(o => o.output_type=='error').map(o => o.ename + ': ' + o.evalue)")
        if errors: pytest.fail(f'the notebook: {errors}')
        page.execute_script("jupyterapp.shell.currentWidget.content.activeCellIndex = 1e6; jupyterapp.commands.execute('notebook:move-cursor-down')")
        found = find(page, '.fb-canvas')
        return found if len(found)==2 and all(loaded(page, c) for c in found) else None
    found = wait_for('two widgets', both, 240)
    keep(page, 'lab')
    return found

def control(page, canvas, description):
    "The slider or drop-down called `description` above a canvas"
    js = '''const box = arguments[0].closest('.widget-vbox, .jupyter-widgets.widget-box')
            return [...box.querySelectorAll('.widget-inline-hbox')].find(o => o.querySelector('.widget-label')?.textContent==arguments[1])'''
    return wait_for(description, lambda: page.execute_script(js, canvas, description), 20)

def choose(page, canvas, description, text):
    from selenium.webdriver.support.ui import Select
    Select(control(page, canvas, description).find_element('css selector', 'select')).select_by_visible_text(text)

def step(page, canvas, description, key='ARROW_RIGHT'):
    from selenium.webdriver.common.keys import Keys
    handle = control(page, canvas, description).find_element('css selector', '.noUi-handle')
    page.execute_script("arguments[0].scrollIntoView({block: 'center'}); arguments[0].focus()", handle)
    handle.send_keys(getattr(Keys, key))

def text_of(canvas): return canvas.find_element('css selector', '.fb-text').text

def test_slider_moves_the_picture(page, canvases):
    viewer = canvases[0]
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", viewer)
    right = viewer.find_element('css selector', '.fb-right .fb-box')
    before = pixels(right)
    assert len(np.unique(before.reshape(-1, 3), axis=0)) > 500, 'frame 2 is not a picture'
    step(page, viewer, 'pair')
    changes(page, right, before, 'another frame 2')
    step(page, viewer, 'pair', 'ARROW_LEFT')
    wait_for('the first pair again', lambda: np.abs(pixels(right)-before).mean() < 1, 60)

def test_mouse_reads_and_follows(page, canvases):
    from selenium.webdriver import ActionChains
    viewer = canvases[0]
    sheet = viewer.find_element('css selector', '.fb-left svg')
    marks = lambda side: viewer.find_elements('css selector', f'.fb-{side} svg path')
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", viewer)
    ActionChains(page).move_to_element(sheet).perform()
    wait_for('the numbers under the pointer', lambda: re.search(r'x 17[4-8], y 12[6-9]: u', text_of(viewer)),
             20, lambda: text_of(viewer))   # the middle of 352x256
    assert not marks('left')
    ActionChains(page).click_and_hold().move_by_offset(20, 10).release().perform()
    wait_for('a point, and where it lands', lambda: len(marks('left'))==2 and len(marks('right'))==4,
             20)   # model and truth, each with an edge
    wait_for('the numbers of the point', lambda: re.match(r'x (19|20)\d, y 1[34]\d: .*EPE', text_of(viewer)),
             20, lambda: text_of(viewer))
    keep(page, 'viewer')

def test_models_and_views(page, canvases):
    viewer = canvases[0]
    left = viewer.find_element('css selector', '.fb-left img.fb-picture')
    for what,value in ('model', 'flowbook_small'), ('view', 'error'), ('view', 'occlusion'), ('view', 'overlay'):
        source = left.get_attribute('src')
        choose(page, viewer, what, value)
        wait_for(f'{what} {value}', lambda: left.get_attribute('src')!=source, 60)
    choose(page, viewer, 'view', 'blink')
    other = viewer.find_element('css selector', '.fb-left img.fb-other')
    seen = set()
    def both():
        seen.add(page.execute_script("return getComputedStyle(arguments[0]).visibility", other))
        return other.get_attribute('src') and len(seen)==2
    wait_for('two pictures in turn', both, 60)
    keep(page, 'blink')

def test_augmentation_explorer(page, canvases):
    explorer = canvases[1]
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", explorer)
    after = explorer.find_element('css selector', '.fb-right .fb-box')
    before = pixels(after)
    step(page, explorer, 'seed')
    changes(page, after, before, 'another draw')
    keep(page, 'explorer')

CANVAS = '''<style>{css}</style><div id=here></div><script type=module>
{js}
const bytes = o => Uint8Array.from(atob(o), c => c.charCodeAt(0)), png = bytes('{png}')
const state = {{left: png, right: png, key: png, blink: null, marks: [[], []], size: [64, 96],
              text: '', pointer: true,
               captions: ['flow of a', 'frame 2'], hover: [], point: []}}
window.state = state
const model = {{get: k => state[k], set: (k, v) => {{ state[k] = v }}, on: () => 0, save_changes: () => 0}}
render({{model, el: document.getElementById('here')}})
window.ready = true</script>'''

def test_canvas_has_words_and_keys(page, tmp_path):
    "The canvas of the widgets by itself: alternative texts, the key, arrow keys that move the point"
    from selenium.webdriver.common.keys import Keys
    from flowbook.apps import widgets as w
    js = (w._panel_js + w._mark_js + w._render_js).replace('export default {render}', '')
    png = base64.b64encode(w.Still().png(np.full((64,96,3), 120, np.uint8))).decode()
    (tmp_path/'canvas.html').write_text(CANVAS.format(css=w._style, js=js, png=png))
    page.get((tmp_path/'canvas.html').as_uri())
    wait_for('the canvas', lambda: page.execute_script('return window.ready'), 30)
    shown = [o for o in find(page, 'img') if o.is_displayed()]
    assert [o.get_attribute('alt') for o in shown]==['flow of a', 'key to the colours', 'frame 2']
    sheet = find(page, '.fb-left svg')[0]
    assert sheet.get_attribute('aria-label')=='flow of a' and sheet.get_attribute('tabindex')=='0'
    page.execute_script('arguments[0].focus()', sheet)
    at = lambda: page.execute_script('return window.state.point')
    steps = {Keys.ARROW_RIGHT: [49,32], Keys.ARROW_DOWN: [49,33], Keys.SHIFT + Keys.ARROW_LEFT: [39,33]}
    for key,point in steps.items():
        sheet.send_keys(key)
        assert at()==point

def test_still_shows_where_the_widget_does_not(page, tmp_path):
    "The outputs of a saved notebook: the picture until a widget is there, and never both"
    from flowbook.apps.widgets import _still
    still = _still.format(id='fb-1', alt='a pair', data=base64.b64encode(picture_bytes()).decode())
    area = '<div class=jp-OutputArea-child>{}</div>'
    (tmp_path/'saved.html').write_text(area.format(still) + area.format('<p id=widget>Loading widget...</p>'))
    page.get((tmp_path/'saved.html').as_uri())
    shown = lambda: (find(page, 'img.fb-still')[0].is_displayed(), find(page, '#widget')[0].is_displayed())
    wait_for('the picture', lambda: shown()==(True, False), 20)
    page.execute_script('document.getElementById("widget").className = "widget-box"')
    wait_for('the widget', lambda: shown()==(False, True), 20)

def picture_bytes(): return cv2.imencode('.png', np.full((64,96,3), 120, np.uint8))[1].tobytes()

RENDER = '''
import shutil, sys
sys.path.insert(0, 'tools')
import docs
from pathlib import Path
out,names = Path(sys.argv[1]),sys.argv[2:]
shutil.copytree(docs.nbs/'images', out/'images')
shutil.copy(docs.nbs/'styles.css', out)
done = {n: docs.convert(n, out) for n in names}
assert not [o for o in done.values() if isinstance(o, str)], done
titles = {n: fm['title'] for n,(fm,_) in done.items()}
for n,(fm,md) in done.items(): docs.page(n, fm, md, titles, out)
pages = {n: (out/docs.page_name(n)).read_text() for n in done}
(out/'search.js').write_text(docs.search_script(pages, titles))'''

@pytest.fixture(scope='module')
def docs(tmp_path_factory):
    "The front page, a chapter and a tutorial, rendered as the offline docs are"
    if not find_spec('pypandoc') or not find_spec('nbdev'): pytest.skip('the docs need nbdev and pypandoc')
    out = tmp_path_factory.mktemp('docs')
    names = ['index.ipynb', 'viz/10_color.ipynb', 'tutorials/first_flow.ipynb']
    p = subprocess.run([sys.executable, '-c', RENDER, out, *names], cwd=root, capture_output=True, text=True,
                       timeout=300)
    assert p.returncode==0, p.stderr[-2000:]
    return out

@pytest.mark.parametrize('name,pictures,maths',
                         [('index.html', 1, 0), ('viz/color.html', 4, 2),
                          ('tutorials/first_flow.html', 3, 0)])
def test_docs_page(docs, page, name, pictures, maths):
    page.get((docs/name).as_uri())
    wait_for('the page', lambda: page.execute_script('return document.readyState')=='complete', 30)
    sizes = page.execute_script("return [...document.querySelectorAll('main img')].map(o => o.naturalWidth)")
    assert len(sizes) >= pictures and all(sizes), sizes                                # every picture is there
    heights = page.execute_script("return [...document.querySelectorAll('main math')].map(o => o.getBoundingClientRect().height)")
    assert len(heights) >= maths and all(h > 5 for h in heights), heights              # formulas are drawn, not source
    assert page.execute_script("return document.documentElement.scrollWidth <= innerWidth + 1"), 'wider than the window'
    assert len(find(page, 'nav.side a'))==3 and len(find(page, 'nav.side a.here'))==1
    keep(page, 'docs-' + Path(name).stem)

def search(page, words):
    "Type into the search box; what it offers, or says"
    box = page.find_element('id', 'find')
    box.clear()
    box.send_keys(words)
    return box,wait_for('an answer', lambda: page.find_element('id', 'found').text, 20)

def test_docs_search(docs, page):
    from selenium.webdriver.common.keys import Keys
    page.get((docs/'index.html').as_uri())
    assert search(page, 'zyxwv')[1]=='nothing found'
    assert 'wheel' in search(page, 'wheel')[1].lower()
    box,said = search(page, 'flow_to_color')
    assert said.splitlines()[0].startswith('flow_to_color')
    box.send_keys(Keys.ENTER)
    wait_for('the place', lambda: page.current_url.endswith('viz/color.html#flow_to_color'), 20)
    assert page.execute_script('return scrollY') > 100

@pytest.mark.parametrize('width', [390, 1400])
def test_docs_fit(docs, page, width):
    page.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', dict(width=width, height=900, deviceScaleFactor=1, mobile=False))
    try:
        for name in 'index.html', 'viz/color.html', 'tutorials/first_flow.html':
            page.get((docs/name).as_uri())
            wide,opened,top,cut = page.execute_script("""return [document.documentElement.scrollWidth, document.querySelector('nav.side details').open,
                document.querySelector('main').getBoundingClientRect().top,
                [...document.querySelectorAll('main pre.sourceCode')].filter(o => o.scrollWidth > o.clientWidth + 1).length]""")
            assert width-20 <= wide <= width and opened==(width > 640) and top < 150 and (width==390 or cut==0), (name, wide, opened, top, cut)
            box = page.execute_script("""const a = document.querySelector('nav.side a.here').getBoundingClientRect(); return [a.top, a.bottom, innerHeight]""")
            assert width==390 or 0 <= box[0] and box[1] <= box[2], box   # the reader's place is in view
    finally: page.execute_cdp_cmd('Emulation.clearDeviceMetricsOverride', {})

@pytest.mark.skipif(not all(map(find_spec, ('fastapi', 'uvicorn', 'python_multipart'))),
                    reason='serving needs fastapi, uvicorn and python-multipart')
def test_page_of_flowbook_serve(page, tmp_path):
    "The form of `flowbook serve`: errors in words, progress, the flow with its key, files to save"
    from test_serve import picture, start, stop
    for name,shift in ('a',0),('b',4): (tmp_path/f'{name}.png').write_bytes(picture(shift=shift))
    (tmp_path/'c.png').write_bytes(picture(h=80))
    with VideoWriter(tmp_path/'film.mp4', 5) as w:
        frames = [cv2.imdecode(np.frombuffer(picture(shift=4*i), np.uint8), 1) for i in range(4)]
        for o in frames: w.write(np.ascontiguousarray(o[...,::-1]))
    p,port = start('--model', 'dis')
    result = lambda css: find(page, f'#result {css}')
    try:
        page.get(f'http://127.0.0.1:{port}/')
        keep(page, 'serve-before')
        pair,film = find(page, 'form')
        def send(form, **files):
            for name,file in files.items(): form.find_element('name', name).send_keys(str(tmp_path/file))
            form.find_element('css selector', 'button').click()
        send(pair, img1='a.png', img2='c.png')
        said = wait_for('an error in words', lambda: result('[role=alert]'), 60)[0]
        assert 'The server cannot use this' in said.text and '{' not in said.text, said.text
        keep(page, 'serve-error')
        page.execute_script(SEEN)
        send(pair, img2='b.png')
        img = wait_for('the flow', lambda: result('img.flow'), 60)[0]
        assert page.execute_script('return window.seen').startswith('Computing')
        size = 'return [arguments[0].naturalWidth, arguments[0].naturalHeight]'
        wait_for('its pixels', lambda: page.execute_script(size, img)==[128,96], 20)
        keep(page, 'serve-after')
        red,green,blue = np.median(pixels(img).reshape(-1, 3), 0)
        assert blue > 200 and red < 160, (red, green, blue)   # to the left: light blue
        assert len(find(page, 'form'))==2 and 'The rim is' in result('.key')[0].text
        assert f'dis, flowbook {flowbook.__version__}, ' in find(page, '#result')[0].text
        assert [o.get_attribute('download') for o in result('#save a')]==['flow.flo', 'flow.png']
        send(film, video='film.mp4')
        video = wait_for('the video', lambda: result('video'), 60)[0]
        playing = 'return arguments[0].currentTime > .1 && arguments[0].videoWidth==128'
        wait_for('a playing video', lambda: page.execute_script(playing, video), 30)
        with narrow(page, 390):
            assert page.execute_script('return document.documentElement.scrollWidth') <= 390
            keep(page, 'serve-390')
    finally: stop(p)

def test_mp4_plays(page, tmp_path):
    "What `flowbook video` writes plays in a browser"
    with VideoWriter(tmp_path/'film.mp4', 10) as w:
        for i in range(12): w.write(np.full((64,96,3), 20*i, np.uint8))
    (tmp_path/'page.html').write_text('<video src=film.mp4 autoplay muted loop></video>')
    page.get((tmp_path/'page.html').as_uri())
    state = '''const v = document.querySelector("video")
               return [v.videoWidth, v.currentTime > .2, v.error && v.error.message]'''
    found = lambda: page.execute_script(state)
    wait_for('a playing video', lambda: found()==[96,True,None], 30, lambda: str(found()))

@contextmanager
def narrow(page, width):
    "A window of `width` pixels"
    how = dict(width=width, height=1300, deviceScaleFactor=1, mobile=False)
    page.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', how)
    try: yield
    finally: page.execute_cdp_cmd('Emulation.clearDeviceMetricsOverride', {})

@pytest.mark.parametrize('width', [1200, 390])
def test_report_fits(page, tmp_path, width):
    "A report of two methods: no sideways scrolling, pictures and key in sight, sorted by the selector"
    import torch
    from types import SimpleNamespace
    from flowbook.apps.report import Report, write_report
    report = Report(most=3, every=True)
    for i,e in enumerate((2., 10., 9.)):
        img,flow = torch.rand(1, 3, 96, 128), torch.ones(1, 2, 96, 128)
        pair = SimpleNamespace(img1=img, img2=img, flow=flow, valid=flow[:,:1]==1,
                               name=f'scene_with_a_long_name/frame_{i:04d}')
        flows = {m: np.full((96,128,2), 1 + k*e, np.float32) for k,m in ((1,'dis'), (2,'flowbook_small'))}
        report(i, pair, flows)
    scores = dict(epe=1.2, epe_s10_40=3., fl_all=4., parameters=950000, licence='MIT')
    write_report(tmp_path/'r.html', 'dis, flowbook_small on scenes',
                 {'scenes': dict(dis=scores, flowbook_small=scores)}, report)
    page.get((tmp_path/'r.html').as_uri())
    tops = '''return [...document.querySelectorAll("article:first-child figure")]
              .map(o => o.getBoundingClientRect().top)'''
    first = lambda: find(page, 'article h3')[0].text[-10:]
    with narrow(page, width):
        keep(page, f'report-{width}')
        assert page.execute_script('return document.documentElement.scrollWidth') <= width
        places = page.execute_script(tops)
        assert len(places)==6 and max(places) < 1300, places
        assert len(find(page, '.key img'))==1 and first()=='frame_0001'
        page.execute_script('const s = document.getElementById("order"); s.value = "best"; s.onchange()')
        assert first()=='frame_0000'
