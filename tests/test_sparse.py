"Sparse truth, as laser scanners give it: the loss of every model is smallest at the true flow, at one pixel in a hundred as at all of them"
from dataclasses import replace
import torch
from flowbook.models.registry import MODELS
from flowbook.models.zoo import create_model
from flowbook.train.losses import loss_for

SCALES = 0, .5, .8, .9, .97, 1, 1.03, 1.1, 1.2, 2

def one_of_each():
    "A model for each default loss with its numbers"
    seen = set()
    for name in MODELS.names('*', listed=True):
        if not MODELS[name].__module__.startswith('flowbook.'): continue   # another test's
        with torch.device('meta'): model = create_model(name)
        if any(True for _ in model.parameters()) and repr(model.loss) not in seen:
            seen.add(repr(model.loss))
            yield name,create_model(name).train()

def test_smallest_at_the_truth():
    truth = torch.tensor([20.,-10.]).view(1,2,1,1).expand(1,2,128,192)
    at = lambda f, k: k*truth[...,:1,:1].expand_as(f)
    for name,model in one_of_each():
        torch.manual_seed(0)
        with torch.no_grad(): out = model(*[torch.rand(1, 3, 128, 192) for _ in range(model.frames)])
        loss = loss_for(model)
        for density in .01, .02, .05, .1, 1.:
            valid = torch.rand(1, 1, 128, 192) < density
            known = truth.masked_fill(~valid, 0)        # as readers give it: 0 where it is unknown
            given = (known, valid, -known, valid) if model.frames==3 else (known, valid)
            with torch.no_grad():
                values = [float(loss(replace(out, flow=k*truth, flows=[at(f, k) for f in out.flows]), *given)) for k in SCALES]
            assert SCALES[values.index(min(values))]==1, (name, density, values)
