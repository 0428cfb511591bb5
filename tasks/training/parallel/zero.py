"""ZeRO by DeepSpeed (arXiv:1910.02054): what zero1, zero2 and zero3 have in common.

The engine begins at the first pass, when a checkpoint's weights are in the model already; from then on it owns weights,
gradients and optimizer. Checkpoints are gathered into the same form that every other strategy has.
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
from tasks.training.parallel.sharding import Pass, SameWeights, Shell
from tasks.training.parallel.strategies import HasLoss, Strategy

MAX_BUCKET = 500_000_000  # gradients that are sent at once; DeepSpeed makes room for them all, however few there are


class Zero(Strategy):
    """Optimizer states (stage 1), gradients too (2), weights too (3) in parts; every process reads its share."""

    lockstep = True

    def __init__(self, work: HasLoss, dtype: torch.dtype, device: torch.device, stage: int) -> None:
        _check(work, dtype)
        work.model.to(device)
        self.work, self.stage, self._dtype, self._shell = work, stage, dtype, Shell(work.model)
        self._named = dict(work.model.named_parameters())
        self._frozen = {name: p.detach().cpu().clone() for name, p in self._named.items() if not p.requires_grad}
        self.weights = SameWeights(self._named)
        self._library: Any = importlib.import_module("deepspeed")
        self._engine: Any = None
        self._saved: Any = None
        self._final: Mapping[str, Tensor] | None = None
        self._left, self._moved = 0, False

    def adopt(self, optimizers: Sequence[Optimizer]) -> None:
        """The engine takes one, which it shows flat parts of weights."""
        if len(optimizers) != 1 or not isinstance(optimizers[0], torch.optim.AdamW):
            raise BadParams("strategies zero1, zero2 and zero3 go with optimizer adamw alone: or use ddp")
        (self._base,) = optimizers
        self._order = [(g, p) for g, group in enumerate(self._base.param_groups) for p in group["params"]]
        self._packed = self._base.state_dict()["param_groups"]

    def mine(self, batches: Sequence[Any]) -> list[tuple[Any, float]]:
        """As ever; the last one ends the step's gradients."""
        found = super().mine(batches)
        self._left = len(found)
        return found

    def loss(self, batch: Any) -> tuple[Tensor, Mapping[str, float | Tensor]]:
        """The work's loss, through the engine."""
        if self._engine is None:
            self._begin()
        self._left -= 1
        self._engine.set_gradient_accumulation_boundary(self._left == 0)
        found: tuple[Tensor, Mapping[str, float | Tensor]] = self._engine(batch)
        return found

    def backward(self, loss: Tensor) -> None:
        """The engine takes the mean over the processes, the loop wants the sum."""
        self._engine.backward(loss * processes.count())

    def add_up_gradients(self) -> None:
        """Nothing: the engine has done it."""

    def clip(self, max_norm: float) -> float:
        """The norm of all gradients; the engine clips as it updates."""
        zero = self._engine.optimizer
        zero.clip_grad = max_norm
        norms = [float(norm) for norm in (zero._get_norm_groups() if self.stage == 3 else [zero.scaled_global_norm()])]
        return float("nan") if min(norms) < 0 else sum(norm**2 for norm in norms) ** 0.5

    def update(self, optimizers: Sequence[Optimizer]) -> None:
        """Move the weights."""
        self._engine.step()
        self._moved = True

    def forget_gradients(self, optimizers: Sequence[Optimizer]) -> None:
        """The engine forgets as it updates: a step that is to be skipped is made without the optimizer."""
        if not self._moved:
            vars(self._base)["step"] = lambda *_, **__: None
            self._engine.step()
            del vars(self._base)["step"]
        self._moved = False

    @contextmanager
    def whole(self) -> Iterator[None]:
        """In stage 3 all weights put together, and nothing of DeepSpeed's between the modules."""
        if self.stage < 3 or self._engine is None:
            yield
            return
        with self._library.zero.GatheredParameters(list(self._named.values())), self._shell.without_hooks():
            yield

    def state(self, optimizers: Sequence[Optimizer]) -> dict[str, Any]:
        """As torch's own optimizer would have it, weight by weight."""
        weights = {name: self._kept(parameter) for name, parameter in self._trained().items()}
        states = {}
        for index, (group, parameter) in enumerate(self._order):
            one = next(iter(self._states(group)), {})
            states[index] = {
                key: self._kept(parameter, key) if isinstance(value, Tensor) and value.ndim else value
                for key, value in one.items()
            }
        return {"weights": weights, "optimizers": [{"state": states, "param_groups": self._packed}]}

    def copied_weights(self) -> dict[str, Tensor]:
        """Put together, in every process."""
        return {name: self._full(parameter) for name, parameter in self._trained().items()}

    def take_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Before the first pass into the model; at the end of the run, what the model is to be."""
        if self._engine is None:
            super().take_weights(weights)
        else:
            self._final = weights

    def take_optimizers(self, optimizers: Sequence[Optimizer], states: Sequence[Any]) -> None:
        """Kept until the engine begins."""
        self._saved = states[0]

    def restore(self) -> None:
        """A plain model, whole in every process."""
        if self._engine is None:
            return
        weights = self._final or self.copied_weights()
        device = next(iter(weights.values())).device
        self._engine.destroy()
        self._shell.restore(dict(weights) | {name: value.to(device) for name, value in self._frozen.items()})

    def _begin(self) -> None:
        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        bucket = min(MAX_BUCKET, sum(parameter.numel() for parameter in self._named.values()))
        config = {
            "train_micro_batch_size_per_gpu": 1,  # how many the loop really takes is nothing to the engine
            "gradient_clipping": 1.0,
            "zero_optimization": {"stage": self.stage, "overlap_comm": False, "reduce_bucket_size": bucket},
            "zero_allow_untested_optimizer": True,
            "bf16": {"enabled": self._dtype == torch.bfloat16},
        }
        made = Pass(self.work)
        self._engine, *_ = self._library.initialize(
            model=made, optimizer=self._base, config=config, dist_init_required=False
        )
        self._shell.sharded()
        if self._saved is not None:
            self._go_on_with(self._saved["state"])

    def _go_on_with(self, states: Mapping[int, Mapping[str, Any]]) -> None:
        """Give each process its part of the states of a checkpoint."""
        for index, (group, parameter) in enumerate(self._order):
            for partition in self._partitions(group):
                for key, value in states[index].items():
                    shaped = isinstance(value, Tensor) and value.ndim
                    self._base.state[partition].setdefault(key, torch.zeros_like(partition) if shaped else value)
                    if not shaped:
                        self._base.state[partition][key] = value
            for key, value in states[index].items():
                if isinstance(value, Tensor) and value.ndim:
                    self._put(parameter, key, value.to(parameter.device))

    def _partitions(self, group: int) -> list[Tensor]:
        """The flat fp32 tensors of this process that the optimizer moves, of one of its groups."""
        zero = self._engine.optimizer
        if self.stage < 3:
            return [zero.single_partition_of_fp32_groups[group]]
        parts = enumerate(zero.fp32_partitioned_groups_flat)
        return [part for number, part in parts if zero.sub_group_to_group_id[number] == group]

    def _states(self, group: int) -> list[Mapping[str, Any]]:
        return [self._base.state[partition] for partition in self._partitions(group)]

    def _full(self, parameter: Any, key: str | None = None) -> Tensor:
        """The whole fp32 weight, or the optimizer's number `key` of it; all processes must ask."""
        if self.stage == 3:
            found: Tensor = parameter._z3_optimizer.get_full_hp_param(parameter, key)
            return found.view(parameter.ds_shape).clone()
        full = torch.zeros(parameter.numel(), device=parameter.device)
        mapping = parameter._hp_mapping
        if mapping is not None:
            here = mapping.lp_fragment_address
            full.narrow(0, here.start, here.numel).copy_(self._fragment(parameter, key))
        dist.all_reduce(full)
        return full.view(parameter.shape)

    def _kept(self, parameter: Any, key: str | None = None) -> Tensor:
        full = self._full(parameter, key)
        return full.cpu() if processes.rank() == 0 else torch.empty(0)

    def _put(self, parameter: Any, key: str, value: Tensor) -> None:
        if self.stage == 3:
            parameter._z3_optimizer.set_full_hp_param(value, parameter, key)
        elif parameter._hp_mapping is not None:
            here = parameter._hp_mapping.lp_fragment_address
            self._fragment(parameter, key).copy_(value.flatten().narrow(0, here.start, here.numel))

    def _fragment(self, parameter: Any, key: str | None) -> Tensor:
        """What this process holds of a weight or of a number of it, in the memory of its flat tensor (stages 1, 2)."""
        group = next(g for g, p in self._order if p is parameter)
        (partition,) = self._partitions(group)
        flat = partition.detach() if key is None else self._base.state[partition][key]
        there = parameter._hp_mapping.hp_fragment_address
        found: Tensor = flat.narrow(0, there.start, there.numel)
        return found

    def _trained(self) -> dict[str, Any]:
        return {name: parameter for name, parameter in self._named.items() if parameter.requires_grad}


def _check(work: HasLoss, dtype: torch.dtype) -> None:
    """Raises BadParams for what DeepSpeed cannot do here."""
    if importlib.util.find_spec("deepspeed") is None:
        wanted = "pip install --no-build-isolation deepspeed"  # its set-up asks for torch
        raise BadParams(f"strategies zero1, zero2 and zero3 need DeepSpeed: {wanted}, or use fsdp")
    if dtype == torch.float16:
        raise BadParams("strategies zero1, zero2 and zero3 go with precision bf16 and fp32, not fp16: or use fsdp")
    if dtype != torch.float32 and any(getattr(module, "keep_fp32", False) for module in work.model.modules()):
        raise BadParams("a head of this stage stays in fp32, which zero1, zero2 and zero3 cannot do in bf16: use fsdp")
    if not all(parameter.is_floating_point() for parameter in work.model.parameters()):
        raise BadParams("zero1, zero2 and zero3 do not cut a base of few bits (adapter.base_bits): use ddp with it")
