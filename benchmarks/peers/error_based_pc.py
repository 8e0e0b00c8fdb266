"""Error-based predictive coding by its authors, in PyTorch, as its playground runs it: T = 16, rate 0.1.

FLOPs are PyTorch's own count of products, over those of its backpropagation, which is what seconds are over too.
"""

import logging
import os
import sys
import warnings

import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, os.environ["PEER_CHECKOUT"])
warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)

from pc_e import PCE  # noqa: E402
from pc_variants import use_CrossEntropyLoss  # noqa: E402

RATE, STEPS = 0.1, 16
FRAMEWORK = f"torch {torch.__version__}"


class Block(torch.nn.Module):
    """h + W relu(V h)."""

    def __init__(self, inner, outer):
        super().__init__()
        self.inner, self.outer = inner, outer

    def forward(self, h):
        """A batch."""
        return h + self.outer(torch.relu(self.inner(h)))


class Flat(torch.nn.Module):
    """Vectors with channels last, as the weights have them."""

    def forward(self, h):
        """A batch."""
        return h.movedim(1, -1).flatten(1) if h.ndim == 4 else h


def rows(case, repeats, harness):
    """Its training step and gradient of the weights, beside backpropagation of the same modules."""
    torch.set_num_threads(os.cpu_count() or 1)
    layers = [_layer(spec, w) for spec, w in zip(case.layers, case.weights, strict=True)]
    model = use_CrossEntropyLoss(PCE(layers, iters=STEPS, e_lr=RATE, w_lr=1e-3))
    x, y = _tensor(case.x), _tensor(case.y)
    x, model.batch_size = (x.movedim(-1, 1).contiguous() if x.ndim == 4 else x), len(x)

    def epc():
        model.zero_grad(set_to_none=True)
        model.training_step({"img": x, "y": y}, 0).backward()

    def backpropagation():
        model.zero_grad(set_to_none=True)
        h = x
        for layer in layers:
            h = layer(h)
        torch.nn.functional.cross_entropy(h, y).backward()

    work, least = (_flops(f) for f in (epc, backpropagation))
    pairs = harness.in_turn(epc, backpropagation, repeats)
    epc()
    reference = harness.backpropagation(case)(case.weights, case.x, case.y)
    return [
        {
            "method": f"ePC, T = {STEPS}, rate {RATE}",
            "flops_over_backprop": work / least,
            "seconds_over_backprop": sorted(a / b for a, b in pairs)[len(pairs) // 2],
            "least_seconds_over_backprop": min(a for a, _ in pairs) / min(b for _, b in pairs),
            **harness.cosines([_gradient(layer) for layer in layers], reference),
        }
    ]


def _flops(f):
    with FlopCounterMode(display=False) as counter:
        f()
    return counter.get_total_flops()


def _tensor(v):
    return torch.tensor(v.tolist(), dtype=torch.float32)


def _layer(spec, w):
    parts = [torch.nn.Conv2d(*w[0].shape[2:], 3, padding=1)] if spec["kind"] == "conv" else []
    if spec["kind"] == "block":
        parts = [Block(*(torch.nn.Linear(*v.shape) for v in w[::2]))]
    if spec["kind"] == "dense":
        parts = [Flat(), torch.nn.Linear(*w[0].shape)]
    if spec.get("pool"):
        parts.append(torch.nn.MaxPool2d(2))
    layer = torch.nn.Sequential(*parts, *([torch.nn.ReLU()] if spec["relu"] else []))
    with torch.no_grad():
        for parameter, v in zip(layer.parameters(), w, strict=True):
            v = _tensor(v)
            parameter.copy_(v.permute(3, 2, 0, 1) if v.ndim == 4 else v.T if v.ndim == 2 else v)
    return layer


def _gradient(layer):
    grads = [parameter.grad for parameter in layer.parameters()]
    return [(g.permute(2, 3, 1, 0) if g.ndim == 4 else g.T if g.ndim == 2 else g).numpy() for g in grads]
