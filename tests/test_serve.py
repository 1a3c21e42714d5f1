"`flowbook serve` in a process of its own: real sockets, hostile uploads, many callers at once; the server lives on"
import http.client, json, os, re, signal, socket, struct, subprocess, sys, time, zlib
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
import cv2, numpy as np, pytest

missing = [n for n in ('fastapi', 'uvicorn', 'python_multipart') if not find_spec(n)]
pytestmark = pytest.mark.skipif(bool(missing), reason=f"serving needs {' '.join(missing)}")
START = "import typer; from flowbook.cli.inference import serve; app = typer.Typer(); app.command()(serve); app()"

def start(*args):
    "A server on a free port, and its port"
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONUNBUFFERED': '1'}
    p = subprocess.Popen([sys.executable, '-c', START, '--port', '0', '--device', 'cpu', *args], env=env,
                         text=True, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE)
    line = p.stdout.readline()
    found = re.search(r'http://127\.0\.0\.1:(\d+)/', line)
    if not found: pytest.fail(f'{line}{p.communicate(timeout=20)}')
    return p,int(found[1])

def stop(p):
    "Ctrl-C; the exit code, and what was said on stderr"
    p.send_signal(signal.SIGINT)
    try: _,err = p.communicate(timeout=30)
    except subprocess.TimeoutExpired: p.kill(); raise
    return p.returncode,err

@pytest.fixture(scope='module')
def port():
    p,port = start('--max-mb', '2', '--max-pixels', '100000', '--rate', '0', '--queue', '3', '--timeout', '4')
    yield port
    code,err = stop(p)
    assert code==0 and 'Traceback' not in err, err   # after all that, it was still there and had nothing to complain about

def picture(h=96, w=128, shift=0):
    img = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (160,200,3)).astype(np.uint8), (0,0), 3)
    return cv2.imencode('.png', img[20:20+h,20+shift:20+shift+w])[1].tobytes()

def form(**parts):
    "A multipart body, and its type"
    sep,out = 'flowbook-test-boundary',b''
    for k,v in parts.items():
        name = f'; filename="{k}.png"' if isinstance(v, bytes) else ''
        out += f'--{sep}\r\nContent-Disposition: form-data; name="{k}"{name}\r\n\r\n'.encode() + (v
            if isinstance(v, bytes) else v.encode()) + b'\r\n'
    return out + f'--{sep}--\r\n'.encode(), f'multipart/form-data; boundary={sep}'

def ask(port, method='POST', path='/flow', body=None, headers=None, **parts):
    "Status and body of the answer"
    c = http.client.HTTPConnection('127.0.0.1', port, timeout=60)
    try:
        if parts: body,kind = form(**parts); headers = {'Content-Type': kind, **(headers or {})}
        c.request(method, path, body, headers or {})
        r = c.getresponse()
        return r.status,r.read()
    finally: c.close()

def healthy(port):
    status,body = ask(port, 'GET', '/health')
    return status==200 and json.loads(body)['status']=='ok'

def bomb(w, h):
    block = lambda kind, body: struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))
    return b'\x89PNG\r\n\x1a\n' + block(b'IHDR',
                                        struct.pack('>IIBBBBB', w, h, 8, 2, 0, 0, 0)) + block(b'IDAT', zlib.compress(bytes(10**6))) + block(b'IEND', b'')

def test_flow_comes_back(port):
    from flowbook.io.flowfiles import flow_from_bytes
    status,body = ask(port, img1=picture(), img2=picture(shift=4))
    assert status==200
    flow = flow_from_bytes(body)
    assert flow.shape==(96,128,2) and np.abs(np.median(flow, (0,1)) - (-4,0)).max() < .3   # the picture moved 4 px to the left
    status,body = ask(port, img1=picture(), img2=picture(shift=4), format='png')
    assert status==200 and cv2.imdecode(np.frombuffer(body, np.uint8), 1).shape==(96,128,3)
    status,body = ask(port, 'GET', '/')
    assert status==200 and b'<form' in body

HOSTILE = dict(
    no_image=(415, dict(img1=b'hello', img2=b'world'), 'img1: found 5 bytes that are not an image'),
    empty=(415, dict(img1=b'', img2=b''), 'img1: found 0 bytes'),
    truncated=(422, dict(img1=picture()[:-200], img2=picture()), 'img1: found a PNG that stops'),
    bomb=(413, dict(img1=bomb(60000, 60000), img2=picture()), 'img1: found'),
    wide=(413, dict(img1=bomb(10001, 10), img2=picture()), '10x10001 pixels, expected at most 100000'),
    lying=(422, dict(img1=bomb(300, 300), img2=bomb(300, 300)[:200]), 'img'),
    sizes=(422, dict(img1=picture(), img2=picture(80)), '80x128 pixels'),
    tiny=(422, dict(img1=picture(8, 8), img2=picture(8, 8)), '8x8 pixels'),
    missing=(422, dict(img1=picture()), 'img2: found nothing, expected a file'),
    a_text=(422, dict(img1='a.png', img2='/etc/passwd'), 'expected a file'),
    format=(422, dict(img1=picture(), img2=picture(), format='../exr'), 'format: found something else'),
    oversized=(413, dict(img1=bytes(3*10**6), img2=b''), 'request: found 3.0 MB, expected at most 2 MB'))

@pytest.mark.parametrize('name', HOSTILE)
def test_hostile_upload(port, name):
    status,parts,text = HOSTILE[name]
    got,body = ask(port, **parts)
    assert got==status and text in json.loads(body)['error'], body
    assert healthy(port)

@pytest.mark.parametrize('body,kind',
                         [(b'', 'multipart/form-data'), (b'garbage', 'multipart/form-data; boundary=x'),
                          (b'{}', 'application/json'),
                                       (b'--x\r\nContent-Disposition: form-data; name="img1"; filename="a"\r\n\r\n', 'multipart/form-data; boundary=x')])
def test_no_form(port, body, kind):
    status,_ = ask(port, body=body, headers={'Content-Type': kind})
    assert status in (400, 415, 422) and healthy(port)

def test_video_that_is_a_playlist(port):
    status,body = ask(port, path='/video', video=b'#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n')
    assert status==415 and b'passwd' not in body

def test_body_without_a_length(port):
    "Chunked: nothing declared, so the bytes are counted on the way"
    def endless():
        yield b'--x\r\nContent-Disposition: form-data; name="img1"; filename="a.png"\r\n\r\n'
        for _ in range(60): yield bytes(10**5)
    status,body = ask(port, body=endless(),
                      headers={'Content-Type': 'multipart/form-data; boundary=x'})   # http.client sends it in chunks
    assert status==413 and b'at most 2 MB' in body and healthy(port)

def test_slow_sender(port):
    "Half a request, and then silence: told off after the timeout"
    with socket.create_connection(('127.0.0.1', port), timeout=20) as s:
        s.sendall(b'POST /flow HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: 1000\r\n\r\n--x\r\n')
        began = time.time()
        assert s.recv(1000).startswith(b'HTTP/1.1 408') and 3 < time.time()-began < 15
    assert healthy(port)

def test_many_at_once(port):
    "More callers than the queue holds: some are served, the others are told to come again"
    with ThreadPoolExecutor(24) as pool:
        found = [o.result() for o in [pool.submit(ask, port, img1=picture(), img2=picture(shift=3))
                                      for _ in range(24)]]
    codes = [s for s,_ in found]
    assert set(codes) <= {200, 503} and 200 in codes and 503 in codes, codes
    assert ask(port, img1=picture(), img2=picture(shift=4))[0]==200

def test_pace():
    p,port = start('--model', 'dis', '--rate', '5')
    try: codes = [ask(port, img1=picture(), img2=picture(shift=4))[0] for _ in range(8)]
    finally: code,err = stop(p)
    assert codes==[200]*5 + [429]*3, codes
    assert code==0 and 'Traceback' not in err, err

def stall(port, kind):
    "A connection that begins and does not go on"
    s = socket.create_connection(('127.0.0.1', port), timeout=20)
    begun = dict(nothing=b'', line=b'GET / HT', header=b'GET /health HTTP/1.1\r\nHost: x\r\nX-A',
                 body=b'POST /flow HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: 1000\r\n\r\n--x\r\n')
    s.sendall(begun[kind])
    return s

@pytest.mark.parametrize('kind', ['line', 'nothing', 'header', 'body'])
def test_200_stalled_connections(port, kind):
    "They are opened, one after the other goes, and whoever asks is answered all the time"
    held, began, waits = [], time.time(), []
    try:
        for i in range(200):
            held.append(stall(port, kind))
            if i % 40 == 39:
                t = time.time()
                assert healthy(port) and ask(port, img1=picture(), img2=picture(shift=4))[0]==200
                waits.append(time.time() - t)
        while time.time() - began < 7: assert healthy(port) or time.sleep(.2)
        assert max(waits) < 4, waits
        open_ones = 0
        for s in held:
            s.settimeout(.05)
            try: open_ones += s.recv(1000) not in (b'',) and kind == 'body'   # told off (408), or gone
            except TimeoutError: open_ones += 1
            except OSError: pass
        assert open_ones <= 24, open_ones
    finally:
        for s in held: s.close()
    assert healthy(port)

def test_late_headers_are_told_off(port):
    with stall(port, 'header') as s:
        began = time.time()
        answer = s.recv(1000)
    assert answer.startswith(b'HTTP/1.1 408') and 'error' in json.loads(answer.split(b'\r\n\r\n')[1]) and 4 < time.time() - began < 8

def test_drop_by_drop(port):
    "A byte now and then does not prolong the deadline"
    with stall(port, 'header') as s:
        began = time.time()
        try:
            while time.time() - began < 15:
                s.sendall(b'a')
                time.sleep(.3)
        except OSError: pass
        assert time.time() - began < 9

def test_no_http_is_one_form_too(port):
    with socket.create_connection(('127.0.0.1', port), timeout=20) as s:
        s.sendall(b'\x16\x03\x01 hello\r\n\r\n')
        answer = s.recv(1000)
    assert answer.startswith(b'HTTP/1.1 400') and list(json.loads(answer.split(b'\r\n\r\n')[1])) == ['error']
    for method, path, status in (('GET', '/nowhere', 404), ('GET', '/flow', 405), ('POST', '/health', 405)):
        found, body = ask(port, method, path)
        assert found == status and list(json.loads(body)) == ['error'], body

def test_connections_are_used_again(port):
    c = http.client.HTTPConnection('127.0.0.1', port, timeout=20)
    for _ in range(3):
        c.request('GET', '/health')
        assert c.getresponse().read()
    c.close()
