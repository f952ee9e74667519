from pathlib import Path

import torch
from safetensors import safe_open

from ctvr_bench.features.worlds import model


def test_padding_does_not_change_what_a_caption_says() -> None:
    torch.manual_seed(0)
    tower = model.DualEncoder().eval().text
    alone, _ = model.word_numbers(["a red star"])
    beside, _ = model.word_numbers(["a red star", "the small blue square spins in the left corner"])
    with torch.inference_mode():
        assert torch.allclose(tower(alone)[0], tower(beside)[0, :4], atol=1e-5)


def test_the_order_of_words_counts() -> None:
    torch.manual_seed(0)
    tower = model.DualEncoder().eval().text
    numbers, _ = model.word_numbers(["star above ring", "ring above star"])
    with torch.inference_mode():
        first, second = tower(numbers)[:, 0]
    assert not torch.allclose(first, second, atol=1e-3)


def test_case_and_punctuation_do_not_matter_and_unknown_words_share_a_number() -> None:
    numbers, truncated = model.word_numbers(["A red star!", "a, red; star", "a zyx star", "a abc star"])
    assert numbers[0].tolist() == numbers[1].tolist()
    assert numbers[2].tolist() == numbers[3].tolist()
    assert numbers[2, 2] == model.UNKNOWN
    assert not truncated.any()


def test_long_captions_are_cut_and_said_to_be() -> None:
    numbers, truncated = model.word_numbers(["star " * 60, "star " * (model.CONTEXT - 1)])
    assert numbers.shape == (2, model.CONTEXT)
    assert truncated.tolist() == [True, False]


def test_an_empty_caption_is_only_the_sentence_token() -> None:
    numbers, _ = model.word_numbers(["", "a"])
    assert numbers.tolist() == [[model.SENTENCE, model.PADDING], [model.SENTENCE, numbers[1, 1].item()]]


def test_the_weights_in_the_repository_are_those_of_the_model_in_half_precision() -> None:
    path = Path(model.__file__).parent / "encoder.safetensors"
    state = model.DualEncoder().state_dict()
    expected = {name: tuple(value.shape) for name, value in state.items()}
    floats = [name for name, value in state.items() if value.is_floating_point()]
    with safe_open(path, "pt") as file:
        assert {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()} == expected  # noqa: SIM118
        assert {file.get_slice(name).get_dtype() for name in floats} == {"F16"}
    assert path.stat().st_size < 2_300_000  # what every clone carries
