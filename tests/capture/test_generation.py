"""What a language model does while it generates: against one forward pass over prompt and answer, without a cache."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn

import probekit as pk
from probekit._forward.generated import Generated
from probekit.errors import DataError, ModelError, ProbekitError, SiteError, StoreError
from tests.processes import run
from tests.stores import contents, opened

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

PROMPTS = [[1, 2, 3], [4, 5], [6, 7, 8, 9, 10], [11], [12, 13, 14], [3, 3], [20, 21]]
SIZES = {"vocab_size": 50, "bos_token_id": 1, "eos_token_id": 0, "pad_token_id": None}


def gpt2(**options: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_layer=2, n_embd=32, n_head=2, **SIZES | options)
    return transformers.GPT2LMHeadModel(config)


def llama() -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **heads, **SIZES))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    tokenizers = pytest.importorskip("tokenizers")
    words = {"</s>": 0, "<s>": 1} | {f"w{n}": n for n in range(2, 50)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<s>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", bos_token="<s>")


def answers(model: Any, prompts: Iterable[list[int]], **options: Any) -> list[list[int]]:
    """What the model generates for each prompt by itself."""
    made = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        sequence = model.eval().generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **options)
        made.append(sequence[0, len(prompt) :].tolist())
    return made


def by_hand(model: Any, module: str, prompts: list[list[int]], answered: list[list[int]]) -> list[np.ndarray]:
    """What a module gives for all but the last token, in one forward pass for each prompt and answer."""
    found: list[np.ndarray] = []

    def hook(module: nn.Module, args: Any, output: Any) -> None:
        found.append((output if isinstance(output, Tensor) else output[0])[0].detach().numpy())

    with torch.no_grad():
        for prompt, answer in zip(prompts, answered, strict=True):
            handle = model.eval().get_submodule(module).register_forward_hook(hook)
            model(torch.tensor([[*prompt, *answer[:-1]]]), use_cache=False)
            handle.remove()
    return found


@pytest.mark.parametrize(
    ("make", "sites"),
    [
        (gpt2, ["transformer.h.0.mlp", "transformer.h.1", "lm_head"]),
        (llama, ["model.layers.0.mlp.act_fn", "model.layers.1", "lm_head"]),
    ],
)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_rows_equal_one_forward_pass(tmp_path: Any, make: Any, sites: list[str], batch_size: int) -> None:
    model = make()
    tree = pk.generate(model, PROMPTS, tmp_path / "a", max_new_tokens=6, sites=sites, batch_size=batch_size)
    answered = answers(model, PROMPTS, max_new_tokens=6, do_sample=False)
    assert min(map(len, answered)) >= 1
    rows = [len(prompt) + len(answer) - 1 for prompt, answer in zip(PROMPTS, answered, strict=True)]
    np.testing.assert_array_equal(tree["answer_tokens"], [*map(len, answered)])
    np.testing.assert_array_equal(tree["prompt_tokens"], [*map(len, PROMPTS)])
    for site in sites:
        found = tree[site]
        assert found["activation"].dims == ("row", "node")
        np.testing.assert_array_equal(found["sample_id"], np.repeat(np.arange(len(PROMPTS)), rows))
        np.testing.assert_array_equal(found["position"], np.concatenate([np.arange(each) for each in rows]))
        expected = np.concatenate(by_hand(model, site, PROMPTS, answered))
        np.testing.assert_allclose(found["activation"], expected, rtol=1e-4, atol=1e-5)


def ends_early() -> Any:
    """A model whose answers to the prompts end after different numbers of tokens."""
    model = gpt2()
    for end in range(50):
        model.generation_config.eos_token_id = end
        lengths = {*map(len, answers(model, PROMPTS[:3], max_new_tokens=8, do_sample=False))}
        if len(lengths) > 1 and min(lengths) < 8:
            return model
    raise AssertionError("no token ends some of the answers")


def test_an_answer_that_ends_early_has_no_padding(tmp_path: Any) -> None:
    model = ends_early()
    tree = pk.generate(model, PROMPTS, tmp_path / "a", max_new_tokens=8, sites="transformer.h.1", batch_size=7)
    answered = answers(model, PROMPTS, max_new_tokens=8, do_sample=False)
    assert len({*map(len, answered)}) > 1
    np.testing.assert_array_equal(tree["answer_tokens"], [*map(len, answered)])
    expected = np.concatenate(by_hand(model, "transformer.h.1", PROMPTS, answered))
    np.testing.assert_allclose(tree["transformer.h.1"]["activation"], expected, rtol=1e-4, atol=1e-5)


def test_the_tokens_that_have_activations() -> None:
    mask = torch.tensor([[0, 1, 1], [1, 1, 1]])
    token_ids = torch.tensor([[9, 2, 3, 4, 5, 0], [6, 7, 8, 0, 9, 9]])
    generated = Generated.of(token_ids, mask, (0,))
    assert generated.answers == [[4, 5, 0], [0]]
    known = generated.tokens
    np.testing.assert_array_equal(known.counts, [4, 3])
    np.testing.assert_array_equal(known.columns["token_id"], [2, 3, 4, 5, 6, 7, 8])
    np.testing.assert_array_equal(known.columns["generated"], [False, False, True, True, False, False, False])


def test_texts_give_texts(tmp_path: Any, tokenizer: Any) -> None:
    model, texts = gpt2(), ["w4 w5 w6", "w7", "w8 w9"]
    options = {"max_new_tokens": 3, "sites": "transformer.h.0", "batch_size": 2, "labels": [0, 1, 1]}
    tree = pk.generate(model, texts, tmp_path / "a", tokenizer=tokenizer, **options)
    assert tree["prompt"].values.tolist() == texts
    answered = answers(model, [[4, 5, 6], [7], [8, 9]], max_new_tokens=3, do_sample=False)
    assert tree["answer"].values.tolist() == [tokenizer.decode(each, skip_special_tokens=True) for each in answered]
    np.testing.assert_array_equal(tree["label"], [0, 1, 1])
    rows = tree["transformer.h.0"].to_dataset()
    whole = [[4, 5, 6], [7], [8, 9]]
    fed = [prompt + answer[:-1] for prompt, answer in zip(whole, answered, strict=True)]  # the last is never given
    assert rows["token_id"].values.tolist() == list(chain(*fed))
    assert rows["token"].values.tolist() == tokenizer.convert_ids_to_tokens(list(chain(*fed)))
    told = [[False] * len(prompt) + [True] * (len(answer) - 1) for prompt, answer in zip(whole, answered, strict=True)]
    assert rows["generated"].values.tolist() == list(chain(*told))
    assert "prompt" not in rows  # a text a sample, not a token
    same = pk.generate(model, tokenizer(texts, padding=False), tmp_path / "b", tokenizer=tokenizer, **options)
    xr.testing.assert_identical(same["transformer.h.0"].to_dataset(), tree["transformer.h.0"].to_dataset())


def test_prompts_of_one_length_may_be_a_tensor(tmp_path: Any) -> None:
    options = {"max_new_tokens": 3, "sites": "transformer.h.0", "reduce": [0, 5]}
    rows = [[1, 2], [3, 4]]
    for name, given in {"lists": rows, "tensor": torch.tensor(rows), "array": np.array(rows)}.items():
        pk.generate(gpt2(), given, tmp_path / name, **options)
        assert contents(tmp_path / name) == contents(tmp_path / "lists")
    assert pk.open(tmp_path / "lists")["transformer.h.0"]["activation"].shape == (2 * 4, 2)


def stop_after(number: int) -> Any:
    def progress(items: Any, /, description: str, total: int | None = None) -> Iterator[Any]:
        yield from itertools.islice(items, number)
        raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("sampled", [{}, {"do_sample": True, "temperature": 1.5, "top_p": 0.9}])
def test_a_resumed_store_is_the_same(tmp_path: Any, sampled: dict[str, Any]) -> None:
    options = {"max_new_tokens": 5, "sites": ["transformer.h.1"], "batch_size": 2, **sampled}
    whole = pk.generate(gpt2(), PROMPTS, tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        pk.generate(gpt2(), PROMPTS, tmp_path / "stopped", progress=stop_after(2), **options)
    assert opened(tmp_path / "stopped").sizes["sample"] == 4
    torch.rand(7)
    resumed = pk.generate(gpt2(), PROMPTS, tmp_path / "stopped", resume=True, **options)
    for site in ("/", "transformer.h.1"):
        xr.testing.assert_equal(resumed[site].to_dataset(), whole[site].to_dataset())
    with pytest.raises(StoreError, match="the settings of generate was"):
        pk.generate(gpt2(), PROMPTS, tmp_path / "stopped", resume=True, **options | {"max_new_tokens": 4})


def test_other_prompts_do_not_continue_a_store(tmp_path: Any) -> None:
    options = {"max_new_tokens": 2, "sites": "transformer.h.1", "batch_size": 2}
    with pytest.raises(KeyboardInterrupt):
        pk.generate(gpt2(), PROMPTS, tmp_path / "a", progress=stop_after(2), **options)
    others = [*PROMPTS[:2], [6, 7, 8, 9, 11], *PROMPTS[3:]]  # of the same lengths
    with pytest.raises(DataError, match="the inputs of samples 2 to 3 have another checksum"):
        pk.generate(gpt2(), others, tmp_path / "a", resume=True, **options)


def test_what_is_drawn_is_repeated_and_leaves_the_generator_alone(tmp_path: Any) -> None:
    options = {"max_new_tokens": 8, "sites": "transformer.h.0", "do_sample": True, "temperature": 2.0}
    state = torch.get_rng_state()
    for name in "ab":
        pk.generate(gpt2(), PROMPTS, tmp_path / name, **options)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    model = gpt2()
    torch.set_rng_state(state)
    pk.generate(model, PROMPTS, tmp_path / "c", **options)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"num_beams": 2},
            ModelError,
            "num_beams of GPT2LMHeadModel.generate is 2; .* one answer",
        ),
        ({"use_cache": False}, ModelError, "use_cache of GPT2LMHeadModel.generate is False"),
        ({"stop_strings": ["x"]}, ModelError, "stop_strings .* Give batch_size=1"),
        ({"tempratur": 2}, ModelError, "tempratur"),
        ({"max_new_tokens": 0}, ModelError, "max_new_tokens is 0"),
        ({"prompts": "w1"}, DataError, "prompts are a str"),
        ({"prompts": ["w1"]}, DataError, "prompts are texts. Give the model's tokenizer"),
        ({"prompts": []}, DataError, "There are no prompts"),
        ({"prompts": [[1], []]}, DataError, "Prompt 1 has no token"),
        ({"prompts": [[0.5]]}, DataError, "Prompt 0 is an array of shape"),
        ({"prompts": [[1], [70]]}, DataError, "Prompt 1 has the token id 70, .* up to 49"),
        ({"labels": [0]}, DataError, "labels"),
        ({"columns": {"answer": "x"}}, DataError, "columns= has 'answer'"),
        ({"reduce": "mean"}, SiteError, "'mean' follows 'tokens'"),
        ({"reduce": {"**": [1]}}, SiteError, "reduce is a dict"),
        ({"sites": "transformer.h.0:grad"}, SiteError, "transformer.h.0:grad is a gradient"),
        ({"sites": "nowhere"}, SiteError, "No site matches 'nowhere'"),
        ({"model": nn.Linear(2, 2)}, ModelError, "Linear isn't a causal language model"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    tmp_path: Any, change: dict[str, Any], error: type[ProbekitError], message: str
) -> None:
    given = {"model": gpt2(), "prompts": PROMPTS, "max_new_tokens": 2, "sites": "transformer.h.0"} | change
    with pytest.raises(error, match=message):
        pk.generate(given.pop("model"), given.pop("prompts"), tmp_path / "a", **given)
    assert not (tmp_path / "a").exists()


def killed(out: str) -> None:
    """Begins to answer prompts one by one, and is killed before the eleventh."""

    def progress(items: Any, /, description: str, total: int | None = None) -> Iterator[Any]:
        yield from itertools.islice(items, 10)
        deadline = time.monotonic() + 60
        while opened(out).sizes["sample"] < 8 and time.monotonic() < deadline:  # it is written beside the model
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)

    pk.generate(gpt2(), MANY, out, progress=progress, **ONE_BY_ONE)


MANY = [[1 + n, 2, 3][: 1 + n % 3] for n in range(20)]
ONE_BY_ONE = {"max_new_tokens": 3, "sites": "transformer.h.1", "batch_size": 1, "do_sample": True}


def test_a_killed_process_is_continued_to_the_same_store(tmp_path: Any) -> None:
    assert run(killed, str(tmp_path / "a")).status == -signal.SIGKILL
    assert opened(tmp_path / "a").sizes["sample"] == 8
    resumed = pk.generate(gpt2(), MANY, tmp_path / "a", resume=True, **ONE_BY_ONE)
    whole = pk.generate(gpt2(), MANY, tmp_path / "whole", **ONE_BY_ONE)
    for site in ("/", "transformer.h.1"):
        xr.testing.assert_equal(resumed[site].to_dataset(), whole[site].to_dataset())


class PastTheEnd(transformers.GPT2LMHeadModel):
    """Runs once more than it needs to, as on a GPU, where stopping is decided late."""

    def generate(self, **given: Any) -> Tensor:
        made = super().generate(**given)
        self(input_ids=made[:, -1:])
        return made


class Twice(transformers.GPT2LMHeadModel):
    """Runs over the prompts twice."""

    def generate(self, **given: Any) -> Tensor:
        self(input_ids=given["input_ids"])
        return super().generate(**given)


def test_a_pass_past_the_end_gives_no_row(tmp_path: Any) -> None:
    options = {"max_new_tokens": 3, "sites": "transformer.h.1"}
    for name, model in {"plain": gpt2(), "past": PastTheEnd(gpt2().config)}.items():
        model.load_state_dict(gpt2().state_dict())
        pk.generate(model, PROMPTS, tmp_path / name, **options)
    past, plain = (pk.open(tmp_path / name)["transformer.h.1"].to_dataset() for name in ("past", "plain"))
    xr.testing.assert_equal(past, plain)


def test_passes_over_other_tokens_are_refused(tmp_path: Any) -> None:
    with pytest.raises(ModelError, match=r"Twice\.generate ran the model on other tokens"):
        pk.generate(Twice(gpt2().config), PROMPTS, tmp_path / "a", max_new_tokens=3, sites="transformer.h.1")
    assert not (tmp_path / "a").exists()
