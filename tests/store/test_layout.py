import numpy as np
import pytest

from probekit._store.layout import SiteSpec, chunk_shape, group_names
from probekit.errors import StoreError

HOSTILE = [
    "a/b",
    "../../etc/passwd",
    "/abs",
    "..",
    ".",
    "__init__",
    "label",
    "zarr.json",
    "a\\b",
    "50%",
    "nul\0l",
    "é" * 300,
]


def test_groups_keep_the_names_of_ordinary_sites():
    names = ["layers.0", "cell@1", "lstm[1][hidden]", "(root)", "encoder~relu_0", "x:input"]
    assert group_names(names) == {name: name for name in names}


def test_no_name_escapes_the_store_and_none_is_lost():
    groups = group_names(HOSTILE)
    assert len(set(groups.values())) == len(HOSTILE)
    for group in groups.values():
        assert not set(group) & set("/\\\0")
        assert group.strip(".")
        assert not group.startswith("__")
        assert group not in ("label", "sample_id", "class_name", "zarr.json")
        assert len(group.encode()) <= 200


def test_encoding_is_injective_where_a_name_looks_encoded():
    assert len(set(group_names(["a/b", "a%2Fb", "a%252Fb"]).values())) == 3


def test_names_that_differ_in_case_only_are_refused():
    with pytest.raises(StoreError, match="'Relu' and 'relu' differ in case only"):
        group_names(["Relu", "other", "relu"])


@pytest.mark.parametrize(
    ("dims", "shape", "rows", "expected"),
    [
        (("node",), (200,), 4096, (200,)),
        (("node",), (4096,), 4096, (256,)),  # 4096 rows x 256 nodes x 4 bytes = 4 MiB
        (("channel", "y", "x"), (64, 16, 16), 64, (64, 16, 16)),
        (("channel", "y", "x"), (64, 16, 16), 256, (16, 16, 16)),
        (("position", "node"), (50, 768), 100, (50, 192)),  # four even columns rather than 209, 209, 209, 141
        ((), (), 4096, ()),
        (("node",), (0,), 16, (1,)),
    ],
)
def test_chunks_are_a_few_megabytes_of_whole_nodes(dims, shape, rows, expected):
    assert chunk_shape(SiteSpec("a", dims, shape, np.dtype("f4")), rows) == expected
