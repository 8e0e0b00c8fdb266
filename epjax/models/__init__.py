"""Predictive coding networks: those of arXiv:2606.03584, a multilayer perceptron, residual networks, transformers."""

from epjax.models.gpt import gpt
from epjax.models.residual import residual_mlp
from epjax.models.resnet import resnet18, resnet34, resnet50
from epjax.models.vgg import mlp, vgg5, vgg10, vgg10_skip
from epjax.models.vit import vit

__all__ = ["gpt", "mlp", "residual_mlp", "resnet18", "resnet34", "resnet50", "vgg5", "vgg10", "vgg10_skip", "vit"]
