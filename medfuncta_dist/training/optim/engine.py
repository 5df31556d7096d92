"""The DeepSpeed engine: takes an outer step at any ZeRO stage, and loads and saves its state as tensors.

The only file that imports deepspeed, whose import prints to stdout: import it in workers only. What ZeRO
stages require of a meta-learner:

* the whole meta-learner must be one leaf module, and get an input that requires grad (the initial latents): otherwise
  stage 3 frees its parameters before the outer backward reads them;
* DeepSpeed averages gradients over ranks, so a rank scales its loss by world size / global batch (`share_of_loss`);
* moments exist only after a first step, hence `create_moments` (a step of rate 0 and zero gradients) before loading;
* stages 1 and 2 link parameters to their moments after the first *group* of the first step, when those of the other
  groups do not exist yet (`_link_moments`);
* stage 3 pads a parameter to a multiple of the world size, so its moments are set by padded local slices;
* stages 1 to 3 divide matrices, so Muon, which needs them whole, is for stage 0 (``config/run_file.py`` refuses it).
"""

from __future__ import annotations

import math
import os
from importlib import import_module
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.ops import __compatible_ops__ as compatible_ops
from deepspeed.runtime import compiler
from deepspeed.utils import (
    logger,
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_optimizer_state,
    safe_set_local_optimizer_state,
    set_z3_leaf_modules,
)
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from medfuncta_dist.config.sections.train_section import Train
from medfuncta_dist.fields.params import Params
from medfuncta_dist.meta.device import granted_device, require_device
from medfuncta_dist.meta.learner import Learner
from medfuncta_dist.training.checkpoints.training_state import MuonState, State, moments
from medfuncta_dist.training.optim.outer_optimizers import outer_optimizer
from medfuncta_dist.training.optim.parameter_groups import SHARE, kinds_of_state

# Every gradient is below this: DeepSpeed computes the global norm, which we report, only where it clips.
NO_CLIP = 1e30

ALIGNED = 1024
"""Numbers of a bucket: a multiple of it, for ZeRO requires one of 2 and pads parts for the alignment of memory."""


def join_process_group(gpus: float = 0.0) -> torch.device:
    """Join DeepSpeed to the process group that exists already (torch.distributed), and return this rank's device.

    ``gpus``: what this rank was granted; DS_ACCELERATOR must have named its kind when deepspeed was imported.
    MedfunctaError where torch cannot use the GPU.
    """
    granted = require_device(granted_device(gpus))
    # Serves inference only, and would be compiled here: 40 s, and a lock that hangs later starts if interrupted.
    compatible_ops["deepspeed_shm_comm"] = False
    # ZeRO imports DeepSpeed's own Muon to check whether ours is one. Its decorators for torch's compiler would import
    # that compiler: half a second of CPU time per worker, at each restart.
    compiler.compile = lambda: compiler.dummy_decorator
    logger.setLevel("ERROR")
    os.environ.setdefault("LOCAL_RANK", "0")
    deepspeed.init_distributed(dist_backend=dist.get_backend(), auto_mpi_discovery=False)
    device = torch.device(deepspeed.accelerator.get_accelerator().current_device_name())
    assert device.type == granted.type, f"DeepSpeed computes on {device.type}, this rank was granted {granted.type}"
    return device


def share_of_loss(losses: Float[Tensor, " batch"], global_batch: int, world_size: int) -> Float[Tensor, ""]:
    """This rank's loss, scaled so that the mean over ranks is the global batch's mean, uneven shares included."""
    return losses.sum() * (world_size / global_batch)


class Engine:
    """A meta-learner on one rank, with its optimiser (each parameter at its share of the rate: parameter_groups.py).

    ``learner`` holds the parameters to start from: load a checkpoint's parameters before, its moments after
    (`load_moments`).
    """

    def __init__(self, learner: Learner, train: Train) -> None:
        self._parameters = learner.params()
        self._train, self._stage = train, train.stage
        self._moments_linked = False
        self._kinds = kinds_of_state(learner, train)
        self._optimizer = outer_optimizer(learner, train)
        if self._stage == 3:
            set_z3_leaf_modules(learner, [type(learner)])
        _keep_norms_on_the_device(self._stage)
        self._engine: Any = deepspeed.initialize(
            model=learner, optimizer=self._optimizer, config=_config(train, learner), dist_init_required=False
        )[0]

    def losses(self, *inputs: Any) -> Float[Tensor, " batch"]:
        """Outer loss of each scan: the learner's forward. One input must require grad."""
        losses: Tensor = self._engine(*inputs)
        return losses

    def step(self, loss: Float[Tensor, ""], rate: float) -> Float[Tensor, ""]:
        """One step of the optimiser at ``rate`` on this rank's loss (see `share_of_loss`).

        Returns the global gradient norm before clipping, on the device; not finite when the gradient is not. The
        parameters are then spoiled: DeepSpeed would leave the step out, but would read the norm for that.
        """
        for group in self._engine.optimizer.param_groups:
            group["lr"] = rate * group[SHARE]
        self._engine.backward(loss)
        clipped_here = self._clip() if self._stage == 0 else None
        self._engine.step()
        self._link_moments()
        self._broadcast_matrices()
        norm: Tensor = clipped_here if clipped_here is not None else self._engine.get_global_grad_norm()
        return norm.detach()

    def _link_moments(self) -> None:
        """Once, after a step: link every group's parameters to their moments, which by now exist."""
        if self._stage in (1, 2) and not self._moments_linked:
            self._engine.optimizer._hp_optimizer_states_linked = False
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()
            self._moments_linked = True

    @torch.no_grad()
    def _broadcast_matrices(self) -> None:
        """Overwrite the matrices that Muon steps with rank 0's: it multiplies in bfloat16, whose results differ between
        machines, so ranks would drift apart."""
        matrices = [self._parameters[name] for name, kind in self._kinds.items() if kind is MuonState]
        if matrices and dist.get_world_size() > 1:
            flat = torch.cat([matrix.flatten() for matrix in matrices])
            dist.broadcast(flat, src=0)
            chunks = torch.split(flat, [matrix.numel() for matrix in matrices])
            for matrix, values in zip(matrices, chunks, strict=True):
                matrix.copy_(values.view_as(matrix))

    def _clip(self) -> Tensor:
        """Clip with torch: at stage 0 gradients are whole, and DeepSpeed reports no norm."""
        return clip_grad_norm_(self._parameters.values(), self._train.clip or float("inf"))

    def create_moments(self, *inputs: Any) -> None:
        """Create the moments without changing any parameter: a step of rate 0 with gradients 0."""
        self.step(self.losses(*inputs).sum() * 0.0, rate=0.0)

    def full_parameters(self) -> Params:
        """Every parameter, whole, float32, on the device. A collective: call it on every rank."""
        return {name: self._full(name, None) for name in self._parameters}

    def share_of_state(self) -> State:
        """The parameters and moments that this rank writes: every W-th. A collective, one parameter at a time."""
        rank, world = dist.get_rank(), dist.get_world_size()
        share = {}
        for index, (name, kind) in enumerate(self._kinds.items()):
            whole = [self._full(name, key) for key in (None, *moments(kind))]
            if index % world == rank:
                share[name] = kind(*(t.detach().to("cpu", torch.float32, copy=True) for t in whole))
        return share

    def load_moments(self, state: State, steps: int) -> None:
        """Set the moments and Adam's step count; call `create_moments` before. Every rank passes the whole state."""
        for name, kind in self._kinds.items():
            for key in moments(kind):
                self._set_moment(name, key, getattr(state[name], key))
        for entry in self._optimizer.state.values():
            if "step" in entry:  # Muon counts none.
                entry["step"].fill_(steps)

    def _full(self, name: str, moment: str | None) -> Tensor:
        parameter = self._parameters[name]
        if self._stage == 0:
            local: Tensor = parameter if moment is None else self._optimizer.state[parameter][moment]
            return local.detach()
        whole: Tensor = (
            safe_get_full_fp32_param(parameter) if moment is None else safe_get_full_optimizer_state(parameter, moment)
        )
        return whole.view(_shape(parameter))

    def _set_moment(self, name: str, key: str, value: Tensor) -> None:
        parameter: Any = self._parameters[name]
        if self._stage == 0:
            self._optimizer.state[parameter][key].copy_(value)
        elif self._stage < 3:
            safe_set_full_optimizer_state(parameter, value.to(parameter.device), key)
        else:
            safe_set_local_optimizer_state(parameter, _padded_slice(value, parameter.ds_tensor), key)


def _config(train: Train, learner: Learner) -> dict[str, Any]:
    return {
        # The real batch is uneven over ranks and known only here; DeepSpeed only requires the numbers to be consistent.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0 if train.stage == 0 else train.clip or NO_CLIP,
        "zero_optimization": {"stage": train.stage, **_buckets(learner)},
        "zero_allow_untested_optimizer": True,  # Ours is AdamW in another class (outer_optimizers.py).
        "steps_per_print": 10**12,
        "timers": {"throughput": {"enabled": False}},  # It waits for the GPU twice a step.
    }


def _buckets(learner: Learner) -> dict[str, int]:
    """Sizes of ZeRO's buffers: all that is trained fits into one. By default, they hold 5e8 numbers: 2 GB of a GPU's
    memory, for 31 MB of gradients."""
    numbers = sum(math.prod(shape) for shape in learner.shapes.values())
    numbers += -numbers % ALIGNED
    names = ("reduce_bucket_size", "allgather_bucket_size", "stage3_prefetch_bucket_size")
    return dict.fromkeys(names, numbers)


def _keep_norms_on_the_device(stage: int) -> None:
    """ZeRO asks at each step, and once per group of parameters where it clips, whether the norm is finite, and replaces
    one that is not by a number that it copies to the GPU: the host waits each time. Here it always goes on; the norm is
    then infinite, and whoever takes the steps looks at it later."""
    if stage:
        module = import_module(f"deepspeed.runtime.zero.{'stage3' if stage == 3 else 'stage_1_and_2'}")
        module.is_invalid_grad_norm = lambda norm: False  # type: ignore[attr-defined]
        module.mask_nan_or_inf_with_val_inplace = _mask_not_finite  # type: ignore[attr-defined]


def _mask_not_finite(norm: Tensor, device: Any = None, val: float = -1.0) -> None:
    """As DeepSpeed's function of the longer name."""
    norm.masked_fill_(~torch.isfinite(norm), val)


def _shape(parameter: Tensor) -> torch.Size:
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))


def _padded_slice(value: Tensor, local: Tensor) -> Tensor:
    """This rank's slice of ``value``, padded with zeros to the size of stage 3's partition."""
    size, rank = local.numel(), dist.get_rank()
    padded = torch.zeros(size * dist.get_world_size(), dtype=torch.float32)
    padded[: value.numel()] = value.flatten()
    return padded[rank * size : (rank + 1) * size].to(local.device)
