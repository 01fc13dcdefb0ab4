"""Whether a capture has the settings of the store that it continues: digests, and how they differ."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from io import BytesIO
from typing import Any

import google_crc32c
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from probekit._capture.tensor_bytes import bytes_of
from probekit._nested import tensors
from probekit._probe.offloaded import offloaded_weights
from probekit._probe.sharded import whole
from probekit._store.layout import ACTIVATION, Json
from probekit._store.record import CommitRecord
from probekit.errors import ModelError, StoreError, check_kind

__all__ = ["check_same", "inputs_checksum", "weights_digest"]

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")  # in memory, another one each time

# The attributes of the root that have to agree where both are known, and what they are called in an error.
_AGREE = {
    "model": "the model's class",
    "weights": "the model's weights (their digest)",
    "mode": "mode",
    "predictions": "predictions",
    "loss": "loss",
    "batch_size": "batch_size",
    "generation": "the settings of generate",
    "inputs": "the inputs of the first batch (their digest)",
    "expected_rows": "the number of samples",
}


def weights_digest(model: nn.Module) -> str:
    """blake2b of the name, the type, the shape and the crc32c of every parameter and buffer, 32 hex digits.

    A store tells by it which weights it came from. Of what a state_dict holds besides, such as packed weights and extra
    state, the tensors, numbers, texts and bytes count, also those that are nested. Parameters that are sharded over
    several processes (DTensors) are gathered, one after the other, so that the digest is that of the model in one
    process; all of these processes have to call it.

    Raises:
        ModelError: the numbers of a tensor can't be read; the message names it.

    Example:
        >>> import torch, probekit as pk
        >>> model = torch.nn.Linear(2, 1)
        >>> before = pk.weights_digest(model)
        >>> model.weight.data += 1
        >>> pk.weights_digest(model) == before
        False
    """
    check_kind("model", model, nn.Module, "a torch module", ModelError)
    digest, elsewhere = hashlib.blake2b(digest_size=16), offloaded_weights(model)
    for name, value in model.state_dict().items():
        try:
            value = elsewhere[name]() if name in elsewhere else value
            for line in _described(name, value):
                digest.update(line.encode())
        except (RuntimeError, TypeError, ValueError, AttributeError) as error:
            raise ModelError(
                f"The numbers of {name!r} in the state_dict of {type(model).__name__}, a {type(value).__name__}, can't "
                f"be read: {error} Load them into memory, or convert them into ordinary tensors."
            ) from error
    return digest.hexdigest()


def _described(name: str, value: Any) -> Iterator[str]:
    """What counts of a value in a state_dict."""
    if isinstance(value, Tensor) and value.is_nested:  # which has no shape, or one that differs each time
        yield from _described(name, value.unbind())
    elif isinstance(value, Tensor):
        value = whole(value)
        if is_traceable_wrapper_subclass(value):  # which may say how it is used, beside the numbers in it
            yield f"{name} {type(value).__name__} {_ADDRESS.sub('', repr(value.__tensor_flatten__()[1]))}"
        crc = google_crc32c.value(bytes_of(value))  # blake2b of the bytes takes fifteen times as long, 1 s a GB
        yield f"{name} {value.dtype} {tuple(value.shape)} {crc:08x}"
    elif isinstance(value, torch.ScriptObject):  # weights that are packed for an operation
        yield from _described(name, value.__getstate__())
    elif isinstance(value, Mapping | list | tuple):
        for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _described(f"{name}[{key}]", item)
    elif isinstance(value, np.ndarray) and value.dtype != object:
        yield f"{name} {value.dtype} {value.shape} {google_crc32c.value(value.tobytes()):08x}"
    elif isinstance(value, bytes | bytearray | BytesIO):
        content = value.getvalue() if isinstance(value, BytesIO) else bytes(value)
        yield f"{name} bytes {google_crc32c.value(content):08x}"
    elif value is None or isinstance(value, str | int | float | complex | torch.dtype):
        yield f"{name} {value!r}"


def inputs_checksum(inputs: Any) -> int:
    """crc32c of every tensor in a batch of inputs."""
    crc = 0
    for tensor in tensors(inputs):
        crc = google_crc32c.extend(crc, f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        crc = google_crc32c.extend(crc, bytes_of(tensor))
    return crc


def check_same(
    url: str, record: CommitRecord, attrs: Json, nodes: Mapping[str, Json] | None, *, ignore: tuple[str, ...] = ()
) -> None:
    """Raise StoreError where `attrs`, and `nodes` if given, aren't those of a store's `record`, saying what differs.

    `ignore` names attributes that may differ.
    """
    theirs = record.attributes
    found = [
        f"{noun} was {theirs.get(key)!r} and is {attrs.get(key)!r}"
        for key, noun in _AGREE.items()
        if key not in ignore and theirs.get(key) != attrs.get(key) and None not in (theirs.get(key), attrs.get(key))
    ]
    if nodes is not None:
        found += _differing_nodes(record.nodes, nodes)
    if found:
        more = f"; and {len(found) - 5} more" if len(found) > 5 else ""
        raise StoreError(
            f"{url} was captured with different settings: {'; '.join(found[:5])}{more}. Capture with the same "
            "settings, or into another path."
        )


def _differing_nodes(old: Mapping[str, Json], new: Mapping[str, Json]) -> Iterator[str]:
    for path in [*old, *(new.keys() - old.keys())]:
        node = old.get(path) or new[path]
        what = "site" if path.endswith(f"/{ACTIVATION}") else "column" if _is_column(path, node) else None
        if what and path not in new:
            yield f"the {what} {path.removesuffix(f'/{ACTIVATION}')!r} is only in the store"
        elif what and path not in old:
            yield f"the {what} {path.removesuffix(f'/{ACTIVATION}')!r} is not in the store"
    for path in [path for path in old if path in new]:
        for noun, was, now in _facts(old[path], new[path]):
            if was != now:
                yield f"{noun} of {path.removesuffix(f'/{ACTIVATION}')!r} was {was} and is {now}"


def _is_column(path: str, node: Json) -> bool:
    return "/" not in path and node["node_type"] == "array"


def _facts(old: Json, new: Json) -> Iterator[tuple[str, Any, Any]]:
    if old["node_type"] == "group":
        for key in ("reduce", "batch_dim", "kept_dtype"):
            yield key, old["attributes"].get(key), new["attributes"].get(key)
        for key in ("node_dim", "mask"):
            if key in old["attributes"]:  # not in stores of earlier versions
                yield key, old["attributes"][key], new["attributes"].get(key)
    elif old["node_type"] == "array":
        yield "the shape of a row", old["shape"][1:], new["shape"][1:]
        for key in ("data_type", "codecs", "chunk_grid"):
            yield key, old[key], new[key]
