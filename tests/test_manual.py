"""What MMFlow's manual shows, word for word: its config of section 4.3, its snippets, its keywords"""
import numpy as np, pytest, torch
from flowbook.mmflow.load import load_config
from flowbook.mmflow.networks import translate_model
from flowbook.recipes.base import build_model

CONFIG = '''
model = dict(
    type='PWCNet',
    encoder=dict(
        type='PWCNetEncoder',
        in_channels=3,
        net_type='Basic',
        pyramid_levels=['level1', 'level2', 'level3', 'level4', 'level5', 'level6'],
        out_channels=(16, 32, 64, 96, 128, 196),
        strides=(2, 2, 2, 2, 2, 2),
        dilations=(1, 1, 1, 1, 1, 1),
        act_cfg=dict(type='LeakyReLU', negative_slope=0.1)),
    decoder=dict(
        type='PWCNetDecoder',
        in_channels=dict(level6=81, level5=213, level4=181, level3=149, level2=117),
        flow_div=20.,
        corr_cfg=dict(type='Correlation', max_displacement=4, padding=0),
        warp_cfg=dict(type='Warp'),
        act_cfg=dict(type='LeakyReLU', negative_slope=0.1),
        scaled=False,
        post_processor=dict(type='ContextNet', in_channels=565),
        flow_loss=dict(
            type='MultiLevelEPE', p=2, reduction='sum',
            weights={'level2': 0.005, 'level3': 0.01, 'level4': 0.02, 'level5': 0.08, 'level6': 0.32})),
    train_cfg=dict(),
    test_cfg=dict(),
    init_cfg=dict(type='Kaiming', nonlinearity='leaky_relu', layer=['Conv2d', 'ConvTranspose2d'], mode='fan_in', bias=0))
dataset_type = 'FlyingChairs'
data_root = 'data/FlyingChairs/data'
img_norm_cfg = dict(mean=[0., 0., 0.], std=[255., 255., 255], to_rgb=False)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='ColorJitter', brightness=0.5, contrast=0.5, saturation=0.5, hue=0.5),
    dict(type='RandomGamma', gamma_range=(0.7, 1.5)),
    dict(type='Normalize', **img_norm_cfg),
    dict(type='GaussianNoise', sigma_range=(0, 0.04), clamp_range=(0., 1.)),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='RandomFlip', prob=0.5, direction='vertical'),
    dict(type='RandomAffine',
         global_transform=dict(translates=(0.05, 0.05), zoom=(1.0, 1.5), shear=(0.86, 1.16), rotate=(-10., 10.)),
         relative_transform=dict(translates=(0.00375, 0.00375), zoom=(0.985, 1.015), shear=(1.0, 1.0), rotate=(-1.0, 1.0))),
    dict(type='RandomCrop', crop_size=(384, 448)),
    dict(type='DefaultFormatBundle'),
    dict(type='Collect', keys=['imgs', 'flow_gt'],
         meta_keys=['img_fields', 'ann_fields', 'filename1', 'filename2', 'ori_filename1', 'ori_filename2', 'filename_flow',
                    'ori_filename_flow', 'ori_shape', 'img_shape', 'erase_bounds', 'erase_num', 'scale_factor'])]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='InputResize', exponent=4),
    dict(type='Normalize', **img_norm_cfg),
    dict(type='TestFormatBundle'),
    dict(type='Collect', keys=['imgs'],
         meta_keys=['flow_gt', 'filename1', 'filename2', 'ori_filename1', 'ori_filename2', 'ori_shape', 'img_shape', 'img_norm_cfg',
                    'scale_factor', 'pad_shape'])]
data = dict(
    train_dataloader=dict(samples_per_gpu=1, workers_per_gpu=5, drop_last=True),
    val_dataloader=dict(samples_per_gpu=1, workers_per_gpu=2, shuffle=False),
    test_dataloader=dict(samples_per_gpu=1, workers_per_gpu=2, shuffle=False),
    train=dict(type=dataset_type, pipeline=train_pipeline, data_root=data_root, split_file='data/FlyingChairs_release/FlyingChairs_train_val.txt'),
    val=dict(type=dataset_type, pipeline=test_pipeline, data_root=data_root, test_mode=True, split_file='data/FlyingChairs_release/FlyingChairs_train_val.txt'),
    test=dict(type=dataset_type, pipeline=test_pipeline, data_root=data_root, test_mode=True, split_file='data/FlyingChairs_release/FlyingChairs_train_val.txt'))
optimizer = dict(type='Adam', lr=1e-5, weight_decay=0.0004, betas=(0.9, 0.999))
optimizer_config = dict(grad_clip=None)
lr_config = dict(policy='step', by_epoch=False, gamma=0.5, step=[400000, 600000, 800000, 1000000])
runner = dict(type='IterBasedRunner', max_iters=1200000)
checkpoint_config = dict(by_epoch=False, interval=100000)
evaluation = dict(interval=100000, metric='EPE')
log_config = dict(interval=50, hooks=[dict(type='TextLoggerHook')])
dist_params = dict(backend='nccl')
log_level = 'INFO'
load_from = None
workflow = [('train', 1)]
'''

def test_config_of_section_4_3(tmp_path):
    "It says `Warp` and no more, which in MMFlow does not align corners: the network does as it says"
    (tmp_path/'pwc.py').write_text(CONFIG)
    said = []
    r = load_config(tmp_path/'pwc.py', say=said.append)
    assert r['model'] == dict(name='pwcnet', style=dict(decoder=r['model']['style']['decoder']))
    assert r['model']['style']['decoder']['warping'] == dict(align_corners=False)
    assert (r['data']['crop'], r['schedule']['iters'],
            r['optimizer']['lr']) == ((384, 448), 1200000, 1e-5) and [o.split(':')[0] for o in said] == ['data.bs=1']
    torch.manual_seed(0)
    model = build_model(r).eval()
    with torch.no_grad(): assert torch.isfinite(model(*torch.rand(2, 1, 3, 64, 64)).flow).all()

def reference_warp(x, flow):
    "MMFlow's `Warp()` from its definition"
    h, w = x.shape[-2:]
    y0, x0 = torch.meshgrid(torch.arange(h), torch.arange(w), indexing='ij')
    grid = torch.stack([(x0 + flow[:, 0])*2/(w - 1) - 1, (y0 + flow[:, 1])*2/(h - 1) - 1], -1)
    sample = lambda o: torch.nn.functional.grid_sample(o, grid, align_corners=False)
    return sample(x)*(sample(torch.ones_like(x)) > .9999)

def test_its_warping_is_mmflows():
    from flowbook.ops.warp import warp
    x, flow = torch.rand(1, 3, 9, 12), torch.randn(1, 2, 9, 12)
    assert (warp(x, flow, align_corners=False) - reference_warp(x, flow)).abs().max() < 1e-5

# ---------------------------------------------------------------- variations of an architecture

LEAKY = dict(type='LeakyReLU', negative_slope=.1)
BN, IN, RELU = dict(type='BN'), dict(type='IN'), dict(type='ReLU')

def pwcnet(encoder={}, decoder={}, **more):
    levels = dict(level6=81, level5=213, level4=181, level3=149, level2=117)
    return dict(type='PWCNet',
                encoder=dict(type='PWCNetEncoder', in_channels=3, net_type='Basic',
                             out_channels=(16, 32, 64, 96, 128, 196)) | encoder,
                decoder=dict(type='PWCNetDecoder', in_channels=levels,
                             post_processor=dict(type='ContextNet', in_channels=565)) | decoder) | more

def flownets(encoder={}, decoder={}):
    levels = dict(level6=1024, level5=1026, level4=770, level3=386, level2=194)
    return dict(type='FlowNetS',
                encoder=dict(type='FlowNetEncoder', in_channels=6,
                             out_channels=(64, 128, 256, 512, 512, 1024)) | encoder,
                decoder=dict(type='FlowNetSDecoder', in_channels=levels,
                             out_channels=dict(level6=512, level5=256, level4=128, level3=64),
                             deconv_bias=True, pred_bias=True) | decoder)

def raft(encoder={}, decoder={}, **more):
    part = dict(type='RAFTEncoder', in_channels=3, out_channels=256, net_type='Basic')
    return dict(type='RAFT', num_levels=4, radius=4, cxt_channels=128, h_channels=128,
                encoder=part | dict(norm_cfg=IN) | encoder, cxt_encoder=part | dict(norm_cfg=BN),
                decoder=dict(type='RAFTDecoder', net_type='Basic', num_levels=4, radius=4, iters=2,
                             act_cfg=RELU) | decoder) | more

VARIATIONS = dict(
    norm=pwcnet(dict(norm_cfg=BN)), group_norm=pwcnet(dict(norm_cfg=dict(type='GN', num_groups=4))),
                  sync=pwcnet(dict(norm_cfg=dict(type='SyncBN', requires_grad=True))),
    decoder_norm=pwcnet(decoder=dict(norm_cfg=BN)), relu=pwcnet(dict(act_cfg=RELU), dict(act_cfg=RELU)),
                  slope=pwcnet(dict(act_cfg=dict(type='LeakyReLU'))),
    elu=pwcnet(dict(act_cfg=dict(type='ELU', alpha=.5))), none=pwcnet(decoder=dict(act_cfg=None)),
                  dilated=pwcnet(dict(dilations=(1, 1, 1, 1, 2, 4))),
    scaled=pwcnet(decoder=dict(scaled=True)),
                  patch=pwcnet(decoder=dict(corr_cfg=dict(type='Correlation', max_displacement=4,
                      dilation_patch=2))),
    border=pwcnet(decoder=dict(warp_cfg=dict(type='Warp', padding_mode='border', align_corners=True))),
                  nearest=pwcnet(decoder=dict(warp_cfg=dict(type='Warp', mode='nearest',
                      align_corners=True))),
    unmasked=pwcnet(decoder=dict(warp_cfg=dict(type='Warp', align_corners=True, use_mask=False))),
                  context=pwcnet(decoder=dict(post_processor=dict(type='ContextNet', in_channels=565,
                      act_cfg=RELU, norm_cfg=BN))),
    flownet_norm=flownets(dict(norm_cfg=BN)), flownet_relu=flownets(dict(act_cfg=RELU), dict(act_cfg=RELU)),
                  flownet_biases=flownets(decoder=dict(deconv_bias=False, pred_bias=False,
                                                       upsample_bias=True)),
    raft_group=raft(dict(norm_cfg=dict(type='GN', num_groups=8))),
                  raft_gru=raft(decoder=dict(gru_type='Conv')),
                  raft_act=raft(decoder=dict(act_cfg=dict(type='GELU'))),
    raft_heads=raft(decoder=dict(feat_channels=128)),
                  raft_said=raft(dict(strides=(1, 2, 2), stem_channels=64, num_stages=3)))
PLAIN = dict(norm=pwcnet(), flownet=flownets(), raft=raft())

@pytest.mark.parametrize('name', VARIATIONS)
def test_a_variation_builds_and_learns(name):
    "It loads to a recipe, is another network than the published one, and has gradients everywhere"
    config = VARIATIONS[name]
    part, _ = translate_model(config)
    plain, _ = translate_model(PLAIN[name.split('_')[0] if name.split('_')[0] in PLAIN else 'norm'])
    assert part != plain or name == 'raft_said'
    torch.manual_seed(0)
    model = build_model(dict(model=part, runtime={}))
    out = model(*torch.rand(2, 2, 3, 64, 128))
    sum(f.square().mean() for f in out.flows).backward()
    missing = [n for n, p in model.named_parameters() if p.grad is None]
    assert torch.isfinite(out.flow).all() and not missing, missing

def test_what_the_parts_cannot_do_is_named():
    from flowbook.core.errors import ConfigError
    for config, key in ((pwcnet(dict(in_channels=1)), 'model.encoder.in_channels: found 1'),
                        (pwcnet(dict(strides=(1, 2, 2, 2, 2, 2))), 'model.encoder.strides'),
                        (pwcnet(dict(norm_cfg=dict(type='LN'))), "norm: found 'LN'"),
                        (pwcnet(dict(act_cfg=dict(type='PReLU'))), "activation: found 'PReLU'")):
        with pytest.raises(ConfigError, match=key):
            build_model(dict(model=translate_model(config)[0], runtime={}))

# ---------------------------------------------------------------- snippets

def test_snippets_of_flow_files(tmp_path):
    "The manual's keywords; a slip in one is an error"
    from flowbook.io.flowfiles import flow_from_bytes, read_flow, write_flow
    from flowbook.io.pngflow import read_flow_kitti, write_flow_kitti
    from flowbook.mmflow.load import inference_model, init_model
    from flowbook.data.pair import demo_paths
    from flowbook.viz.color import render_color_wheel, visualize_flow
    img1, img2 = map(str, demo_paths()[:2])
    model = init_model('flowbook_small', device='cpu', cfg_options={'model.iters': 2})
    result = inference_model(model, img1, img2)
    write_flow(result, flow_file=str(tmp_path/'flow.flo'))
    assert np.array_equal(read_flow(name=str(tmp_path/'flow.flo')), result)
    assert np.array_equal(flow_from_bytes(content=(tmp_path/'flow.flo').read_bytes()), result)
    write_flow_kitti(uv=result, filename=str(tmp_path/'flow.png'))
    flow, valid = read_flow_kitti(name=str(tmp_path/'flow.png'))
    assert np.abs(flow - result).max() <= 1/128 and valid.all()
    visualize_flow(result, save_file=str(tmp_path/'map.png'))
    wheel = render_color_wheel(str(tmp_path/'wheel.png'))
    assert wheel.shape == (151, 151, 3) and (tmp_path/'wheel.png').exists() and (tmp_path/'map.png').exists()
    for slip in (lambda:
        write_flow(result, flow_fil='x.flo'), lambda: read_flow(nam='x.flo'),
                 lambda: write_flow_kitti(uv=result, file='x.png'),
                 lambda: init_model('flowbook_small', cfg_option={})):
        with pytest.raises(TypeError): slip()

def test_a_run_needs_no_logger_package(tmp_path):
    "MMFlow's configs name TensorBoard; without the package the run says so and goes on"
    import os, subprocess, sys
    from flowbook.data.make import make_dataset
    for name in ('tensorboard', 'wandb'):
        (tmp_path/f'{name}.py').write_text('raise ImportError("not installed")')
    make_dataset('flyingchairs', tmp_path/'data/FlyingChairs_release', n=6)
    text = CONFIG.replace("dict(type='TextLoggerHook')",
                          "dict(type='TextLoggerHook', by_epoch=False), dict(type='TensorboardLoggerHook'), dict(type='WandbLoggerHook')")
    text = text.replace('data/FlyingChairs/data', 'data/FlyingChairs_release')
    (tmp_path/'pwc.py').write_text(text)
    env = os.environ | dict(PYTHONPATH=os.pathsep.join([str(tmp_path), os.environ.get('PYTHONPATH', '')]))
    small = ['schedule.iters=1', 'schedule.every=1', 'data.crop=(64,64)', 'data.bs=2', 'data.workers=0',
             'data.n_valid=1']
    res = subprocess.run([sys.executable, '-m', 'flowbook.cli', 'train', 'pwc.py', *small, '--work-dir',
                          'run', '--device', 'cpu'], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert res.returncode == 0 and (tmp_path/'run/weights.safetensors').exists(), res.stderr
    assert [n for n in ('tensorboard', 'wandb')
            if f"'{n}', but no such package" in res.stderr] == ['tensorboard', 'wandb'] and 'Traceback' not in res.stderr
    assert (tmp_path/'run/log.txt').exists() and (tmp_path/'run/log.csv').exists()
