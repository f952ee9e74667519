"""CLIPs of random weights, small enough to save and load in a test: both libraries, a few kilobytes each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

_SIDE = 32
TINY = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": _SIDE,
    "patch_size": 16,
}


def library(name: str) -> Any:
    """transformers or open_clip; skips the calling test where it is not installed. See `mend_torchvision`."""
    from ctvr_bench.features.clip_towers import mend_torchvision

    mend_torchvision()
    return pytest.importorskip(name, reason="needs the extra 'extract'")


def save_transformers_clip(
    folder: Path, *, seed: int = 0, pad_token: str = "<|endoftext|>", vision: dict[str, int] = TINY, dim: int = 12
) -> Path:
    """A CLIP of transformers with its processor and a tokenizer that spells words; `pad_token` may be "!" (id 0).

    vision: the image tower's sizes. dim: of the features.
    """
    transformers = library("transformers")

    tokenizer = transformers.CLIPTokenizer(**_tokenizer_files(folder), pad_token=pad_token, model_max_length=16)
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = {**tower, **ids, "vocab_size": len(tokenizer), "max_position_embeddings": 16}
    torch.manual_seed(seed)
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=dim)
    _save(transformers.CLIPModel(config), folder)
    tokenizer.save_pretrained(folder)
    side = vision["image_size"]
    _processor("CLIPImageProcessor", size={"shortest_edge": side}, crop_size=side).save_pretrained(folder)
    return folder


def save_siglip(folder: Path, *, seed: int = 0) -> Path:
    """A SigLIP of transformers; its tokenizer ends captions with '</s>' and has no start token."""
    transformers = library("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["<pad>", "</s>", "<unk>", "a", "red", "ball", "rolls", "left", "!"]
    core = Tokenizer(models.WordLevel({word: row for row, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=8
    )
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(seed)
    config = transformers.SiglipConfig(
        text_config={**tower, "vocab_size": len(words), "max_position_embeddings": 8, "projection_size": 16},
        vision_config={**tower, "image_size": _SIDE, "patch_size": 16},
    )
    _save(transformers.SiglipModel(config), folder)
    tokenizer.save_pretrained(folder)
    _processor("SiglipImageProcessor", size={"height": _SIDE, "width": _SIDE}).save_pretrained(folder)
    return folder


def save_open_clip(folder: Path, *, seed: int = 0) -> str:
    """A CLIP of open_clip, registered as architecture 'tiny-test', its weights in a file; returns its name to load."""
    open_clip = library("open_clip")

    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "embed_dim": 12,
        "vision_cfg": {"image_size": _SIDE, "layers": 2, "width": 64, "patch_size": 16},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
    }
    (folder / "tiny-test.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / "tiny-test.json")
    torch.manual_seed(seed)
    model = open_clip.create_model("tiny-test")
    _spread(model)
    torch.save(model.state_dict(), folder / "weights.pt")
    return f"tiny-test:{folder / 'weights.pt'}"


def _save(model: Any, folder: Path) -> None:
    _spread(model)
    model.save_pretrained(folder)


def _spread(model: torch.nn.Module) -> None:
    """Weights large enough that different inputs give clearly different features."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)


def _processor(kind: str, **options: Any) -> Any:
    transformers = library("transformers")

    return getattr(transformers, f"{kind}Pil", getattr(transformers, kind))(**options)


def _tokenizer_files(folder: Path) -> dict[str, Any]:
    """CLIP's byte alphabet ('!' has id 0), two merges, and the two special tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = [chr(256 + place) for place in range(256 - len(printable))]
    letters = [chr(code) for code in printable] + rest
    tokens = [*letters, *(letter + "</w>" for letter in letters), "ba", "ll</w>", "<|startoftext|>", "<|endoftext|>"]
    vocab = {token: row for row, token in enumerate(tokens)}
    return {"vocab": vocab, "merges": [("b", "a"), ("l", "l</w>")]}
