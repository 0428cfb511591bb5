"""ZeRO by DeepSpeed (arXiv:1910.02054): the common part of zero1, zero2 and zero3.

The engine is created at the first pass, because it copies the weights, and a checkpoint is loaded before that. From
then on it owns weights, gradients and optimizer. In stages 1 and 2 it keeps, for each parameter group, one flat fp32
tensor of which every process updates a partition; `_hp_mapping` says where a weight lies in it ("hp": high precision,
fp32; "lp": low precision). In stage 3 the 16-bit weights are partitioned as well. Checkpoints are gathered into the
form that every other strategy has, so that a run can continue with another strategy or number of processes.

DeepSpeed has no public functions for much of this, so the code uses attributes of its optimizers that start with an
underscore. The version is pinned in constraints.txt; tests/training/parallel/test_strategies.py shows what breaks with
another one.
"""

import importlib
import importlib.util
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.optim import Optimizer

from tasks.errors import BadParams
from tasks.training.parallel import processes
from tasks.training.parallel.sharding import InPlaceWeights, LossModule, ModelSnapshot
from tasks.training.parallel.strategies import HasLoss, Strategy

MAX_BUCKET = 500_000_000  # gradients per message; DeepSpeed allocates the whole bucket, even for a small model


class Zero(Strategy):
    """Optimizer states (stage 1), gradients (2) and weights (3) are sharded; every process reads its share of data."""

    lockstep = True

    def __init__(self, work: HasLoss, dtype: torch.dtype, device: torch.device, stage: int) -> None:
        _check(work, dtype)
        work.model.to(device)
        self.work, self.stage, self._dtype, self._snapshot = work, stage, dtype, ModelSnapshot(work.model)
        self._named = dict(work.model.named_parameters())
        self._frozen = {name: p.detach().cpu().clone() for name, p in self._named.items() if not p.requires_grad}
        self.weights = InPlaceWeights(self._named)
        self._library: Any = importlib.import_module("deepspeed")
        self._engine: Any = None
        self._saved_optimizer: Any = None
        self._final_weights: Mapping[str, Tensor] | None = None
        self._batches_left, self._has_stepped = 0, False

    def register(self, optimizers: Sequence[Optimizer]) -> None:
        """Keep the optimizer for the engine, which replaces its parameters by flat partitions."""
        if len(optimizers) != 1 or not isinstance(optimizers[0], torch.optim.AdamW):
            raise BadParams("strategies zero1, zero2 and zero3 support optimizer adamw only; use it, or ddp or fsdp")
        (self._optimizer,) = optimizers
        # Saved before the engine changes the groups: checkpoints have the form of the plain optimizer.
        self._order = [(g, p) for g, group in enumerate(self._optimizer.param_groups) for p in group["params"]]
        self._packed = self._optimizer.state_dict()["param_groups"]

    def local_batches(self, batches: Sequence[Any]) -> list[tuple[Any, float]]:
        """As in the base class; their number is kept, because the engine must know the last one of a step."""
        local = super().local_batches(batches)
        self._batches_left = len(local)
        return local

    def loss(self, batch: Any) -> tuple[Tensor, Mapping[str, float | Tensor]]:
        """The loss of the work, computed by the engine."""
        if self._engine is None:
            self._create_engine()
        # At the last micro-batch of a step (the "boundary") the engine reduces gradients; before it only accumulates.
        self._batches_left -= 1
        self._engine.set_gradient_accumulation_boundary(self._batches_left == 0)
        result: tuple[Tensor, Mapping[str, float | Tensor]] = self._engine(batch)
        return result

    def backward(self, loss: Tensor) -> None:
        """Multiply by the number of processes: the engine averages over them, and the loop needs the sum."""
        self._engine.backward(loss * processes.count())

    def all_reduce_gradients(self) -> None:
        """Do nothing: the engine reduces gradients in the backward pass."""

    def clip(self, max_norm: float) -> float:
        """Return the norm of all gradients; the engine clips when it updates. A negative norm means an overflow."""
        zero = self._engine.optimizer
        zero.clip_grad = max_norm  # read by the engine's step; the config below has a placeholder
        norms = [float(norm) for norm in (zero._get_norm_groups() if self.stage == 3 else [zero.scaled_global_norm()])]
        # In stage 3 the norms are those of parameter groups, in stages 1 and 2 that of all.
        return float("nan") if min(norms) < 0 else sum(norm**2 for norm in norms) ** 0.5

    def update(self, optimizers: Sequence[Optimizer]) -> None:
        """Take an optimizer step."""
        self._engine.step()
        self._has_stepped = True

    def zero_grad(self, optimizers: Sequence[Optimizer]) -> None:
        """Clear the gradients. The engine does so in its step, so a skipped step runs without the optimizer."""
        if not self._has_stepped:
            # The engine has no way to drop gradients alone. Its step runs with an optimizer that does nothing (an
            # attribute of the instance hides the method), then it clears the gradients as always.
            vars(self._optimizer)["step"] = lambda *_, **__: None
            self._engine.step()
            del vars(self._optimizer)["step"]
        self._has_stepped = False

    @contextmanager
    def unsharded(self) -> Iterator[None]:
        """Gather all weights in stage 3. DeepSpeed's hooks are removed meanwhile: they would shard them again."""
        if self.stage < 3 or self._engine is None:
            yield
            return
        with self._library.zero.GatheredParameters(list(self._named.values())), self._snapshot.without_hooks():
            yield

    def state(self, optimizers: Sequence[Optimizer]) -> dict[str, Any]:
        """Weights and optimizer state per weight, in the form of torch's own optimizer."""
        weights = {name: self._gathered(parameter) for name, parameter in self._trained().items()}
        states = {}
        for index, (group, parameter) in enumerate(self._order):
            # Only the keys and scalars of the partition's state are read here; moments are gathered weight by weight.
            one = next(iter(self._states(group)), {})
            states[index] = {
                key: self._gathered(parameter, key) if isinstance(value, Tensor) and value.ndim else value
                for key, value in one.items()
            }
        return {"weights": weights, "optimizers": [{"state": states, "param_groups": self._packed}]}

    def clone_weights(self) -> dict[str, Tensor]:
        """The full weights, in every process."""
        return {name: self._full(parameter) for name, parameter in self._trained().items()}

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Before the first pass: load into the model. Later: keep them as the weights that `restore` leaves."""
        if self._engine is None:
            super().load_weights(weights)
        else:
            self._final_weights = weights

    def load_optimizer_states(self, optimizers: Sequence[Optimizer], states: Sequence[Any]) -> None:
        """Keep the state until the engine exists."""
        self._saved_optimizer = states[0]

    def restore(self) -> None:
        """Leave a plain model with its full fp32 weights in every process."""
        if self._engine is None:
            return
        weights = self._final_weights or self.clone_weights()
        device = next(iter(weights.values())).device  # the weights are copies: the engine frees its own below
        self._engine.destroy()
        self._snapshot.restore(dict(weights) | {name: value.to(device) for name, value in self._frozen.items()})

    def _create_engine(self) -> None:
        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        bucket = min(MAX_BUCKET, sum(parameter.numel() for parameter in self._named.values()))
        config = {
            "train_micro_batch_size_per_gpu": 1,  # required, but only used for statistics: the loop makes the batches
            "gradient_clipping": 1.0,
            "zero_optimization": {"stage": self.stage, "overlap_comm": False, "reduce_bucket_size": bucket},
            "zero_allow_untested_optimizer": True,
            "bf16": {"enabled": self._dtype == torch.bfloat16},
        }
        self._engine, *_ = self._library.initialize(
            model=LossModule(self.work), optimizer=self._optimizer, config=config, dist_init_required=False
        )
        self._snapshot.release_replaced()
        if self._saved_optimizer is not None:
            self._load_optimizer_state(self._saved_optimizer["state"])

    def _load_optimizer_state(self, states: Mapping[int, Mapping[str, Any]]) -> None:
        """Copy this process's part of the optimizer state of a checkpoint into its flat partitions."""
        # First make room: a flat partition has no state before its first step. Then fill in each weight's part of it.
        for index, (group, parameter) in enumerate(self._order):
            for partition in self._partitions(group):
                for key, value in states[index].items():
                    has_shape = isinstance(value, Tensor) and value.ndim  # a moment; `step` is a scalar
                    self._optimizer.state[partition].setdefault(
                        key, torch.zeros_like(partition) if has_shape else value
                    )
                    if not has_shape:
                        self._optimizer.state[partition][key] = value
            for key, value in states[index].items():
                if isinstance(value, Tensor) and value.ndim:
                    self._set_full(parameter, key, value.to(parameter.device))

    def _partitions(self, group: int) -> list[Tensor]:
        """The flat fp32 tensors that the optimizer of this process updates, of one parameter group."""
        zero = self._engine.optimizer
        if self.stage < 3:
            return [zero.single_partition_of_fp32_groups[group]]
        # Stage 3 divides a group into sub-groups of limited size.
        parts = enumerate(zero.fp32_partitioned_groups_flat)
        return [part for number, part in parts if zero.sub_group_to_group_id[number] == group]

    def _states(self, group: int) -> list[Mapping[str, Any]]:
        return [self._optimizer.state[partition] for partition in self._partitions(group)]

    def _full(self, parameter: Any, key: str | None = None) -> Tensor:
        """The full fp32 weight, or its optimizer state `key`. All processes must call it."""
        if self.stage == 3:
            full_weight: Tensor = parameter._z3_optimizer.get_full_hp_param(parameter, key)
            return full_weight.view(parameter.ds_shape).clone()
        # Each process fills in its fragment, and the sum over processes is the full tensor.
        full = torch.zeros(parameter.numel(), device=parameter.device)
        # No mapping: all of this weight lies in partitions of other processes.
        mapping = parameter._hp_mapping
        if mapping is not None:
            address = mapping.lp_fragment_address
            full.narrow(0, address.start, address.numel).copy_(self._fragment(parameter, key))
        dist.all_reduce(full)
        return full.view(parameter.shape)

    def _gathered(self, parameter: Any, key: str | None = None) -> Tensor:
        full = self._full(parameter, key)
        return full.cpu() if processes.rank() == 0 else torch.empty(0)

    def _set_full(self, parameter: Any, key: str, value: Tensor) -> None:
        if self.stage == 3:
            parameter._z3_optimizer.set_full_hp_param(value, parameter, key)
        elif parameter._hp_mapping is not None:
            address = parameter._hp_mapping.lp_fragment_address
            self._fragment(parameter, key).copy_(value.flatten().narrow(0, address.start, address.numel))

    def _fragment(self, parameter: Any, key: str | None) -> Tensor:
        """This process's fragment of a weight or of its optimizer state, as a view of the flat tensor (stages 1, 2)."""
        group = next(g for g, p in self._order if p is parameter)
        (partition,) = self._partitions(group)
        flat = partition.detach() if key is None else self._optimizer.state[partition][key]
        # lp_fragment_address: where the fragment lies within the weight; hp_fragment_address: within the partition.
        address = parameter._hp_mapping.hp_fragment_address
        fragment: Tensor = flat.narrow(0, address.start, address.numel)
        return fragment

    def _trained(self) -> dict[str, Any]:
        return {name: parameter for name, parameter in self._named.items() if parameter.requires_grad}


def _check(work: HasLoss, dtype: torch.dtype) -> None:
    """Raise BadParams for what DeepSpeed does not support."""
    if importlib.util.find_spec("deepspeed") is None:
        # Without build isolation, because its setup script imports torch.
        command = "pip install -c constraints.txt --no-build-isolation -e '.[zero]'"
        raise BadParams(f"strategies zero1, zero2 and zero3 need DeepSpeed: run {command}, or use strategy fsdp")
    if dtype == torch.float16:
        raise BadParams("strategies zero1, zero2 and zero3 support precision bf16 and fp32, not fp16; use fsdp")
    if dtype != torch.float32 and any(getattr(module, "keep_fp32", False) for module in work.model.modules()):
        raise BadParams(
            "the head of this stage stays in fp32; zero1, zero2 and zero3 do not support that in bf16. Use fsdp."
        )
    if not all(parameter.is_floating_point() for parameter in work.model.parameters()):
        raise BadParams("strategies zero1, zero2 and zero3 cannot shard a quantized base (adapter.base_bits); use ddp")
