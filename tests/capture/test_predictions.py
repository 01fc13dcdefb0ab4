"""What a model predicts, kept as a column of its samples, however a capture is stopped, resumed or shared."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import probekit as pk
from probekit.errors import DataError, ModelError, StoreError
from tests.models import batches, mlp, samples
from tests.stores import chunks, opened

X, Y = samples()
SMALL = 2 * 20 * 303 * 4 * 2  # two batches in a chunk row


class As(nn.Module):
    """A model whose output is made of an MLP's logits by `shape`."""

    def __init__(self, shape):
        super().__init__()
        self.net, self.shape = mlp(), shape

    def forward(self, x):
        return self.shape(self.net(x))


class Answer:
    def __init__(self, logits):
        self.logits = logits


def expected():
    with torch.no_grad():
        return np.concatenate([mlp()(part).numpy().argmax(1) for part in X.split(10)])


def capture(out, data=None, model=None, **options):
    options = {"sites": ["1", "2"], "memory": SMALL, "predictions": True} | options
    return pk.capture(model or mlp(), batches(X, Y) if data is None else data, out, **options)


@pytest.mark.parametrize(
    "shape", [lambda logits: logits, Answer, lambda logits: {"loss": logits.sum(), "logits": logits}]
)
def test_the_class_of_the_largest_logit_is_kept(tmp_path, shape):
    tree = capture(tmp_path / "a", model=As(shape), sites="net.1")
    assert tree["prediction"].dims == ("sample",)
    assert tree["prediction"].dtype == np.int64
    np.testing.assert_array_equal(tree["prediction"].values, expected())
    np.testing.assert_array_equal(tree["net.1"]["prediction"].values, expected())
    np.testing.assert_array_equal(tree["label"].values, Y)
    assert len(set(expected())) == 3
    assert pk.info(tmp_path / "a").attrs["predictions"] == "kept"
    assert pk.verify(tmp_path / "a").columns == 5  # label, sample_id, prediction, the names of the classes, checksums


def test_they_need_no_labels_and_go_with_gradients(tmp_path):
    tree = capture(tmp_path / "a", (X,), batch_size=10)
    np.testing.assert_array_equal(tree["prediction"].values, expected())
    tree = capture(tmp_path / "b", (X, Y % 3), sites="1:grad", batch_size=10)
    np.testing.assert_array_equal(tree["prediction"].values, expected())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (As(lambda logits: (logits, logits)), r"For 3 samples, this model's output is in a tuple"),
        (As(lambda logits: {"scores": logits}), "in a dict"),
        (As(lambda logits: logits[:, None]), r"of shape \(3, 1, 3\)\. Capture a model that returns logits"),
        (As(lambda logits: logits[:, :1]), r"with at least two classes.* of shape \(3, 1\)"),
    ],
)
def test_what_gives_no_logits_is_refused_before_anything_is_written(tmp_path, model, message):
    with pytest.raises(ModelError, match=message):
        capture(tmp_path / "a", model=model, sites="net.1")
    with pytest.raises(DataError, match=r"columns= has 'prediction'.* Give that column another name"):
        capture(tmp_path / "a", columns={"prediction": "none"})
    assert list(tmp_path.iterdir()) == []
    tree = capture(tmp_path / "a", columns={"prediction": "none"}, predictions=False)
    assert set(tree["prediction"].values) == {"none"}


@pytest.mark.parametrize("at", [10, 50, 90])
@pytest.mark.parametrize("durable", [False, True])
def test_a_stopped_capture_resumes_to_the_same_bits(tmp_path, at, durable):
    capture(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        capture(tmp_path / "a", batches(X, Y, stop=at), durable=durable)
    np.testing.assert_array_equal(opened(tmp_path / "a")["prediction"].values, expected()[:at])
    capture(tmp_path / "a", resume=True, durable=durable)
    assert chunks(tmp_path / "a") == chunks(tmp_path / "whole")


@pytest.mark.parametrize("before", [False, True])
def test_going_on_with_another_setting_is_refused_and_named(tmp_path, before):
    was, now = ("kept", "not kept") if before else ("not kept", "kept")
    with pytest.raises(KeyboardInterrupt):
        capture(tmp_path / "a", batches(X, Y, stop=50), predictions=before)
    with pytest.raises(StoreError, match=f"predictions was '{was}' and is '{now}'; the column 'prediction' is"):
        capture(tmp_path / "a", resume=True, predictions=not before)
    capture(tmp_path / "a", resume=True, predictions=before)
    for append, data in (("samples", batches(X, Y)), ("sites", batches(X, Y))):
        with pytest.raises(StoreError, match=f"predictions was '{was}' and is '{now}'"):
            capture(
                tmp_path / "a",
                data,
                sites=["1", "2"] if append == "samples" else "0",
                append=append,
                predictions=not before,
            )


def test_samples_and_sites_are_added(tmp_path):
    whole = capture(tmp_path / "whole")
    capture(tmp_path / "a", (X[:50], Y[:50]), batch_size=10, sites="1")
    capture(tmp_path / "a", batches(X[50:], Y[50:]), append="samples", sites="1")
    np.testing.assert_array_equal(pk.open(tmp_path / "a")["prediction"].values, expected())
    capture(tmp_path / "b", sites="1")
    tree = capture(tmp_path / "b", append="sites", sites="2")
    np.testing.assert_array_equal(tree["2"]["activation"].values, whole["2"]["activation"].values)
    np.testing.assert_array_equal(tree["2"]["prediction"].values, expected())


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(50, 5), nn.Linear(5, 3)

    def forward(self, input_ids, attention_mask):
        return self.head(self.embed(input_ids).mean(1))


IDS = torch.randint(0, 50, (95, 7), generator=torch.Generator().manual_seed(0))
MASK = torch.arange(7) < torch.randint(1, 8, (95, 1), generator=torch.Generator().manual_seed(1))


def texts(stop=None):
    for first in range(0, 95, 10):
        if first == stop:
            raise KeyboardInterrupt
        rows = slice(first, first + 10)
        yield {"input_ids": IDS[rows], "attention_mask": MASK[rows], "label": Y[rows]}


@pytest.mark.parametrize("memory", ["256MiB", 1200])  # one chunk; chunks far shorter than a batch's tokens
def test_each_token_has_the_prediction_of_its_sample(tmp_path, memory):
    torch.manual_seed(0)
    model = Encoder()
    options = {"sites": "embed", "reduce": "tokens", "memory": memory}
    whole = capture(tmp_path / "whole", texts(), model, **options)
    with torch.no_grad():
        predicted = np.concatenate([model(part, None).numpy().argmax(1) for part in IDS.split(10)])
    np.testing.assert_array_equal(whole["prediction"].values, predicted)
    np.testing.assert_array_equal(whole["embed"]["prediction"].values, np.repeat(predicted, MASK.sum(1)))
    np.testing.assert_array_equal(whole["embed"]["sample_id"].values, np.repeat(np.arange(95), MASK.sum(1)))
    with pytest.raises(KeyboardInterrupt):
        capture(tmp_path / "a", texts(50), model, **options)
    assert pk.verify(tmp_path / "a")
    capture(tmp_path / "a", texts(), model, resume=True, **options)
    assert chunks(tmp_path / "a") == chunks(tmp_path / "whole")


def test_a_damaged_column_of_them_is_found_repaired_and_made_again(tmp_path):
    capture(tmp_path / "a")
    before = chunks(tmp_path / "a")
    (tmp_path / "a/prediction/c/1").write_bytes(bytes(324))
    [damage] = pk.verify(tmp_path / "a").damages
    assert (damage.name, damage.start, damage.stop, damage.what) == ("prediction", 40, 80, "wrong checksum")
    assert pk.verify(tmp_path / "a", repair=True).kept == 40
    capture(tmp_path / "a", resume=True)
    assert chunks(tmp_path / "a") == before


def test_chunk_rows_of_several_processes_hold_them_too(tmp_path):
    data = TensorDataset(X, Y)
    loader = DataLoader(data, batch_size=10, sampler=pk.ChunkSampler(data, chunk_rows=20, rank=0, world=1))
    tree = capture(tmp_path / "a", loader)
    np.testing.assert_array_equal(tree["prediction"].values, expected())
