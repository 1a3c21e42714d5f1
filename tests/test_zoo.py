"Every model by its name keeps the contract; the chapter on the zoo compares all flows with MMFlow's"
import gc
import pytest, torch
from flowbook.infer.predictor import bundled_models, fill_model
from flowbook.models.contract import check_estimator
from flowbook.models.registry import MODELS, list_models
from flowbook.models.zoo import create_model

NAMES = list_models()

def lightest():
    "One model of each class, that with the fewest parameters: what is heavy and the same for all of a class is tried on it"
    found = {}
    for name in NAMES:
        with torch.device('meta'): model = create_model(name)
        count = sum(p.numel() for p in model.parameters())
        if count: found[type(model)] = min(found.get(type(model), (count, name)), (count, name))
    return {name for _, name in found.values()}

LIGHTEST = lightest()

@pytest.fixture(autouse=True)
def small_memory():
    torch.set_num_threads(1)
    yield
    gc.collect()

@pytest.mark.parametrize('name', NAMES)
def test_contract(name):
    "Sizes, batches, keywords, what it declares, copies, seeds, gradients, half precision"
    check_estimator(name, sizes=((64, 64), (70, 97)), thorough=name in LIGHTEST)

@pytest.mark.parametrize('name', sorted(LIGHTEST))
def test_compiled(name):
    model = create_model(name).eval()
    pair = torch.rand(model.frames, 1, 3, 64, 96)
    torch._dynamo.reset()
    with torch.no_grad():
        flow, compiled = model(*pair).flow, torch.compile(model, backend='eager')(*pair).flow
    assert (compiled - flow).abs().max() <= 1e-3*max(1., flow.abs().max().item())   # the same operators, in another order at most

@pytest.mark.parametrize('name', sorted({*bundled_models(), 'dis', 'dis_fast', 'farneback', 'variational'}))
def test_right_flow(name):
    "What has weights, or needs none, finds a translation with its sign, scale and order, and rest where nothing moves"
    check_estimator(fill_model(create_model(name), name), trained=True)

def test_every_family_names_itself():
    for name in NAMES:
        with torch.device('meta'): model = create_model(name)
        assert model.family, f'{name}: no family'
        if sum(p.numel() for p in model.parameters()): assert model.paper, f'{name}: no paper'
        assert (MODELS[name].__doc__ or '').strip(), f'{name}: no description'
