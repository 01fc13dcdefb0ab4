"""Packed arrays as the page's script reads them."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

import numpy as np

__all__ = ["explorer_data", "unpacked"]


def unpacked(packed: dict[str, Any]) -> np.ndarray:
    content = np.frombuffer(zlib.decompress(base64.b64decode(packed["data"])), np.uint8)
    return content if packed["kind"] == "u1" else np.ascontiguousarray(content.reshape(4, -1).T).view("<f4").ravel()


def explorer_data(html: str) -> Any:
    """What a page's explorer is given."""
    return json.loads(html.partition('id="explorer-data">')[2].partition("</script>")[0])
