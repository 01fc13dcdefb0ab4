"""What a probe has of one forward pass."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from probekit._probe.gradients import Awaited
from probekit._probe.site_name import SiteName

__all__ = ["Pass"]


@dataclass
class Pass:
    """What a forward pass gave, if it is kept, and its gradient sites."""

    tensors: dict[SiteName, Tensor] = field(default_factory=dict)
    awaited: dict[SiteName, Awaited] = field(default_factory=dict)

    def with_zeros(self) -> dict[SiteName, Tensor]:
        """The tensors; where a backward pass reached some of the gradient sites, it gave 0 to the others."""
        self.check_views()
        unreached = {site: one for site, one in self.awaited.items() if site not in self.tensors}
        if len(unreached) == len(self.awaited):
            return self.tensors
        return self.tensors | {site: one.zeros() for site, one in unreached.items()}

    def check_views(self) -> None:
        """Raise SiteError for a gradient site whose gradient isn't what the hook on its tensor sees."""
        for site, one in self.awaited.items():
            one.check_view(str(site._replace(call=None)))
