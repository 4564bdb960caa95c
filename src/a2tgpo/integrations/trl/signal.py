"""Where a process signal other than the policy's own information gain comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from a2tgpo.integrations.trl.sharding import sharded_by
from a2tgpo.signals import FrozenReference, ProcessSignal, process_reward_model

if TYPE_CHECKING:
    from a2tgpo.integrations.trl.trainer import A2TGPOTrainer


def open_signal(trainer: A2TGPOTrainer, given: ProcessSignal | None) -> ProcessSignal | FrozenReference | None:
    """The signal the trainer was given or its configuration asks for; None for information gain by the policy.

    Raises:
        ValueError: a signal that the method does not read, or two of them; a frozen reference of a sharded policy.
    """
    args = trainer.args
    if given is not None:
        if not trainer.method.signal:
            raise ValueError(f"turn_signal={given!r}: method {args.method!r} reads no process signal; leave it out")
        if args.process_signal != "policy":
            raise ValueError(f"turn_signal={given!r} and process_signal={args.process_signal!r}: give one of them")
        return given
    if args.process_signal == "reference":
        if (kind := sharded_by(trainer.accelerator)) is not None:
            raise ValueError(
                f"process_signal='reference' copies the whole policy, which {kind} keeps in shards; score information "
                "gain with the policy itself (process_signal='policy'), or train without sharding"
            )
        accelerator = trainer.accelerator
        return FrozenReference.of(trainer.model, device=accelerator.device, autocast=accelerator.autocast)
    if args.process_signal == "reward_model":
        assert args.process_reward_model is not None
        device = trainer.accelerator.device
        return process_reward_model(args.process_reward_model, device=device, step_separator=args.step_separator)
    return None
