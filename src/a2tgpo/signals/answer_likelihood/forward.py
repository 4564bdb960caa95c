"""Ask a model for the log-probabilities of given tokens."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from a2tgpo.signals.answer_likelihood.device import upload
from a2tgpo.signals.answer_likelihood.output_head import OutputHead, backbone_of
from a2tgpo.signals.answer_likelihood.trajectories import IGNORED

if TYPE_CHECKING:
    from jaxtyping import Float, Int, Integer


class LabelLogps(Protocol):
    """Give the log-probability of `labels[b, i]` after the tokens before column i of row b.

    The hidden state of column i − 1 predicts column i, so column 0 has no predictor and gets 0, as does every
    column whose label is −100. `labels` may lie on the CPU while the rest is on a GPU: then finding what is read
    does not wait for the GPU. `model_kwargs` go to the model: `attention_mask` (2D or 4D), `position_ids`,
    `past_key_values`; a cache that is passed is filled in place. Returns float32 on the device of `input_ids`.
    """

    def __call__(
        self, input_ids: Integer[Tensor, "B L"], labels: Integer[Tensor, "B L"], **model_kwargs: Any
    ) -> Float[Tensor, "B L"]: ...


@dataclass(frozen=True, eq=False)
class ModelForward:
    """Run `read`, which is a `LabelLogps`, and say which model it asks and in which context."""

    read: LabelLogps
    model: Any
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext

    def __call__(self, input_ids: Tensor, labels: Tensor, **model_kwargs: Any) -> Tensor:
        """See `LabelLogps`."""
        return self.read(input_ids, labels, **model_kwargs)


def model_of(forward: LabelLogps) -> Any | None:
    """Give the model behind a forward; None where nobody said."""
    return getattr(forward, "model", None)


def plain_forward(model: PreTrainedModel, temperature: float = 1.0) -> LabelLogps:
    """Read log-probabilities from a Hugging Face causal language model.

    The output head runs only where a label is read and in chunks; the log-softmax of logits / `temperature` is in
    float32. Two tokens are run through the model at once, to see that its logits are made as `OutputHead` makes them.

    Raises `ValueError` for a temperature that is not positive and for a model whose logits are made otherwise.
    """
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}; pass a positive number (1.0 leaves the logits alone).")
    model = causal_model(model)
    head = OutputHead.of(model, temperature)
    backbone, extra = backbone_of(model), no_router_logits(model)

    def forward(input_ids: Tensor, labels: Tensor, **model_kwargs: Any) -> Tensor:
        rows, columns, targets = _readings(labels, input_ids.device)
        use_cache = "past_key_values" in model_kwargs
        hidden = backbone(input_ids=input_ids, use_cache=use_cache, **extra, **name_cache(backbone, model_kwargs))[0]
        logps = torch.zeros(labels.shape, device=input_ids.device)
        return logps.index_put((rows, columns + 1), head.logps(hidden[rows, columns], targets))

    return ModelForward(forward, model)


def fused_forward(
    model: PreTrainedModel, autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
) -> LabelLogps:
    """Read log-probabilities through the fused output head that TRL adds to a model (`add_fused_lm_head`).

    The head and its temperature are the ones of TRL's update. `autocast` makes the context in which the model runs,
    such as an accelerator's. `model` may be wrapped (DDP, FSDP, DeepSpeed, PEFT).
    """

    def forward(input_ids: Tensor, labels: Tensor, **model_kwargs: Any) -> Tensor:
        return fused_reading(model, input_ids, labels, autocast, **model_kwargs).logps

    return ModelForward(forward, model, autocast)


class FusedReading(NamedTuple):
    """Hold what TRL's fused head finds at the labels, 0 elsewhere: log-probabilities, and the entropy, in nats, of the
    distribution each label was drawn from; None for a head that was not added with it. `aux_loss` is the
    load-balancing loss of a mixture of experts, where it was asked for."""

    logps: Float[Tensor, "B L"]
    entropies: Float[Tensor, "B L"] | None
    aux_loss: Float[Tensor, ""] | None = None


Locate = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""From rows and columns of labels' predictors to where they stand among `input_ids`."""


def fused_reading(
    model: PreTrainedModel,
    input_ids: Integer[Tensor, "T C"],
    labels: Integer[Tensor, "B L"],
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    *,
    aux_loss: bool = False,
    locate: Locate | None = None,
    **model_kwargs: Any,
) -> FusedReading:
    """Run one forward of `fused_forward`, with the entropies; see there and `LabelLogps`.

    With `aux_loss` a mixture of experts also returns its load-balancing loss. `locate` tells where the tokens of the
    labels' rows stand among `input_ids`, if these are laid out otherwise.

    Where nothing is read the result is still part of the model's graph, since a sharded model's backward has to run in
    every process.
    """
    rows, columns, targets = _readings(labels, input_ids.device)
    places, predicted = (rows, columns), (rows, columns + 1)
    if nothing := rows.numel() == 0:
        # The head's kernels may not start on no rows; what they make of this one is left out. The last column follows
        # something in every row, so that its hidden state is finite.
        zero, last = input_ids.new_zeros(1), input_ids.size(1) - 1
        targets, predicted, places = zero, (zero, zero), (zero, zero + last)
    elif locate is not None:
        places = locate(rows, columns)

    # Without Triton, TRL's head scores every position it gets: hand it only those that are read.
    seen = []

    def keep_read(module: Any, args: Any, output: Any) -> Any:
        seen.append(module)
        hidden = output.last_hidden_state
        # A model split over devices (`device_map`) ends on another one than it starts on.
        row, column = (place.to(hidden.device) for place in places)
        if locate is not None and hidden.device.type == "cpu":  # rows that share a place pick it several times
            read = Pick.apply(hidden.flatten(0, 1), row * hidden.size(1) + column)
        else:
            read = hidden[row, column]
        output.last_hidden_state = read[None]
        return output

    backbone = backbone_of(causal_model(model))
    hook = backbone.register_forward_hook(keep_read)
    try:
        with autocast():
            output = model(
                input_ids=input_ids,
                shift_labels=targets[None],
                fused_lm_head=True,
                **({"output_router_logits": True} if aux_loss else no_router_logits(model)),
                **name_cache(backbone, model_kwargs),
            )
    finally:
        hook.remove()
    if not seen:
        raise ValueError(
            f"{type(causal_model(model)).__name__} does not run its layers through its base model, so that the hidden "
            "states that are read cannot be picked out; use another model."
        )

    def placed(values: Tensor) -> Tensor:
        values = values[0].to(input_ids.device).float() * (not nothing)
        return torch.zeros(labels.shape, device=input_ids.device).index_put(predicted, values)

    entropies = None if output.entropy is None else placed(output.entropy)
    return FusedReading(placed(output.log_probs), entropies, output.aux_loss if aux_loss else None)


class Pick(torch.autograd.Function):
    """Pick rows of a matrix, some of them several times, and add up their gradients in one order on every run.

    Indexing adds them in the order in which the threads of a CPU come by, so that a seed would not repeat its numbers.
    """

    @staticmethod
    def forward(ctx: Any, rows: Float[Tensor, "M H"], index: Int[Tensor, " N"]) -> Float[Tensor, "N H"]:
        ctx.save_for_backward(index)
        ctx.shape = rows.shape
        return rows[index]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Float[Tensor, "M H"], None]:
        (index,), (picked,) = ctx.saved_tensors, gradients
        total = picked.new_zeros(ctx.shape)
        order = index.argsort(stable=True)
        starts = torch.cat([order.new_zeros(1), index[order].diff().ne(0).nonzero()[:, 0] + 1])
        sizes = torch.cat([starts[1:], starts.new_tensor([len(index)])]) - starts
        for time in range(int(sizes.max())):  # the first of each row, the second, …: each row once in each
            which = order[starts[sizes > time] + time]
            total[index[which]] += picked[which]
        return total, None


def _readings(labels: Integer[Tensor, "B L"], device: torch.device) -> list[Integer[Tensor, " N"]]:
    """Find row and column of every hidden state that predicts a label, and the label."""
    rows, columns = (labels[:, 1:] != IGNORED).nonzero(as_tuple=True)
    return [upload(x, device) for x in (rows, columns, labels[rows, columns + 1])]


def causal_model(model: Any) -> PreTrainedModel:
    """Find the language model inside whatever wraps it."""
    return next(module for module in model.modules() if isinstance(module, PreTrainedModel))


def name_cache(backbone: Any, model_kwargs: dict[str, Any]) -> dict[str, Any]:
    """Call the cache `cache_params` for models that know it by that name alone."""
    names = inspect.signature(backbone.forward).parameters
    if "past_key_values" not in model_kwargs or "past_key_values" in names or "cache_params" not in names:
        return model_kwargs
    others = {name: value for name, value in model_kwargs.items() if name != "past_key_values"}
    return others | {"cache_params": model_kwargs["past_key_values"]}


def no_router_logits(model: Any) -> dict[str, bool]:
    """Keep a mixture-of-experts model from its load-balancing loss, which cannot read a 4D mask."""
    asks = getattr(causal_model(model).config.get_text_config(), "output_router_logits", False)
    return {"output_router_logits": False} if asks else {}
