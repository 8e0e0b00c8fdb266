"""FabricPC: error-based predictive coding (`EPCInference`) with its default rate and number of steps."""

import jax
from fabricpc.core.activations import IdentityActivation, ReLUActivation, SoftmaxActivation
from fabricpc.core.energy import CrossEntropyEnergy, GaussianEnergy
from fabricpc.core.inference import run_inference
from fabricpc.core.inference_epc import EPCInference
from fabricpc.core.topology import Edge
from fabricpc.core.types import GraphParams, NodeParams
from fabricpc.graph_assembly import TaskMap, graph
from fabricpc.graph_initialization import initialize_params
from fabricpc.graph_initialization.state_initializer import initialize_graph_state
from fabricpc.nodes import ConvNode, IdentityNode, Linear, MaxPool
from fabricpc.training import build_clamps, pc_weight_gradients

RATE, STEPS = 1e-3, 5


def steps(case):
    """Its trainer's gradient: initial state, inference, local weight gradients."""
    if any(layer["kind"] == "block" for layer in case.layers):
        raise ValueError("its residual node has one product, W h + h, not h + W relu(V h)")
    solver = EPCInference(eta_infer=RATE, infer_steps=STEPS)
    net = graph(**_nodes(case), inference=solver)
    shapes, batch, key = initialize_params(net, jax.random.key(0)).nodes, len(case.x), jax.random.key(0)

    def parameters(weights):
        nodes = {name: NodeParams(weights={}, biases={}) for name in shapes}
        for k, (kernel, bias) in enumerate(weights):
            (edge,), b = shapes[f"layer{k}"].weights, shapes[f"layer{k}"].biases["b"]
            nodes[f"layer{k}"] = NodeParams(weights={edge: kernel}, biases={"b": bias.reshape(b.shape)})
        return GraphParams(nodes=nodes)

    def start(params, x, y):
        clamps = build_clamps({"x": x, "y": y}, net, clamp_target=True)
        return initialize_graph_state(net, batch, key, clamps=clamps, params=params), clamps

    def step(weights, x, y):
        params = parameters(weights)
        state, clamps = start(params, x, y)
        found = pc_weight_gradients(params, run_inference(params, state, clamps, net), net, clamps).nodes
        of = [found[f"layer{k}"] for k in range(len(weights))]
        return [[*g.weights.values(), g.biases["b"].reshape(w[1].shape)] for g, w in zip(of, weights, strict=True)]

    def uncounted():
        params = parameters(case.weights)
        once = jax.jit(lambda p, s, c: solver.inference_step(p, s, c, net, solver.config))
        counted = once.lower(params, *start(params, case.x, case.y)).compile().cost_analysis()
        return (STEPS - 1) * counted["flops"]

    step.uncounted = uncounted
    return {f"ePC, T = {STEPS}, rate {RATE:g}": step}


def _nodes(case):
    """A node a layer, and one for each pool: conv, bias, relu, pool is conv, pool, bias, relu."""
    last = IdentityNode(shape=case.x.shape[1:], name="x")
    nodes, edges, shape = [last], [], case.x.shape[1:]
    for k, (layer, w) in enumerate(zip(case.layers, case.weights, strict=True)):
        n, act = w[-1].shape[0], ReLUActivation() if layer["relu"] else SoftmaxActivation()
        if layer["kind"] == "conv":
            shape = (*shape[:2], n)
            new = [ConvNode(shape=shape, kernel_size=(3, 3), activation=act, name=f"layer{k}")]
            if layer["pool"]:
                shape = (shape[0] // 2, shape[1] // 2, n)
                new += [MaxPool(shape=shape, window_shape=(2, 2), activation=IdentityActivation(), name=f"pool{k}")]
        else:
            energy = GaussianEnergy() if layer["relu"] else CrossEntropyEnergy()
            flat = {"flatten_input": True, "activation": act, "energy": energy}
            new, shape = [Linear(shape=(n,), name=f"layer{k}", **flat)], (n,)
        for node in new:
            edges.append(Edge(source=last, target=node.slot("in")))
            last = node
        nodes += new
    return {"nodes": nodes, "edges": edges, "task_map": TaskMap(x=nodes[0], y=last)}
