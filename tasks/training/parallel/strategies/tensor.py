"""Tensor parallel (Megatron-LM, arXiv:1909.08053) by DTensor: every matrix product of a block is cut in N.

Queries, keys, values and the MLP's inside by columns, what leads back by rows, so that a block adds up twice. Heads are
divided among the processes; norms, embeddings and the vocabulary head are whole in each. All read the same data.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module

from tasks.errors import BadParams
from tasks.training.parallel import processes
from tasks.training.parallel.precision import Weights
from tasks.training.parallel.sharding import ShardedStrategy, Shell, local_of
from tasks.training.parallel.strategies import HasLoss

BY_COLUMNS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")
BY_ROWS = ("self_attn.o_proj", "mlp.down_proj")
OF_OWN_HEADS = ("self_attn.q_norm.weight", "self_attn.k_norm.weight")  # each process sees their use on its heads alone
KINDS = ("llama", "qwen3")


class TensorParallel(ShardedStrategy):
    """Every process holds 1/N of each matrix of the blocks and reads all the data."""

    def __init__(self, work: HasLoss, dtype: torch.dtype, device: torch.device) -> None:
        self.work, self.shell = work, Shell(work.model)
        work.model.to(device)
        mesh = init_device_mesh(device.type, (processes.count(),))
        for block in _blocks(work.model, mesh.size()):
            plan: dict[str, ParallelStyle] = {name: ColwiseParallel() for name in BY_COLUMNS}
            plan |= {name: RowwiseParallel() for name in BY_ROWS}
            parallelize_module(block, mesh, plan, src_data_rank=None)
        self.shell.sharded()
        self.weights = self._kept = _Kept(work.model, dtype, mesh)

    @property
    def part(self) -> tuple[int, int]:
        """All of the data."""
        return 0, 1

    def add_up_gradients(self) -> None:
        """The products have done it, but for the norms of heads."""
        for name, master in zip(self.weights.names, self.weights.masters, strict=True):
            if master.grad is None:
                master.grad = torch.zeros_like(master)
            if name.endswith(OF_OWN_HEADS):
                dist.all_reduce(local_of(master.grad))

    def add_up(self, numbers: Mapping[str, Tensor | float]) -> dict[str, float]:
        """They are the same everywhere."""
        return {name: float(value) for name, value in numbers.items()}

    def all_weights(self) -> dict[str, Tensor]:
        """The fp32 ones, not the working copies."""
        return dict(self._kept.originals)


class _Kept(Weights):
    """Masters are DTensors throughout, so that an optimizer sees one kind; the model has plain tensors among them."""

    def __init__(self, model: nn.Module, dtype: torch.dtype, mesh: DeviceMesh) -> None:
        kept = {p for m in model.modules() if getattr(m, "keep_fp32", False) for p in m.parameters()}
        self.names, self._pairs, self._frozen = [], [], []
        self.originals: dict[str, Tensor] = {}
        working: dict[nn.Parameter, nn.Parameter] = {}
        for name, parameter in model.named_parameters():
            placements = parameter.placements if isinstance(parameter, DTensor) else (Replicate(),)
            local = local_of(parameter.detach())
            master = nn.Parameter(DTensor.from_local(local, mesh, placements, run_check=False), parameter.requires_grad)
            self.originals[name] = master.detach()
            if dtype != torch.float32 and local.dtype == torch.float32 and parameter not in kept:
                low = local.to(dtype)
                if isinstance(parameter, DTensor):
                    cut = DTensor.from_local(low, mesh, placements, run_check=False)
                    working[parameter] = parameter = nn.Parameter(cut, parameter.requires_grad)
                else:
                    parameter.data = low
            if parameter.requires_grad:
                self.names.append(name)
                self._pairs.append((parameter, master))
        self._apart = [(p, master) for p, master in self._pairs if local_of(p.detach()).dtype != torch.float32]
        _exchange(model, working)

    def collect_gradients(self) -> None:
        """As ever, part by part."""
        for parameter, master in self._pairs:
            if parameter.grad is None:
                continue
            gradient = parameter.grad
            if isinstance(gradient, DTensor) and isinstance(master, DTensor):
                gradient = gradient.redistribute(placements=master.placements)
            if master.grad is None:
                master.grad = torch.zeros_like(master)
            local_of(master.grad).add_(local_of(gradient))
            parameter.grad = None

    def publish(self) -> None:
        """Copy the masters into the model, where they are not in the same memory."""
        for parameter, master in self._apart:
            local_of(parameter.detach()).copy_(local_of(master.detach()))


def _exchange(model: nn.Module, parameters: Mapping[nn.Parameter, nn.Parameter]) -> None:
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter in parameters:
                module._parameters[name] = parameters[parameter]


def _blocks(model: nn.Module, count: int) -> list[nn.Module]:
    """The decoder blocks, if they can be cut in `count`. Raises BadParams."""
    from transformers import PreTrainedModel

    if any(hasattr(module, "peft_config") for module in model.modules()):
        raise BadParams("strategy tensor does not cut adapters: use ddp or fsdp with them")
    found: list[nn.Module] = []
    for trunk in [m for m in model.modules() if isinstance(m, PreTrainedModel) and m.base_model is m]:
        config: Any = trunk.config
        if config.model_type not in KINDS:
            raise BadParams(f"strategy tensor knows {', '.join(KINDS)}, not {config.model_type}: use ddp or fsdp")
        for what in ("num_attention_heads", "num_key_value_heads", "intermediate_size"):
            if getattr(config, what) % count:
                raise BadParams(f"{what} {getattr(config, what)} cannot be divided among {count} processes (tensor)")
        found += list(trunk.layers)
    return found


def share(work: HasLoss, dtype: torch.dtype, device: torch.device) -> TensorParallel:
    """`work.model` with its blocks cut."""
    return TensorParallel(work, dtype, device)
