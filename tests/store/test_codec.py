import json

import numpy as np
import zarr

from probekit._store.codec import ChunkCodec
from probekit._store.layout import ArraySpec


def test_zarr_reads_chunks_of_text_and_would_write_the_same(tmp_path):
    names = ["cat", "", "dög", "日本", "a" * 1000, "\n", "🦊"]
    codec = ChunkCodec(ArraySpec("names", ("sample",), (), np.dtype(np.str_), (7,)))
    (tmp_path / "names/c").mkdir(parents=True)
    (tmp_path / "names/zarr.json").write_text(json.dumps(codec.metadata(7)))
    chunk = tmp_path / "names/c/0"
    written = b"".join(bytes(part) for part in codec.encode(np.array(names, object)))
    chunk.write_bytes(written)
    array = zarr.open_array(tmp_path / "names")
    assert array[:].tolist() == names
    chunk.unlink()
    array[:] = np.array(names, object)
    assert chunk.read_bytes() == written
