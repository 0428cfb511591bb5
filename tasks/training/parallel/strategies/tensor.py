"""Tensor parallelism (Megatron-LM, arXiv:1909.08053) by DTensor: every matrix product of a block is split in N.

Projections into a sublayer (queries, keys, values, gate, up) are split by columns and projections out of it by rows, so
a block needs two all-reduces. Attention heads are divided among the processes; norms, embeddings and the vocabulary
head are replicated. All processes read the same data, so each of them computes the same loss.

For y = f(x A) B, split A into columns [A1 A2] and B into rows [B1; B2]. Then y = f(x A1) B1 + f(x A2) B2: each process
computes one term, and one all-reduce adds them (in the backward pass, one more adds the gradients of x).
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
from tasks.training.parallel.sharding import ModelSnapshot, ShardedStrategy, local_of
from tasks.training.parallel.strategies import HasLoss

BY_COLUMNS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")
BY_ROWS = ("self_attn.o_proj", "mlp.down_proj")
# Replicated weights that each process applies to its own heads only: their gradients must be summed.
PER_HEAD_NORMS = ("self_attn.q_norm.weight", "self_attn.k_norm.weight")
MODEL_TYPES = ("llama", "qwen3")


class TensorParallel(ShardedStrategy):
    """Every process holds 1/N of each matrix of the blocks and reads all of the data."""

    def __init__(self, work: HasLoss, dtype: torch.dtype, device: torch.device) -> None:
        self.work, self.snapshot = work, ModelSnapshot(work.model)
        work.model.to(device)
        mesh = init_device_mesh(device.type, (processes.count(),))
        for block in _blocks(work.model, mesh.size()):
            plan: dict[str, ParallelStyle] = {name: ColwiseParallel() for name in BY_COLUMNS}
            plan |= {name: RowwiseParallel() for name in BY_ROWS}
            # src_data_rank=None: every process has the same weights and cuts out its part; nothing is sent.
            parallelize_module(block, mesh, plan, src_data_rank=None)
        self.snapshot.release_replaced()
        self.weights = self._dtensor_weights = _DTensorWeights(work.model, dtype, mesh)

    @property
    def data_shard(self) -> tuple[int, int]:
        """All of the data: every process holds a part of each product."""
        return 0, 1

    def all_reduce_gradients(self) -> None:
        """Sum the gradients of per-head norms; DTensor has reduced all others in the backward pass."""
        for name, master in zip(self.weights.names, self.weights.masters, strict=True):
            if master.grad is None:
                master.grad = torch.zeros_like(master)
            # Such a norm has one vector for all heads, but each process saw the gradients of its own heads only.
            if name.endswith(PER_HEAD_NORMS):
                dist.all_reduce(local_of(master.grad))

    def all_reduce_sum(self, numbers: Mapping[str, Tensor | float]) -> dict[str, float]:
        """The numbers, which are equal in all processes."""
        return {name: float(value) for name, value in numbers.items()}

    def all_weights(self) -> dict[str, Tensor]:
        """The fp32 weights, not the working copies."""
        return dict(self._dtensor_weights.originals)


class _DTensorWeights(Weights):
    """Masters that are all DTensors, because an optimizer refuses a mixture; the model keeps its plain tensors.

    Fused and foreach kernels of torch do not accept DTensors and plain tensors in one list. So a replicated weight, a
    plain tensor in the model, has a master that is a DTensor with Replicate(); in fp32 both share their memory.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype, mesh: DeviceMesh) -> None:
        fp32_parameters = {p for m in model.modules() if getattr(m, "keep_fp32", False) for p in m.parameters()}
        self.names, self._pairs, self._frozen = [], [], []
        self.originals: dict[str, Tensor] = {}
        working: dict[nn.Parameter, nn.Parameter] = {}
        for name, parameter in model.named_parameters():
            placements = parameter.placements if isinstance(parameter, DTensor) else (Replicate(),)
            # run_check=False: do not compare the processes, which would gather every weight.
            local = local_of(parameter.detach())
            master = nn.Parameter(DTensor.from_local(local, mesh, placements, run_check=False), parameter.requires_grad)
            self.originals[name] = master.detach()
            if dtype != torch.float32 and local.dtype == torch.float32 and parameter not in fp32_parameters:
                low = local.to(dtype)
                # A DTensor cannot get another dtype through `.data`, so the parameter itself is replaced.
                if isinstance(parameter, DTensor):
                    sharded = DTensor.from_local(low, mesh, placements, run_check=False)
                    working[parameter] = parameter = nn.Parameter(sharded, parameter.requires_grad)
                else:
                    parameter.data = low
            if parameter.requires_grad:
                self.names.append(name)
                self._pairs.append((parameter, master))
        self._copied_pairs = [(p, master) for p, master in self._pairs if local_of(p.detach()).dtype != torch.float32]
        _replace_parameters(model, working)

    def collect_gradients(self) -> None:
        """Move the gradients to the masters, shard by shard."""
        for parameter, master in self._pairs:
            if parameter.grad is None:
                continue
            gradient = parameter.grad
            if isinstance(gradient, DTensor) and isinstance(master, DTensor):
                # Autograd may return a partial sum (placement Partial); this adds it up over the processes.
                gradient = gradient.redistribute(placements=master.placements)
            if master.grad is None:
                master.grad = torch.zeros_like(master)
            local_of(master.grad).add_(local_of(gradient))
            parameter.grad = None

    def copy_to_model(self) -> None:
        """Copy the masters into the model where they do not share memory."""
        for parameter, master in self._copied_pairs:
            local_of(parameter.detach()).copy_(local_of(master.detach()))


def _replace_parameters(model: nn.Module, parameters: Mapping[nn.Parameter, nn.Parameter]) -> None:
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter in parameters:
                module._parameters[name] = parameters[parameter]


def _blocks(model: nn.Module, count: int) -> list[nn.Module]:
    """The decoder blocks, if they can be split in `count`. Raises BadParams."""
    from transformers import PreTrainedModel

    if any(hasattr(module, "peft_config") for module in model.modules()):
        raise BadParams("strategy tensor cannot split adapters; use ddp or fsdp")
    blocks: list[nn.Module] = []
    for base_model in [m for m in model.modules() if isinstance(m, PreTrainedModel) and m.base_model is m]:
        config: Any = base_model.config
        if config.model_type not in MODEL_TYPES:
            raise BadParams(
                f"strategy tensor supports {', '.join(MODEL_TYPES)}, not {config.model_type}; use ddp or fsdp"
            )
        for size in ("num_attention_heads", "num_key_value_heads", "intermediate_size"):
            if getattr(config, size) % count:
                raise BadParams(
                    f"{size} {getattr(config, size)} cannot be divided among {count} processes (strategy tensor)"
                )
        blocks += list(base_model.layers)
    return blocks


def share(work: HasLoss, dtype: torch.dtype, device: torch.device) -> TensorParallel:
    """`work.model` with its blocks split."""
    return TensorParallel(work, dtype, device)
