"""The Hugging Face Hub: whether it answers, and what is done without it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

__all__ = ["fault_of_hub", "in_cache", "offline"]

PATIENCE = 5  # seconds to wait for the first answer of the Hub


@contextmanager
def offline() -> Iterator[None]:
    """Have nothing asked of the Hub: what a folder or the cache holds is all there is."""
    constants = import_module("huggingface_hub").constants
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def fault_of_hub(name: str) -> str:
    """The error of the Hugging Face Hub when it is asked about a model; empty if it answers, with any answer.

    The Hub is asked once. Its clients would ask six times for each file, which takes half a minute without a network.
    """
    hub = import_module("huggingface_hub")
    try:
        hub.get_hf_file_metadata(hub.hf_hub_url(name, "config.json"), timeout=PATIENCE)
    except (hub.errors.HfHubHTTPError, hub.errors.HFValidationError):
        return ""  # the model doesn't exist, or not for this user: loading it says so
    except Exception as error:  # the types of errors differ between versions of its client
        return f" The Hub doesn't answer: {' '.join(str(error).split())}"
    return ""


def in_cache(repository: str) -> str:
    """The folder where the files of a repository of the Hub lie once they are downloaded."""
    constants = import_module("huggingface_hub").constants
    return f"{constants.HF_HUB_CACHE}/models--{repository.strip('/').replace('/', '--')}"
