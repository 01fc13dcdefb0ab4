"""Whether a model's forward pass may be left early: what would be lost with the part that isn't run."""

from __future__ import annotations

from torch import nn

from probekit._data.batches import Batch
from probekit._forward.forward_pass import ForwardPass
from probekit._forward.options import RunOptions
from probekit._forward.recorder import Recorder
from probekit._forward.site_plan import SitePlan
from probekit._probe.early_stop import what_must_run
from probekit._probe.hooks import probing
from probekit._probe.model_run import running
from probekit._probe.pooling import Reduced
from probekit.errors import ModelError, SiteError

__all__ = ["check_early_stop"]


def check_early_stop(model: nn.Module, first: Batch, plan: SitePlan, how: RunOptions) -> None:
    """Check that leaving each pass early, where `how` asks for it, changes no bit of what the planned sites give.

    Runs the model once more on the `first` batch, so far.

    Raises:
        SiteError: a site is a gradient, which takes the whole pass and a loss.
        ModelError: something has to run at the end of the pass, or the next pass would depend on where this one ended.
    """
    if not how.stop_early:
        return
    gradient = next((site.name for site in plan.sites if site.site.side == "grad"), None)
    if gradient is not None:
        raise SiteError(
            f"{gradient} needs a loss of the model's output, and with stop_early=True the forward pass ends before "
            "there is one. Capture gradients without stop_early, or select other sites (sites=).",
            arguments=("stop_early", "sites"),
        )
    must_run = what_must_run(model)
    if must_run is not None:
        raise ModelError(
            f"A forward pass of {plan.model} can't be left early (stop_early=True): {must_run}. Leave stop_early out; "
            "of a model that is wrapped, give the .module.",
            arguments=("stop_early",),
        )
    changed = plan.state or _left_changed(model, first, plan, how)
    if changed:
        raise ModelError(
            f"A forward pass of {plan.model} that is left early (stop_early=True) may change what the next one gives, "
            f"by {', '.join(changed[:3])}. Leave stop_early out; or give reset=, a callable that takes the model and "
            "clears its state before each pass.",
            arguments=("stop_early", "reset"),
        )


def _left_changed(model: nn.Module, first: Batch, plan: SitePlan, how: RunOptions) -> list[str]:
    """The buffers and attributes that a pass changes which is left early, and a whole one doesn't."""
    if how.reset is not None:
        return []
    recorder = Recorder(plan, _nowhere, stop_early=True)
    forward = ForwardPass(model, how, gradients=False, writes_inputs=True)
    with running(model, how.mode) as before, probing(model, plan.names, recorder) as probe:
        recorder.begin(first, 0)
        forward.run(first, probe)
        return [name for name in before.changed() if name not in plan.changed]


def _nowhere(name: str, reduced: Reduced) -> None:
    """A sink that keeps nothing."""
