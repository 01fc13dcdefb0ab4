import torch
from torch import nn

import probekit as pk


def test_the_weights_digest_tells_weights_apart(tmp_path):
    model = nn.Linear(2, 2)
    digests = []
    for name in "abc":
        pk.capture(model, torch.zeros(2, 2), tmp_path / name)
        digests.append(pk.info(tmp_path / name).attrs["weights"])
        if name == "b":
            model.weight.data[0, 0] += 1e-6
    assert digests[0] == digests[1] != digests[2]
