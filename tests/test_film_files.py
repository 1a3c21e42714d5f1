"Films made by the program ffmpeg, read by flowbook and compared with what ffmpeg itself decodes, frame by frame"
import json, shutil, subprocess, warnings
import numpy as np, pytest
from flowbook.core.errors import FlowbookError
from flowbook.io.decoders import has_av
from flowbook.io.video import frames2video, read_frames

ffmpeg = pytest.mark.skipif(not (shutil.which('ffmpeg') and shutil.which('ffprobe')),
    reason='needs the programs ffmpeg and ffprobe')

# name: options of the encoder; n frames of a moving test picture go in
H264,UNEVEN = '-c:v libx264 -preset ultrafast','-vf setpts=N*N/200/TB'
FILMS = {
    'h264.mp4': H264, 'h264_b.mp4': '-c:v libx264 -bf 3 -b_strategy 0', 'h264.mkv': H264,
         'h264.ts': '-c:v libx264 -bf 2', 'h264.avi': H264 + ' -bf 0', 'h264.mov': H264, 'h264.flv': H264,
         'h264.m2ts': H264,
    'h264_tff.mp4': H264 + ' -flags +ilme+ildct -x264opts tff=1 -pix_fmt yuv420p',
         'h264_bff.mts': H264 + ' -flags +ilme+ildct -x264opts bff=1',
    'h264_444.mkv': H264 + ' -pix_fmt yuv444p', 'h264_10.mp4': H264 + ' -pix_fmt yuv420p10le',
         'h264_grey.mp4': H264 + ' -pix_fmt gray', 'h264_full.mp4': H264 + ' -pix_fmt yuvj420p',
         'h264_rgb.mkv': '-c:v libx264rgb -preset ultrafast',
    'h264_709.mp4': H264 + ' -colorspace bt709 -color_primaries bt709 -color_trc bt709 -vf scale=out_color_matrix=bt709', 'h264_odd.mkv': H264 + ' -vf crop=97:75:0:0 -pix_fmt yuv444p', 'h264_fragment.mp4': H264 + ' -movflags frag_keyframe+empty_moov',
    'hevc.mp4': '-c:v libx265 -x265-params log-level=none',
         'hevc_10.mkv': '-c:v libx265 -pix_fmt yuv420p10le -x265-params log-level=none',
    'mpeg2.mpg': '-c:v mpeg2video -q:v 3',
         'mpeg2_tff.mpg': '-c:v mpeg2video -q:v 3 -flags +ilme+ildct -top 1',
         'mpeg2_bff.ts': '-c:v mpeg2video -q:v 3 -flags +ilme+ildct -top 0 -bf 2',
         'mpeg2_422.mkv': '-c:v mpeg2video -q:v 2 -pix_fmt yuv422p',
    'mpeg1.mpg': '-c:v mpeg1video -q:v 3',
         'dv_pal.avi': '-c:v dvvideo -vf scale=720:576 -pix_fmt yuv420p -r 25 -frames:v 4',
         'dv_ntsc.mov': '-c:v dvvideo -vf scale=720:480 -pix_fmt yuv411p -r 30000/1001 -frames:v 4',
    'mpeg4.mp4': '-c:v mpeg4 -q:v 3', 'mpeg4_tff.avi': '-c:v mpeg4 -q:v 3 -flags +ilme+ildct -top 1',
         'mjpeg.avi': '-c:v mjpeg -q:v 3', 'mjpeg.mov': '-c:v mjpeg -q:v 3 -pix_fmt yuvj422p',
    'prores.mov': '-c:v prores_ks -profile:v 3',
         'prores_tff.mov': '-c:v prores_ks -profile:v 2 -flags +ildct -top 1',
         'dnxhd.mov': '-c:v dnxhd -vf scale=1280:720 -b:v 60M -pix_fmt yuv422p -r 25 -frames:v 3',
         'ffv1.mkv': '-c:v ffv1', 'ffv1_16.mkv': '-c:v ffv1 -pix_fmt gray16le', 'huffyuv.avi': '-c:v huffyuv',
    'vp8.webm': '-c:v libvpx -deadline realtime',
         'vp9.webm': '-c:v libvpx-vp9 -deadline realtime -cpu-used 8', 'theora.ogv': '-c:v libtheora -q:v 7',
         'wmv2.wmv': '-c:v wmv2 -q:v 3', 'h263.3gp': '-c:v h263 -s 176x144 -q:v 3',
         'flash.flv': '-c:v flv -q:v 3', 'palette.gif': '',
    'uneven.mp4': H264 + f' {UNEVEN} -fps_mode vfr -enc_time_base 1/1000',
         'uneven.mkv': H264 + f' {UNEVEN} -fps_mode vfr -enc_time_base 1/1000',
         'uneven.webm': f'-c:v libvpx -deadline realtime {UNEVEN} -fps_mode vfr -enc_time_base 1/1000',
         'uneven_b.mov': f'-c:v libx264 -bf 2 {UNEVEN} -fps_mode vfr -enc_time_base 1/1000',
    'ntsc.mp4': H264 + ' -r 30000/1001', 'slow.mp4': H264 + ' -r 240',
         'late.mkv': H264 + ' -output_ts_offset 3.7', 'late.ts': H264 + ' -output_ts_offset 90000',
    'turn90.mp4': 'turn 90', 'turn180.mov': 'turn 180', 'turn270.mp4': 'turn 270', 'hflip.mp4': 'flip 1 0',
         'vflip.mov': 'flip 0 1', 'mirror90.mp4': 'flip 1 0 turn 90', 'mirror270.mp4': 'flip 0 1 turn 90',
}

def run(*args): return subprocess.run([str(a) for a in args], check=True, stdout=subprocess.PIPE,
    stderr=subprocess.PIPE).stdout

MATRIX = {'turn 90': (0,1,-1,0), 'turn 180': (-1,0,0,-1), 'turn 270': (0,-1,1,0), 'flip 1 0': (-1,0,0,1),
    'flip 0 1': (1,0,0,-1), 'flip 1 0 turn 90': (0,1,1,0), 'flip 0 1 turn 90': (0,-1,-1,0)}

def set_matrix(path, turn):
    "Write a display matrix into the track header of an MP4, as phones do"
    data = bytearray(path.read_bytes())
    at = data.index(b'tkhd') + 4
    at += 40 if data[at]==0 else 52
    a,b,c,d = (o*65536 for o in turn)
    data[at:at+36] = np.array([a,b,0, c,d,0, 0,0,2**30], '>i4').tobytes()
    path.write_bytes(data)

def make(folder, name, n=8):
    path,options = folder/name,FILMS[name]
    turn = MATRIX.get(options)
    run('ffmpeg', '-v', 'error', '-y', '-f', 'lavfi', '-i', f'testsrc2=size=160x96:rate=25', '-frames:v', n,
        *(H264 if turn else options).split(), '-an', path)
    if turn: set_matrix(path, turn)
    return path

def truth(path):
    "Frames and times as ffmpeg has them"
    found = json.loads(run('ffprobe', '-v', 'error', '-select_streams', 'v:0', '-show_frames',
        '-show_entries', 'frame=best_effort_timestamp_time', '-of', 'json', path))['frames']
    times = [float(f['best_effort_timestamp_time']) for f in found]
    raw = run('ffmpeg', '-v', 'error', '-i', path, '-fps_mode', 'passthrough', '-f', 'image2pipe', '-c:v',
        'ppm', '-pix_fmt', 'rgb24', '-sws_flags', 'bilinear', '-')
    frames = []
    while raw:
        _,size,_,rest = raw.split(b'\n', 3)
        w,h = map(int, size.split())
        frames.append(np.frombuffer(rest[:3*w*h], np.uint8).reshape(h,w,3))
        raw = rest[3*w*h:]
    return frames,[t - times[0] for t in times]

def read(path, **kw):
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)   # nothing is wrong with these films
        with read_frames(path, **kw) as film: return list(film),film.times,film.count,film.fps

def same(ours, theirs):
    "Equal but for the rounding of another swscale, and how it spreads the colours of interlaced frames: no other frame, no noise, no shift by a pixel"
    for i,(a,b) in enumerate(zip(ours, theirs, strict=True)):
        assert a.shape==b.shape, (i, a.shape, b.shape)
        off = a.astype(float) - b
        light = np.abs(off @ [.299, .587, .114])
        assert light.mean() < 1.5 and np.percentile(light, 95) < 8 and np.abs(off).mean() < 6, (i,
            light.mean(), np.percentile(light, 95), np.abs(off).mean())

@ffmpeg
@pytest.mark.skipif(not has_av(), reason='needs PyAV')
@pytest.mark.parametrize('name', FILMS)
def test_as_ffmpeg(name, tmp_path):
    path = make(tmp_path, name)
    frames,times = truth(path)
    ours,seconds,count,fps = read(path)
    same(ours, frames)
    assert count==len(frames)
    np.testing.assert_allclose(seconds, times, atol=2e-3)
    if len(times) > 1 and 'uneven' not in name:
        np.testing.assert_allclose(fps, (len(times) - 1)/times[-1], rtol=.01)

@ffmpeg
@pytest.mark.parametrize('name', FILMS)
def test_opencv_is_right_or_refuses(name, tmp_path):
    path = make(tmp_path, name)
    frames,times = truth(path)
    try: ours,_,count,_ = read(path, decoder='opencv')
    except FlowbookError as e:
        assert 'pip install' in str(e), e
        return
    assert count in (None, len(frames))
    assert len(ours)==len(frames)
    for a,b in zip(ours, frames):
        # older colour conversion: nearer to its own frame than to any other shape of it
        assert a.shape==b.shape
        assert np.abs(a.astype(int) - b).mean() < 12

@ffmpeg
@pytest.mark.skipif(not has_av(), reason='needs PyAV')
@pytest.mark.parametrize('name', [o for o in FILMS if 'uneven' in o])
@pytest.mark.parametrize('suffix', ['.mp4', '.mkv', '.webm'])
def test_times_are_carried_over(name, suffix, tmp_path):
    path = make(tmp_path, name)
    _,times = truth(path)
    n = frames2video(path, tmp_path/f'out{suffix}')
    assert n==len(times)
    np.testing.assert_allclose(truth(tmp_path/f'out{suffix}')[1], times, atol=2e-3)
    np.testing.assert_allclose(read(tmp_path/f'out{suffix}')[1], times, atol=2e-3)

@ffmpeg
@pytest.mark.parametrize('decoder', ['opencv', *['av']*has_av()])
@pytest.mark.parametrize('name', ['h264.mp4', 'h264_b.mp4', 'mpeg2_tff.mpg', 'vp8.webm', 'ffv1.mkv',
                                  'mjpeg.avi', 'uneven.mp4', 'turn90.mp4', 'h264.ts', 'palette.gif'])
def test_damaged_files_are_errors_or_warnings(name, decoder, tmp_path, capfd):
    "Flipped bytes, cuts and holes: pictures, or one line; nothing untyped, nothing on the terminal"
    data,rng,odd = make(tmp_path, name).read_bytes(),np.random.default_rng(0),tmp_path/f'odd{name[-4:]}'
    for i in range(12):
        bad = bytearray(data)
        if i%3==0: bad = bad[:rng.integers(1, len(bad))]
        elif i%3==1:
            for at in rng.integers(0, len(bad), 1 + i): bad[at] = rng.integers(256)
        else:
            at = rng.integers(0, len(bad))
            del bad[at:at + len(bad)//10]
        odd.write_bytes(bad)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                with read_frames(odd, decoder=decoder) as film: found = list(film)
            assert all(o.dtype==np.uint8 and o.shape[2]==3 for o in found)
        except FlowbookError as e: assert len(str(e)) < 500
    assert capfd.readouterr()==('', '')

@pytest.mark.parametrize('transparent', [False, True])
@pytest.mark.parametrize('disposal', [0, 1, 2, 3, [1, 2, 3, 2, 1, 0, 2, 1]])
def test_gif_disposal(disposal, transparent, tmp_path):
    "Whatever becomes of a frame before the next is drawn, the film is what was painted; see-through parts lie on white"
    from PIL import Image
    painted,frames = [],[]
    colours = np.array([[200,30,30], [0,255,0], [0,0,255], [255,255,0]], np.uint8)
    for i in range(8):
        a = np.full((30,40), int(transparent), np.uint8)
        a[5:15,3*i:3*i+8],a[20:25,30-3*i:36-3*i] = 2,3
        im = Image.fromarray(a)
        im.putpalette([*colours.ravel().tolist()] + [0]*252*3)
        frames.append(im)
        painted.append(np.where((a==1)[...,None], np.uint8(255), colours[a]))
    how = dict(transparency=1) if transparent else {}
    frames[0].save(tmp_path/'a.gif', save_all=True, append_images=frames[1:], duration=[40,80,120,40,40,200,40,40], disposal=disposal, optimize=False, **how)
    found = list(read_frames(tmp_path/'a.gif'))
    assert len(found)==8
    if transparent and disposal not in (2, 3):    # nothing is cleared: what was painted before shines through
        seen = painted[0]
        for i in range(1, 8): seen = painted[i] = np.where((painted[i]==255).all(-1, keepdims=True), seen, painted[i])
    if isinstance(disposal, list) and transparent: return
    for a,b in zip(found, painted): assert (a==b).all()
