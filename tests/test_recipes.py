"""Every published recipe builds, and trains two steps on small trees"""
import re, json, subprocess, sys
from functools import lru_cache
import cv2, numpy as np, pytest, torch
from flowbook.augment.pipelines import create_augmentation
from flowbook.data.make import make_dataset
from flowbook.recipes.base import build_learner, get_recipe, list_recipes
from flowbook.recipes.data import FOLDERS, build_datasets
from flowbook.train.losses import create_loss
from flowbook.recipes.listing import weights_of
from flowbook.recipes.mixtures import MIXTURES
from flowbook.train.callbacks import create_hook
from flowbook.train.optimizers import optimizer_func
from flowbook.train.schedules import lr_schedule
from flowbook.models.zoo import create_model
from flowbook.models.published import list_weights

published = [n for n in list_recipes() if 'train' in get_recipe(n)['data']]
trained = [n for n in published if get_recipe(n)['data']['train']]

@lru_cache(None)
def skeleton(model, numbers=()):
    with torch.device('meta'): return create_model(model, **dict(numbers))

of_mmflow = [n for n in published
             if re.search(r'_\d+x\d+_|_test$', n)]   # as its config files are called: GPUs and pairs on each

def test_all_are_there(): assert len(of_mmflow) == 72 and len([n for n in of_mmflow if n in trained]) == 63

@pytest.mark.parametrize('name', published)
def test_parts_exist(name):
    "Model, loss, frozen parts, augmentations, optimiser, schedule, hooks: all by their names"
    r = get_recipe(name)
    model = skeleton(r['model']['name'])
    create_loss(r['model'].get('loss'), model, r['data']['fields'])
    for n in r['model'].get('freeze', []): model.get_submodule(n)
    for c in r['data']['train']: create_augmentation(c['augment'], crop=r['data']['crop'])
    for h in r['runtime']['hooks']: create_hook(h)
    if not r['data']['train']: return
    optimizer_func(r['optimizer']['name'], r['optimizer']['wd'], r['optimizer']['args'])
    s = r['schedule']
    rate = lr_schedule(s['lr'], r['optimizer']['lr'], s['iters'])
    assert 0 < rate(s['iters'] - 1) < rate(s['iters']//20) <= max(r['optimizer']['lr'], rate(0)) and s['iters'] % s['every'] == 0

@pytest.mark.parametrize('name', trained)
def test_start_is_published_and_fits(name):
    "Each run starts from weights that exist, of a model that shares names and shapes with its own; the runs before it made them"
    r = get_recipe(name)
    load = r['runtime']['load_from']
    if load is None: return
    whole = skeleton(r['model']['name'])
    for part, w in (load.items() if isinstance(load, dict) else [('', load)]):
        model, _, stage = w.partition(':')
        assert stage in [o.name for o in list_weights(model) if name not in of_mmflow
                         or o.source == 'MMFlow'], w
        mine, theirs = whole.get_submodule(part).state_dict(), skeleton(model).state_dict()
        assert all(k in mine and mine[k].shape == v.shape for k, v in theirs.items()), (name, w)
    if name in of_mmflow:
        assert set(load.values() if isinstance(load, dict) else [load]) <= set(made().values())
    assert made().get(name) != load

@lru_cache(None)
def made():
    "Model and weights that came out of each run, where they are published"
    return {n: f"{get_recipe(n)['model']['name']}:{w.name}" for n in trained if (w := weights_of(n))}

def test_all_mixtures_are_used(): assert {id for id in MIXTURES} == {m for m in MIXTURES
    if any(_like(m, get_recipe(n)['data']) for n in published)}

def _like(name, data): return {k: v for k, v in data.items()
                               if k != 'bs'} == {k: v for k, v in MIXTURES[name].items()}

@pytest.fixture(scope='session')
def trees(tmp_path_factory):
    "All data sets of the mixtures, small"
    root = tmp_path_factory.mktemp('data')
    sizes = dict(hd1k=(448, 1040))
    for n in {c['name'] for m in MIXTURES.values() for c in m['train'] + m['valid']}:
        make_dataset(n, root/FOLDERS.get(n, n), n=4, size=sizes.get(n, (96, 128)))
    return root

def leads():
    "The first recipe of each network, loss and optimiser: its steps are those of the others, on other data"
    first = {}
    for name in trained:
        r = get_recipe(name)
        parts = r['model'], r['data']['fields'], r['runtime']['precision'], r['optimizer']['name']
        first.setdefault(json.dumps(parts, default=str), name)
    return set(first.values())

LEADS = leads()

@pytest.mark.parametrize('name', trained)
def test_two_steps(name, trees):
    "Data, model, loss and optimiser go together, and the loss of two steps is a number"
    mixed = any('ratio' in c for c in get_recipe(name)['data']['train'])
    r = get_recipe(name, [f"data.root={trees}", 'data.crop=(64,64)', f"data.bs={4 if mixed else 2}",
                          'data.workers=0', 'data.n_valid=1', 'runtime.load_from=None'])
    for c in r['data']['train']: c.pop('times', None)
    if skeleton(r['model']['name']).iterates: r['model']['iters'] = 2
    learn = build_learner(r, start=False)
    model, before = learn.model.train(), {k: v.detach().clone() for k, v in learn.model.named_parameters()}
    learn.create_opt()
    for _, b in zip(range(2), learn.dls.train):
        n = model.frames
        assert all(o.shape[-2:] == (64, 64) for o in b)
        if name not in LEADS: continue
        loss = learn.loss_func(model(*b[:n]), *b[n:])
        loss.backward(); learn.opt.step(); learn.opt.zero_grad()
        assert loss.isfinite()
    assert [dl.label for dl in getattr(learn.dls.valid, 'loaders',
                                       {'': learn.dls.valid}).values()] == [c['label'] for c in r['data']['valid']]
    if name not in LEADS: return
    frozen = [k for k, v in model.named_parameters() if not v.requires_grad]
    assert all(torch.equal(before[k], v) for k, v in model.named_parameters() if k in frozen)
    assert sum(not torch.equal(before[k], v)
               for k, v in model.named_parameters()) > (len(before) - len(frozen))/2

def test_validation_of_a_test_recipe(trees):
    r = get_recipe('pwcnet_kitti_test', [f"data.root={trees}"])
    train, valid = build_datasets(r)
    assert train is None and [d.label for d in valid.datasets] == ['kitti2012', 'kitti2015'] and valid[0].flow is not None

# ---------------------------------------------------------------- configs in MMFlow's manner, spread over files

MODELS = dict(flownetc='''
leaky = dict(type='LeakyReLU', negative_slope=0.1)
model = dict(
    type='FlowNetC',
    encoder=dict(type='FlowNetEncoder', in_channels=3, pyramid_levels=['level1', 'level2', 'level3'], out_channels=(64, 128, 256), kernel_size=(7, 5, 5), strides=(2, 2, 2),
                 num_convs=(1, 1, 1), dilations=(1, 1, 1), act_cfg=leaky),
    corr_level='level3',
    corr_encoder=dict(type='CorrEncoder', in_channels=473, pyramid_levels=['level3', 'level4', 'level5', 'level6'], kernel_size=(3, 3, 3, 3), num_convs=(1, 2, 2, 2), out_channels=(256, 512, 512, 1024),
                      redir_in_channels=256, redir_channels=32, strides=(1, 2, 2, 2), dilations=(1, 1, 1, 1), scaled=False, conv_cfg=None, norm_cfg=None, act_cfg=leaky,
                      corr_cfg=dict(type='Correlation', kernel_size=1, max_displacement=10, stride=1, padding=0, dilation_patch=2)),
    decoder=dict(type='FlowNetCDecoder', in_channels=dict(level6=1024, level5=1026, level4=770, level3=386, level2=194), out_channels=dict(level6=512, level5=256, level4=128, level3=64),
                 deconv_bias=True, pred_bias=True, upsample_bias=True, norm_cfg=None, act_cfg=leaky,
                 flow_loss=dict(type='MultiLevelEPE', p=2, reduction='sum', weights={'level2': 0.005, 'level3': 0.01, 'level4': 0.02, 'level5': 0.08, 'level6': 0.32})),
    init_cfg=[dict(type='Kaiming', layer=['Conv2d', 'ConvTranspose2d'], a=0.1, mode='fan_in', nonlinearity='leaky_relu', bias=0), dict(type='Constant', layer='BatchNorm2d', val=1, bias=0)],
    train_cfg=dict(), test_cfg=dict())
''', pwcnet='''
model = dict(
    type='PWCNet',
    encoder=dict(type='PWCNetEncoder', in_channels=3, net_type='Basic', pyramid_levels=[f'level{i}' for i in range(1, 7)], out_channels=(16, 32, 64, 96, 128, 196), strides=(2, 2, 2, 2, 2, 2),
                 dilations=(1, 1, 1, 1, 1, 1), act_cfg=dict(type='LeakyReLU', negative_slope=0.1)),
    decoder=dict(type='PWCNetDecoder', in_channels=dict(level6=81, level5=213, level4=181, level3=149, level2=117), flow_div=20., corr_cfg=dict(type='Correlation', max_displacement=4, padding=0),
                 warp_cfg=dict(type='Warp', align_corners=True), act_cfg=dict(type='LeakyReLU', negative_slope=0.1), scaled=False, post_processor=dict(type='ContextNet', in_channels=565),
                 flow_loss=dict(type='MultiLevelEPE', p=2, reduction='sum', weights={'level2': 0.005, 'level3': 0.01, 'level4': 0.02, 'level5': 0.08, 'level6': 0.32})),
    init_cfg=dict(type='Kaiming', nonlinearity='leaky_relu', layer=['Conv2d', 'ConvTranspose2d'], mode='fan_in', bias=0), train_cfg=dict(), test_cfg=dict())
''', raft='''
encoder = dict(type='RAFTEncoder', in_channels=3, out_channels=256, net_type='Basic')
init = [dict(type='Kaiming', layer=['Conv2d'], mode='fan_out', nonlinearity='relu'), dict(type='Constant', layer=['SyncBatchNorm2d'], val=1, bias=0)]
model = dict(
    type='RAFT', num_levels=4, radius=4, cxt_channels=128, h_channels=128,
    encoder=dict(norm_cfg=dict(type='IN'), init_cfg=init, **encoder), cxt_encoder=dict(norm_cfg=dict(type='SyncBN'), init_cfg=init, **encoder),
    decoder=dict(type='RAFTDecoder', net_type='Basic', num_levels=4, radius=4, iters=12, corr_op_cfg=dict(type='CorrLookup', align_corners=True), gru_type='SeqConv',
                 flow_loss=dict(type='SequenceLoss'), act_cfg=dict(type='ReLU')),
    freeze_bn=False, train_cfg=dict(), test_cfg=dict())
''', irrpwc='''
leaky, warp = dict(type='LeakyReLU', negative_slope=0.1), dict(type='Warp', align_corners=True, use_mask=True)
weights = {'level6': .32, 'level5': .08, 'level4': .02, 'level3': .01, 'level2': .005, 'level1': .00125, 'level0': .0003125}
context = dict(type='ContextNet', feat_channels=(128, 128, 128, 96, 64, 32), dilations=(1, 2, 4, 8, 16, 1), act_cfg=leaky)
model = dict(
    type='IRRPWC',
    encoder=dict(type='PWCNetEncoder', in_channels=3, net_type='Small', pyramid_levels=['level1', 'level2', 'level3', 'level4', 'level5', 'level6'], out_channels=(16, 32, 64, 96, 128, 196), act_cfg=leaky),
    decoder=dict(type='IRRPWCDecoder', flow_levels=['level0', 'level1', 'level2', 'level3', 'level4', 'level5', 'level6'], corr_in_channels=dict(level2=32, level3=64, level4=96, level5=128, level6=196),
                 corr_feat_channels=32, flow_decoder_in_channels=115, occ_decoder_in_channels=114, corr_cfg=dict(type='Correlation', max_displacement=4), scaled=True, warp_cfg=warp,
                 densefeat_channels=(128, 128, 96, 64, 32), flow_post_processor=dict(in_channels=565, out_channels=2, **context), occ_post_processor=dict(in_channels=563, out_channels=1, **context),
                 flow_refine=dict(type='FlowRefine', in_channels=35, feat_channels=(128, 128, 64, 64, 32, 32), patch_size=3, warp_cfg=warp, act_cfg=leaky),
                 occ_refine=dict(type='OccRefine', in_channels=65, feat_channels=(128, 128, 64, 64, 32, 32), patch_size=3, warp_cfg=warp, act_cfg=leaky),
                 occ_upsample=dict(type='OccShuffleUpsample', in_channels=11, feat_channels=32, infeat_channels=16, out_channels=1, warp_cfg=warp, act_cfg=leaky), occ_refined_levels=['level0', 'level1'],
                 flow_div=20., act_cfg=leaky, flow_loss=dict(type='MultiLevelEPE', weights=weights, p=2, reduction='sum'), occ_loss=dict(type='MultiLevelBCE', weights=weights, reduction='sum')),
    init_cfg=dict(type='Kaiming', a=0.1, nonlinearity='leaky_relu', layer=['Conv2d', 'ConvTranspose2d'], mode='fan_in', bias=0), train_cfg=dict(), test_cfg=dict())
''', lite='''
leaky = dict(type='LeakyReLU', negative_slope=0.1)
model = dict(
    type='LiteFlowNet',
    encoder=dict(type='NetC', in_channels=3, pyramid_levels=['level1', 'level2', 'level3', 'level4', 'level5', 'level6'], out_channels=(32, 32, 64, 96, 128, 192), strides=(1, 2, 2, 2, 2, 2),
                 num_convs=(1, 3, 2, 2, 1, 1), conv_cfg=None, norm_cfg=None, act_cfg=leaky, init_cfg=None),
    decoder=dict(type='NetE', in_channels=dict(level5=128, level6=192), corr_channels=dict(level5=49, level6=49), sin_channels=dict(level5=258, level6=386), rin_channels=dict(level5=131, level6=195),
                 feat_channels=64, mfeat_channels=(128, 64, 32), sfeat_channels=(128, 64, 32), rfeat_channels=(128, 128, 64, 64, 32, 32), patch_size=dict(level5=3, level6=3),
                 corr_cfg=dict(level5=dict(type='Correlation', max_displacement=3), level6=dict(type='Correlation', max_displacement=3)), warp_cfg=dict(type='Warp', align_corners=True),
                 flow_div=20., conv_cfg=None, norm_cfg=None, act_cfg=leaky, scaled_corr=False, regularized_flow=True, extra_training_loss=False,
                 flow_loss=dict(type='MultiLevelEPE', weights={'level6': 0.32, 'level5': 0.08}, p=2, reduction='sum'), init_cfg=None),
    init_cfg=dict(type='Kaiming', nonlinearity='leaky_relu', layer=['Conv2d', 'ConvTranspose2d'], mode='fan_in', bias=0), train_cfg=dict(), test_cfg=dict())
''')

PIPES = '''
load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
pack = [dict(type='DefaultFormatBundle')]
white = dict(mean=[0., 0., 0.], std=[255., 255., 255.], to_rgb=False)
def_colour = dict(brightness=0.5, contrast=0.5, saturation=0.5, hue=0.5)
kitti_colour = dict(brightness=0.05, contrast=0.2, saturation=0.25, hue=0.1)
flips = [dict(type='RandomFlip', prob=0.5, direction='horizontal'), dict(type='RandomFlip', prob=0.5, direction='vertical')]
strong = dict(translates=(0.05, 0.05), zoom=(1.0, 1.5), shear=(0.86, 1.16), rotate=(-10., 10.))
second = dict(translates=(0.00375, 0.00375), zoom=(0.985, 1.015), shear=(1.0, 1.0), rotate=(-1.0, 1.0))
street, street2 = dict(translates=(0.02, 0.02), zoom=(0.98, 1.02), shear=(1.0, 1.0), rotate=(-0.5, 0.5)), dict(translates=(0.0025, 0.0025), zoom=(0.99, 1.01), shear=(1.0, 1.0), rotate=(-0.5, 0.5))
photo = [dict(type='RandomGamma', gamma_range=(0.7, 1.5)), dict(type='Normalize', **white), dict(type='GaussianNoise', sigma_range=(0, 0.04), clamp_range=(0., 1.))]
keys = dict(meta_keys=('filename1', 'filename2', 'ori_shape'))
test = [*load, dict(type='InputResize', exponent=6), dict(type='Normalize', **white), dict(type='TestFormatBundle'), dict(type='Collect', keys=['imgs'], meta_keys=['flow_gt', 'img_shape'])]
loader = dict(train_dataloader=dict(samples_per_gpu=%d, workers_per_gpu=%d, drop_last=True, persistent_workers=True), val_dataloader=dict(samples_per_gpu=1, workers_per_gpu=2, shuffle=False),
              test_dataloader=dict(samples_per_gpu=1, workers_per_gpu=2, shuffle=False))
chairs = dict(type='FlyingChairs', data_root='data/FlyingChairs_release', split_file='data/FlyingChairs_release/FlyingChairs_train_val.txt')
sintel = [dict(type='Sintel', data_root='data/Sintel', test_mode=True, pass_style=p, pipeline=test) for p in ('clean', 'final')]
sintel = dict(type='ConcatDataset', datasets=sintel, separate_eval=True)
'''
A = "[*load, dict(type='ColorJitter', **def_colour), *photo, *flips, dict(type='RandomAffine', global_transform=strong, relative_transform=second), dict(type='RandomCrop', crop_size=(%d, %d)), *pack, dict(type='Collect', keys=['imgs', 'flow_gt'], **keys)]"

DATA = dict(
    flyingchairs_384x448=(1, 2, f"data = dict(train=dict(pipeline={A % (384, 448)}, **chairs), val=dict(pipeline=test, test_mode=True, **chairs), test=dict(pipeline=test, test_mode=True, **chairs), **loader)"),
    flyingchairs_320x448=(1, 2, f"data = dict(train=dict(pipeline={A % (320, 448)}, **chairs), val=dict(pipeline=test, test_mode=True, **chairs), test=dict(pipeline=test, test_mode=True, **chairs), **loader)"),
    things=(2, 2, '''
crop_size = (400, 720)
half = dict(type='Normalize', mean=[127.5] * 3, std=[127.5] * 3, to_rgb=False)
for s in sintel['datasets']: s.update(pipeline=[half if o['type'] == 'Normalize' else o for o in test])
things = [*load, dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.5 / 3.14, asymmetric_prob=0.2), dict(type='Erase', prob=0.5, bounds=[50, 100], max_num=3),
          dict(type='SpacialTransform', spacial_prob=0.8, stretch_prob=0.8, crop_size=crop_size, min_scale=-0.4, max_scale=0.8, max_stretch=0.2), dict(type='RandomCrop', crop_size=crop_size),
          dict(type='RandomFlip', prob=0.5, direction='horizontal'), dict(type='RandomFlip', prob=0.1, direction='vertical'), dict(type='Validation', max_flow=1000.),
          half, *pack, dict(type='Collect', keys=['imgs', 'flow_gt', 'valid'], **keys)]
data = dict(train=[dict(type='FlyingThings3D', data_root='data/flyingthings3d', pipeline=things, test_mode=False, pass_style=p, scene='left') for p in ['clean', 'final']], val=sintel, test=sintel, **loader)
'''),
    kitti=(1, 2, '''
street_train = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', sparse=True), dict(type='ColorJitter', **kitti_colour), *photo, *flips,
                dict(type='RandomAffine', global_transform=street, relative_transform=street2, check_bound=False), dict(type='RandomCrop', crop_size=(320, 896)), *pack, dict(type='Collect', keys=['imgs', 'flow_gt', 'valid'], **keys)]
pair = [dict(type='KITTI2015', data_root='data/kitti2015'), dict(type='KITTI2012', data_root='data/kitti2012')]
data = dict(train=[dict(pipeline=street_train, test_mode=False, **p) for p in pair], val=dict(type='ConcatDataset', datasets=[dict(pipeline=test, test_mode=True, **p) for p in pair], separate_eval=True), **loader)
'''),
    chairsocc=(1, 2, '''
white['to_rgb'] = True
photo[1], test[3] = dict(type='Normalize', **white), dict(type='Normalize', **white)
both = [*load[:1], dict(type='LoadAnnotations', with_occ=True), dict(type='ColorJitter', **def_colour), *photo, *flips,
        dict(type='RandomAffine', global_transform=strong, relative_transform=second, check_bound=True), *pack, dict(type='Collect', keys=['imgs', 'flow_fw_gt', 'flow_bw_gt', 'occ_fw_gt', 'occ_bw_gt'], **keys)],
occ = dict(type='FlyingChairsOcc', data_root='data/FlyingChairsOcc')
data = dict(train=dict(pipeline=both, **occ), val=dict(pipeline=test, test_mode=True, **occ), **loader)
'''),
    sdhom=(1, 5, f'''
mix = {A % (384, 448)}
loader['train_dataloader'].update(sample_ratio=(0.25, 0.75), shuffle=False)
data = dict(train=[dict(type='FlyingThings3DSubset', data_root='data/FlyingThings3D_subset', pipeline=mix, direction='forward', scene='left'), dict(type='ChairsSDHom', data_root='data/ChairsSDHom', pipeline=mix)],
            val=sintel, test=sintel, **loader)
'''))

def adam(lr, iters, steps, every): return f'''
optimizer = dict(type='Adam', lr={lr}, weight_decay=0.0004, betas=(0.9, 0.999))
optimizer_config = dict(grad_clip=None)
lr_config = dict(policy='step', by_epoch=False, gamma=0.5, step={steps})
runner = dict(type='IterBasedRunner', max_iters={iters})
checkpoint_config = dict(by_epoch=False, interval={every})
evaluation = dict(interval={every}, metric='EPE')
'''
FT = '''
optimizer = dict(type='Adam', lr=3e-5, weight_decay=0.0004, betas=(0.9, 0.999))
optimizer_config = dict(grad_clip=None)
down = (45000, 65000, 85000, 95000, 97500, 100000, 110000, 120000, 130000, 140000)
lr_config = dict(policy='MultiStage', by_epoch=False, gammas=[0.5, 0.5], milestone_lrs=[3e-5, 2e-5], milestone_iters=[0, 150000], steps=[[s + d for d in down] for s in (0, 150000)])
runner = dict(type='IterBasedRunner', max_iters=300000)
checkpoint_config = dict(by_epoch=False, interval=50000)
evaluation = dict(interval=50000, metric='EPE')
'''
CYCLE = '''
optimizer = dict(type='AdamW', lr=0.000125, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.00001)
optimizer_config = dict(grad_clip=dict(max_norm=1.))
lr_config = dict(policy='OneCycle', max_lr=0.000125, total_steps=100100, pct_start=0.05, anneal_strategy='linear')
runner = dict(type='IterBasedRunner', max_iters=100000)
checkpoint_config = dict(by_epoch=False, interval=10000)
evaluation = dict(interval=10000, metric='EPE')
'''
RUNTIME = '''
log_config = dict(interval=50, hooks=[dict(type='TextLoggerHook', by_epoch=False), dict(type='TensorboardLoggerHook')])
dist_params = dict(backend='nccl')
log_level = 'INFO'
load_from = None
resume_from = None
workflow = [('train', 1)]
'''
SITE = 'https://download.openmmlab.com/mmflow'
CONFIGS = {
    'flownetc_8x1_slong_flyingchairs_384x448': ('flownetc', 'flyingchairs_384x448',
                                                adam(1e-4, 1200000, [400000, 600000, 800000, 1000000],
                                                     100000), ''),
    'pwcnet_ft_4x1_300k_kitti_320x896': ('pwcnet', 'kitti', FT, f'''
model = dict(decoder=dict(flow_loss=dict(_delete_=True, type='MultiLevelEPE', p=1, q=0.4, eps=0.01, reduction='sum', resize_flow='upsample',
                                         weights={{'level2': 0.005, 'level3': 0.01, 'level4': 0.02, 'level5': 0.08, 'level6': 0.32}})))
load_from = '{SITE}/pwcnet/pwcnet_8x1_sfine_flyingthings3d_subset_384x768.pth'
'''),
    'raft_8x2_100k_flyingthings3d_400x720': ('raft', 'things', CYCLE,
                                             f"model = dict(freeze_bn=True, test_cfg=dict(iters=32))\nload_from = '{SITE}/raft/raft_8x2_100k_flyingchairs.pth'"),
    'irrpwc_8x1_sshort_flyingchairsocc_384x448': ('irrpwc', 'chairsocc',
                                                  adam(1e-4, 600000, [300000, 400000, 500000], 50000),
                                                  "custom_hooks = [dict(type='EMAHook', momentum=0.0002)]"),
    'liteflownet_pre_M5S5R5_8x1_flyingchairs_320x448': ('lite', 'flyingchairs_320x448',
                                                        adam(1e-4, 240000, [120000, 160000, 200000], 40000),
                                                        f'''
custom_hooks = dict(type='LiteFlowNetStageLoadHook', src_level='level6', dst_level='level5')
load_from = '{SITE}/liteflownet/liteflownet_pre_M6S6R6_8x1_flyingchairs_320x448.pth'
'''),
}

def write_tree(root, stem):
    "The files of a config: four bases and itself"
    model, data, plan, more = CONFIGS[stem]
    bs, workers, text = DATA[data]
    files = {f"_base_/models/{model}.py": MODELS[model],
             f"_base_/datasets/{data}.py": PIPES % (bs, workers) + text, '_base_/schedules/plan.py': plan,
             '_base_/default_runtime.py': RUNTIME}
    for name, content in files.items():
        (root/name).parent.mkdir(parents=True, exist_ok=True)
        (root/name).write_text(content)
    (root/model).mkdir(exist_ok=True)
    (root/model/f"{stem}.py").write_text(f"_base_ = {[f'../{f}' for f in files]}\n{more}")
    return root/model/f"{stem}.py"

@pytest.mark.parametrize('stem', CONFIGS)
def test_mmflow_config_is_the_published_recipe(stem, tmp_path):
    from flowbook.mmflow.load import load_config
    said = []
    r = load_config(write_tree(tmp_path, stem), say=said.append)
    expected = get_recipe(stem)
    expected['runtime']['log'] = ['csv', 'text', 'tensorboard']
    assert r == expected and not said

@pytest.mark.parametrize('model,data,bgr,half',
                         [('irrpwc', 'flyingchairs_384x448', True, False),
                          ('irrpwc', 'chairsocc', False, False), ('pwcnet', 'chairsocc', False, False),
                          ('pwcnet', 'things', True, True)])
def test_a_config_says_what_its_network_sees(model, data, bgr, half, tmp_path):
    "A checkpoint of one's own: channel order and range are those of the config's Normalize"
    from flowbook.mmflow.load import init_model
    CONFIGS['mine'] = model, data, adam(1e-5, 600000, [200000], 50000), ''
    torch.manual_seed(0)
    theirs = create_model(model).eval()
    torch.save(dict(state_dict=theirs.state_dict()), tmp_path/'own.pth')
    mine = init_model(write_tree(tmp_path, 'mine'), tmp_path/'own.pth')
    pair = torch.rand(2, 1, 3, 64, 64)
    with torch.no_grad():
        x1, x2 = ((o - .5)/.5 if half else o for o in (pair.flip(2) if bgr else pair))
        found = mine(*pair).flow
        assert (found - mine.restore(mine.estimate(x1, x2), (64, 64),
                                     pair[0]).flow).abs().max() < 1e-5 and found.abs().max() > 1e-4

def test_published_weights_fit_either_order():
    "A config in BGR starts from weights that flowbook keeps in RGB, and sees the same"
    torch.manual_seed(0)
    red = create_model('irrpwc').eval()
    blue, pair = create_model('irrpwc', bgr=True).eval(), torch.rand(2, 1, 3, 64, 64)
    blue.load_state_dict(blue.swap_channels(red.state_dict()))
    with torch.no_grad(): assert (red(*pair).flow - blue(*pair).flow).abs().max() < 1e-4

def test_mmflow_mixture(tmp_path):
    "FlowNet2-CSS-sd's data, which was not shuffled, with another model; and what happens without the number of GPUs"
    from flowbook.mmflow.load import load_config
    CONFIGS['mine'] = 'pwcnet', 'sdhom', adam(1e-5, 600000, [200000], 50000), "optimizer = dict(lr=2e-5)"
    said = []
    r = load_config(write_tree(tmp_path, 'mine'), ['data.train.1.ratio=.5', 'data.train.0.ratio=.5'],
                    say=said.append)
    assert [c['ratio'] for c in r['data']['train']] == [.5, .5] and r['optimizer']['lr'] == 2e-5 and [o.split(':')[0] for o in said] == ['data.train_dataloader.shuffle=False', 'data.bs=1']

PARTS = '''
from torch.optim import SGD
from fastai.callback.core import Callback
from flowbook.layers.encoders import PyramidEncoder
from flowbook.models.parts import register_part
from flowbook.train.losses import register_loss
from flowbook.train.callbacks import register_hook
from flowbook.train.optimizers import register_optimizer

@register_part('encoder')
class ThinEncoder(PyramidEncoder):
    def __init__(self, convs=1): super().__init__(channels=(16, 32, 64, 96, 128, 196), convs=convs)

@register_loss
class RootLoss:
    def __init__(self, power=1.): self.power = power
    def __call__(self, out, flow, valid): return ((out.flow - flow).norm(dim=1) + 1e-3).pow(self.power).mean()

@register_optimizer
class MySGD(SGD): pass

@register_hook
class CountHook(Callback):
    def __init__(self, a=1): self.a = a
    def after_fit(self): open('count.txt', 'w').write(f'{self.a} {self.train_iter}')
'''
MINE = '''
_base_ = './pwcnet/pwcnet_ft_4x1_300k_kitti_320x896.py'
custom_imports = dict(imports=['my_parts'], allow_failed_imports=False)
model = dict(encoder=dict(_delete_=True, type='ThinEncoder', convs=1), decoder=dict(flow_loss=dict(_delete_=True, type='RootLoss', power=.5)))
optimizer = dict(_delete_=True, type='MySGD', lr=1e-6, momentum=.9)
custom_hooks = [dict(type='CountHook', a=5, priority='LOW')]
load_from = None
runner = dict(max_iters=3)
evaluation = dict(interval=3)
log_config = dict(_delete_=True, interval=1, hooks=[dict(type='TextLoggerHook')])
'''

def test_parts_of_a_user(trees, tmp_path):
    "An encoder, a loss, an optimiser and a hook from a file of one's own, named in a config in MMFlow's manner; only when allowed"
    write_tree(tmp_path, 'pwcnet_ft_4x1_300k_kitti_320x896')
    (tmp_path/'my_parts.py').write_text(PARTS)
    (tmp_path/'mine.py').write_text(MINE)
    small = [f"data.root={trees}", 'data.crop=(64,64)', 'data.bs=2', 'data.workers=0', 'data.n_valid=1',
             '--work-dir', 'run', '--device', 'cpu']
    def train(*more): return subprocess.run([sys.executable, '-m', 'flowbook.cli', 'train', 'mine.py', *small,
                                             *more], cwd=tmp_path, capture_output=True, text=True)
    res = train()
    assert res.returncode == 2 and '--allow-imports' in res.stderr and 'Traceback' not in res.stderr
    res = train('--allow-imports')
    assert res.returncode == 0, res.stderr
    assert (tmp_path/'count.txt').read_text() == '5 3' and (tmp_path/'run/weights.safetensors').exists()
    recipe = json.loads((tmp_path/'run/recipe.json').read_text())
    assert recipe['model']['parts']['encoder']['type'] == 'ThinEncoder' and recipe['optimizer']['name'] == 'MySGD'
    # the last line runs as printed, from elsewhere too
    line = res.stdout.splitlines()[-1]
    assert line.startswith('next: flowbook infer a.png b.png') and line.endswith('--allow-imports')
    for name in ('a.png', 'b.png'):
        cv2.imwrite(str(tmp_path/name), np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8))
    words = line.removeprefix('next: flowbook ').split()
    done = subprocess.run([sys.executable, '-m', 'flowbook.cli', *words, '--device', 'cpu'], cwd=tmp_path,
                          capture_output=True, text=True)
    assert done.returncode == 0 and (tmp_path/'flow/flow.flo').exists(), done.stderr
    refused = subprocess.run([sys.executable, '-m', 'flowbook.cli', *words[:-1], '--device', 'cpu'],
                             cwd=tmp_path, capture_output=True, text=True)
    assert refused.returncode == 2 and refused.stderr.count('\n') == 1 and '--allow-imports' in refused.stderr

OWN_NET = '''
import torch
from flowbook.models.base import Estimator, FlowOutput
from flowbook.models.registry import register_model

@register_model
class MyFlow(Estimator):
    def __init__(self, *, width):
        super().__init__()
        self.a, self.b = torch.nn.Conv2d(6, width, 3, padding=1), torch.nn.Conv2d(width, 2, 3, padding=1)
    def forward(self, img1, img2, *, iters=None, flow_init=None, all_flows=None):
        flow = self.b(self.a(torch.cat([self.network_image(img1), self.network_image(img2)], 1)).relu())
        return FlowOutput(flow=flow, flows=[flow])
'''

def test_an_estimator_of_a_user(trees, tmp_path):
    "Named by `type`, in a config in MMFlow's manner: it trains, sees the images that the config says, and is used by its recipe"
    from flowbook.mmflow.load import load_config
    (tmp_path/'own_net.py').write_text(OWN_NET)
    f = write_tree(tmp_path, 'pwcnet_ft_4x1_300k_kitti_320x896')
    (tmp_path/'own.py').write_text("_base_ = './pwcnet/%s'\ncustom_imports = dict(imports=['own_net'])\nmodel = dict(_delete_=True, type='MyFlow', width=4, train_cfg=dict(), test_cfg=dict())\n"
                                   "load_from = None\nrunner = dict(max_iters=2)\nevaluation = dict(interval=2)\nmodel['flow_loss'] = dict(type='MultiLevelEPE', weights=dict(level0=1.))\n" % f.name)
    r = load_config(tmp_path/'own.py', allow_imports=True, say=lambda text: None)
    assert (r['model']['name'], r['model']['width'], r['model']['input']) == ('MyFlow', 4, dict(bgr=True))
    small = [f"data.root={trees}", 'data.crop=(64,64)', 'data.bs=2', 'data.workers=0', 'data.n_valid=1',
             '--work-dir', 'run', '--device', 'cpu', '--allow-imports']
    res = subprocess.run([sys.executable, '-m', 'flowbook.cli', 'train', 'own.py', *small], cwd=tmp_path,
                         capture_output=True, text=True)
    assert res.returncode == 0, res.stderr
    res = subprocess.run([sys.executable, '-m', 'flowbook.cli', 'bench', 'run/recipe.json', '--size', '64',
                          '96', '--runs', '1', '--device', 'cpu', '--allow-imports', '--json'], cwd=tmp_path,
                         capture_output=True, text=True)
    row, = json.loads(res.stdout)['rows']
    assert row['model'] == 'run/recipe.json' and 'failed' not in row, row
