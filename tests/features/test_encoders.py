"""Encoders against the libraries' own outputs, on CLIPs of random weights; and models that are none."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("av", reason="needs the extra 'extract'")
pytest.importorskip("transformers", reason="needs the extra 'extract'")

from ctvr_bench.features import encoders
from ctvr_bench.features.dual_encoder import Encoder, EncoderUnavailable
from ctvr_bench.features.encoders import load_encoder
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.video import Sampling
from tests import made_clips, tiny_clips
from tests.frames import read_frames

CAPTIONS = ["a ball", "!", "! a red ball ! !", "ünï ball", "left " * 20]
WORDS = {"transformers": [3, 1, 9, 7, 14], "siglip": [2, 1, 6, 2, 7], "open_clip": [2, 1, 6, 5, 14]}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    base = tmp_path_factory.mktemp("models")
    return {
        "transformers": str(tiny_clips.save_transformers_clip(base / "clip")),
        "siglip": str(tiny_clips.save_siglip(base / "siglip")),
    }


@pytest.fixture(scope="module")
def open_clip_name(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_clips.save_open_clip(tmp_path_factory.mktemp("open_clip"))


@pytest.fixture(scope="module", params=["transformers", "siglip", "open_clip"])
def case(request: pytest.FixtureRequest) -> tuple[str, Encoder, Any]:
    """Which library, our encoder, and the library's own outputs for captions and frames."""
    if request.param == "open_clip":
        name = request.getfixturevalue("open_clip_name")
        return request.param, load_encoder(name, "cpu"), own_open_clip(name)
    folder = request.getfixturevalue("folders")[request.param]
    return request.param, load_encoder(folder, "cpu"), own_transformers(folder)


def own_transformers(folder: str) -> Any:
    import transformers

    model = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    processor = transformers.AutoProcessor.from_pretrained(folder, backend="pil").image_processor
    siglip = model.config.model_type == "siglip"

    def frames(frames_FHWC: np.ndarray) -> torch.Tensor:
        found = model.get_image_features(**processor(images=list(frames_FHWC), return_tensors="pt"))
        return getattr(found, "pooler_output", found)

    def caption(text: str) -> tuple[torch.Tensor, torch.Tensor]:
        length = model.config.text_config.max_position_embeddings
        padding = "max_length" if siglip else False
        inputs = tokenizer([text], truncation=True, max_length=length, padding=padding, return_tensors="pt")
        if siglip:
            inputs = {"input_ids": inputs["input_ids"]}
        pooled = model.get_text_features(**inputs)
        states = model.text_model(**inputs).last_hidden_state
        project = model.text_model.head if siglip else model.text_projection
        return getattr(pooled, "pooler_output", pooled)[0], project(states)[0]

    return frames, caption, 0 if siglip else 1


def own_open_clip(name: str) -> Any:
    import open_clip
    from PIL import Image

    architecture, _, weights = name.partition(":")
    model, _, transform = open_clip.create_model_and_transforms(architecture, pretrained=weights)
    tokenizer = open_clip.get_tokenizer(architecture)
    model.eval()

    def frames(frames_FHWC: np.ndarray) -> torch.Tensor:
        return model.encode_image(torch.stack([transform(Image.fromarray(frame)) for frame in frames_FHWC]))

    def caption(text: str) -> tuple[torch.Tensor, torch.Tensor]:
        ids = tokenizer([text])
        states = model.transformer(model.token_embedding(ids) + model.positional_embedding, attn_mask=model.attn_mask)
        return model.encode_text(ids)[0], (model.ln_final(states) @ model.text_projection)[0]

    return frames, caption, 1


@torch.no_grad()
def test_captions_equal_the_librarys_own_pooled_and_token_outputs(case: tuple[str, Encoder, Any]) -> None:
    kind, encoder, (_, own, first) = case
    found = encoder.encode_captions(CAPTIONS)
    assert found.lengths.tolist() == WORDS[kind]
    assert found.truncated.tolist() == [False, False, False, False, True]
    word = 0
    for row, (text, length) in enumerate(zip(CAPTIONS, WORDS[kind], strict=True)):
        pooled, tokens = own(text)
        torch.testing.assert_close(found.pooled[row], pooled, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            found.words[word : word + length], tokens[first : first + length], atol=1e-5, rtol=1e-5
        )
        word += length
    assert found.words.shape == (word, encoder.dim)
    assert found.words.dtype == found.pooled.dtype == torch.float32


@torch.no_grad()
@pytest.mark.parametrize("clip", made_clips.CLIPS)
def test_frames_of_encoded_clips_equal_the_librarys_own_outputs(
    case: tuple[str, Encoder, Any], tmp_path: Path, clip: str
) -> None:
    _, encoder, (own, _, _) = case
    frames, _ = read_frames(made_clips.write_clip(tmp_path, clip), Sampling.parse("3"))
    found = encoder.encode_frames(encoder.prepare(frames))
    torch.testing.assert_close(found, own(frames), atol=1e-5, rtol=1e-5)
    assert found.shape == (3, encoder.dim)
    assert found.dtype == torch.float32


def test_a_caption_has_the_same_words_beside_any_other_captions(case: tuple[str, Encoder, Any]) -> None:
    _, encoder, _ = case
    alone, beside = encoder.encode_captions(CAPTIONS[:1]), encoder.encode_captions(CAPTIONS)
    torch.testing.assert_close(beside.words[: len(alone.words)], alone.words, atol=1e-5, rtol=1e-5)


def test_a_word_with_the_id_of_the_padding_is_a_word(tmp_path: Path) -> None:
    encoder = load_encoder(str(tiny_clips.save_transformers_clip(tmp_path / "clip", pad_token="!")), "cpu")
    found = encoder.encode_captions(["! !", "a ball a ball"])
    assert found.lengths.tolist() == [2, 6]


def test_provenance_names_the_weights_not_the_folder(folders: dict[str, str], tmp_path: Path) -> None:
    first = load_encoder(folders["transformers"], "cpu").provenance
    moved = load_encoder(str(tiny_clips.save_transformers_clip(tmp_path / "clip")), "cpu").provenance
    other = load_encoder(str(tiny_clips.save_transformers_clip(tmp_path / "other", seed=1)), "cpu").provenance
    assert first == moved
    assert first["weights"] != other["weights"]
    assert {"family", "model", "revision", "weights", "dtype", "preprocessing", "versions"} == set(first)
    assert json.loads(json.dumps(first))["preprocessing"]["crop_size"] == {"height": 32, "width": 32}


def refusal(name: str, device: str = "cpu") -> str:
    with pytest.raises(InputError) as caught:
        load_encoder(name, device)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_that_is_not_a_clip_is_refused_in_one_line(folders: dict[str, str], tmp_path: Path) -> None:
    import transformers

    (tmp_path / "nothing").mkdir()
    assert "cannot be loaded as a CLIP" in refusal(str(tmp_path / "nothing"))
    tower = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    transformers.BertConfig(**tower).save_pretrained(tmp_path / "bert")
    assert "is a 'bert' model, not a CLIP" in refusal(str(tmp_path / "bert"))
    tiny_clips.save_transformers_clip(tmp_path / "part")
    weights = load_file(tmp_path / "part" / "model.safetensors")
    del weights["text_projection.weight"]
    save_file(weights, tmp_path / "part" / "model.safetensors", {"format": "pt"})
    assert "1 weights are missing, text_projection.weight" in refusal(str(tmp_path / "part"))
    tiny_clips.save_transformers_clip(tmp_path / "bare")
    (tmp_path / "bare" / "preprocessor_config.json").unlink()
    assert "cannot be loaded as a CLIP" in refusal(str(tmp_path / "bare"))
    (tmp_path / "bare" / "config.json").write_text("{")
    assert "cannot be loaded as a CLIP" in refusal(str(tmp_path / "bare"))


def test_a_model_to_be_fetched_without_network_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def no_network(*args: object, **kwargs: object) -> None:
        raise OSError("[Errno -2] Name or service not known\nand more lines")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", no_network)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", no_network)
    message = refusal("some-one/some-clip")
    assert message.startswith("some-one/some-clip: no such folder here, and the model hub cannot be asked for it")
    with pytest.raises(EncoderUnavailable):
        load_encoder("some-one/some-clip")


def test_open_clip_names_that_do_not_exist_are_refused(open_clip_name: str, tmp_path: Path) -> None:
    assert "knows no architecture 'Vit'" in refusal("Vit:nothing")
    assert "neither a file nor a tag of tiny-test" in refusal("tiny-test:nothing")
    (tmp_path / "broken.pt").write_bytes(b"no weights")
    assert "cannot be loaded as a CLIP" in refusal(f"tiny-test:{tmp_path / 'broken.pt'}")


def test_a_device_that_is_not_there_is_refused() -> None:
    assert "must be auto, cpu or cuda" in refusal("anything", "tape")
    if not torch.cuda.is_available():
        assert "sees no GPU" in refusal("anything", "cuda")


def test_an_encoder_of_the_suite_is_imported_when_its_name_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("an_encoder")
    module.load = lambda device: ("loaded", device)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "an_encoder", module)
    monkeypatch.setitem(encoders.NAMED, "named", ("an_encoder", "load"))
    assert load_encoder("named", "cpu") == ("loaded", "cpu")  # type: ignore[comparison-overlap]
