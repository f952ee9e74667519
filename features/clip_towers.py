"""CLIPs of transformers and open_clip as encoders; the only file that imports these libraries.

Axes: F frames, S side of the square input, n captions, L places of a caption's tokens, W width of the text tower,
T words of all captions together, D features.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ctvr_bench.features.dual_encoder import EncodedCaptions, Encoder, EncoderUnavailable, Frames
from ctvr_bench.features.errors import InputError

_KINDS = ("clip", "metaclip_2", "siglip")


def load_clip(name: str, device: torch.device) -> Encoder:
    """The model of that name or folder, see `features.encoders.load_encoder`; raises InputError, in one line."""
    architecture, colon, weights = name.partition(":")
    try:
        with _quiet():
            mend_torchvision()
            if colon and not Path(name).exists():
                return OpenClipEncoder(architecture, weights, device)
            return TransformersEncoder(name, device)
    except InputError:
        raise
    except ImportError as error:
        raise InputError(f"{name}: {_line(error)}; install the extra: pip install 'ctvr-bench[extract]'") from error
    except Exception as error:  # loading code of two libraries: nearly anything, over many lines
        raise EncoderUnavailable(
            f"{name}: cannot be loaded as a CLIP ({_line(error)}); name a whole model folder or a known model"
        ) from error


class _TextStates(NamedTuple):
    """What a text tower gave: pooled [n, D], token states [n, L, W], their projection W -> D, and words a caption."""

    pooled: Tensor
    tokens: Tensor
    project: Callable[[Tensor], Tensor]
    words: Sequence[int]


class _Towers:
    """What both adapters share: device, precision and the checks after loading."""

    dim: int
    image_size: int
    provenance: dict[str, Any]
    _first: int  # place of the first word among the tokens
    _room: int  # words that fit into the context

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._weights = _digest_of_weights(model.float())
        self._model: Any = model.eval().requires_grad_(False).to(device)
        self._device = device

    def prepare(self, frames_FHWC: Frames) -> Tensor:
        raise NotImplementedError

    def _frames(self, pixels: Tensor) -> Tensor:
        raise NotImplementedError

    def _captions(self, texts: list[str]) -> _TextStates:
        raise NotImplementedError

    def encode_frames(self, pixels: Tensor) -> Tensor:
        with torch.inference_mode(), self._precision():
            return self._frames(pixels.to(self._device)).float().cpu()

    def encode_captions(self, texts: list[str]) -> EncodedCaptions:
        with torch.inference_mode(), self._precision():
            states = self._captions(texts)
            all_words = torch.tensor(states.words)
            lengths = all_words.clamp(max=self._room)
            # Words are known by their place, not by their id: a word may have the id of the padding.
            place = torch.arange(states.tokens.shape[1]) - self._first
            is_word = (place >= 0) & (place < lengths[:, None])
            words = states.project(states.tokens[is_word.to(self._device)])
            return EncodedCaptions(states.pooled.float().cpu(), words.float().cpu(), lengths, all_words > self._room)

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast("cuda", torch.float16) if self._device.type == "cuda" else nullcontext()

    def _finish(self, name: str, **provenance: Any) -> None:
        """Try the towers once; set dim, image_size and provenance."""
        pixels = self.prepare(np.zeros((1, 8, 12, 3), np.uint8))
        frames, captions = self.encode_frames(pixels), self.encode_captions(["a word"])
        if frames.shape[1] != captions.pooled.shape[1] or captions.pooled.shape[1] != captions.words.shape[1]:
            raise EncoderUnavailable(
                f"{name}: frames have {frames.shape[1]} features, captions {captions.pooled.shape[1]} and words "
                f"{captions.words.shape[1]}; all must share one space. Name a CLIP"
            )
        self.dim, self.image_size = frames.shape[1], pixels.shape[-1]
        dtype = "float16 autocast" if self._device.type == "cuda" else "float32"
        self.provenance = {"model": name, "weights": self._weights, "dtype": dtype, **provenance}


class TransformersEncoder(_Towers):
    """A CLIP or SigLIP of transformers, by name or local folder."""

    def __init__(self, name: str, device: torch.device) -> None:
        transformers = _library("transformers")

        folder = Path(name)
        if not folder.is_dir():
            _require_hub(name)
        transformers.utils.logging.disable_progress_bar()
        config = transformers.AutoConfig.from_pretrained(name)
        if config.model_type not in _KINDS:
            raise EncoderUnavailable(
                f"{name}: is a {config.model_type!r} model, not a CLIP; known kinds: {', '.join(_KINDS)}"
            )
        model, report = transformers.AutoModel.from_pretrained(name, output_loading_info=True)
        if report["missing_keys"]:
            raise EncoderUnavailable(
                f"{name}: {len(report['missing_keys'])} weights are missing, {min(report['missing_keys'])} for one; "
                "copy the whole model again"
            )
        super().__init__(model, device)
        pillow = {"backend": "pil"} if int(transformers.__version__.split(".")[0]) >= 5 else {"use_fast": False}
        self._processor = transformers.AutoImageProcessor.from_pretrained(name, **pillow)
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(name)
        self._tokenizer.padding_side = "right"
        self._is_clip = config.model_type != "siglip"
        self._context = config.text_config.max_position_embeddings
        full, bare = self._tokenizer("a")["input_ids"], self._bare(["a"])[0]
        self._room = self._context - (len(full) - len(bare))
        self._first = next(i for i in range(len(full)) if full[i : i + len(bare)] == bare)
        self._finish(
            folder.resolve().name if folder.is_dir() else name,
            family=f"transformers {config.model_type}",
            revision=getattr(config, "_commit_hash", None) or "local",
            preprocessing={"class": type(self._processor).__name__}
            | {
                key: value
                for key, value in self._processor.to_dict().items()
                if key.startswith(("do_", "image_mean", "image_std", "size", "crop", "resample", "rescale"))
            },
            versions=_versions("torch", "transformers", "pillow"),
        )

    def prepare(self, frames_FHWC: Frames) -> Tensor:
        pixels: Tensor = self._processor(images=list(frames_FHWC), return_tensors="pt")["pixel_values"]
        return pixels

    def _frames(self, pixels: Tensor) -> Tensor:
        pooled = self._model.vision_model(pixel_values=pixels).pooler_output
        frames: Tensor = self._model.visual_projection(pooled) if self._is_clip else pooled
        return frames

    def _captions(self, texts: list[str]) -> _TextStates:
        # SigLIP was trained on captions padded to the full length, without a mask, and pools the last place.
        padding = {"padding": True} if self._is_clip else {"padding": "max_length"}
        batch = self._tokenizer(texts, truncation=True, max_length=self._context, return_tensors="pt", **padding)
        mask = {"attention_mask": batch["attention_mask"].to(self._device)} if self._is_clip else {}
        out = self._model.text_model(input_ids=batch["input_ids"].to(self._device), **mask)
        project = self._model.text_projection if self._is_clip else self._model.text_model.head
        pooled = project(out.pooler_output) if self._is_clip else out.pooler_output
        return _TextStates(pooled, out.last_hidden_state, project, [len(ids) for ids in self._bare(texts)])

    def _bare(self, texts: list[str]) -> list[list[int]]:
        ids: list[list[int]] = self._tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        return ids


class OpenClipEncoder(_Towers):
    """A CLIP of open_clip: an architecture it knows, with one of its weight tags or a local file."""

    def __init__(self, architecture: str, weights: str, device: torch.device) -> None:
        open_clip = _library("open_clip")

        name = f"{architecture}:{weights}"
        if architecture not in open_clip.list_models():
            raise EncoderUnavailable(
                f"{name}: open_clip knows no architecture {architecture!r}, and no such folder exists"
            )
        tag = open_clip.get_pretrained_cfg(architecture, weights)
        if not tag and not Path(weights).is_file():
            known = ", ".join(open_clip.list_pretrained_tags_by_model(architecture)) or "none"
            raise EncoderUnavailable(f"{name}: {weights!r} is neither a file nor a tag of {architecture}: {known}")
        if hub := (tag or {}).get("hf_hub"):
            _require_hub("/".join(hub.split("/")[:2]))
        self._image = _library("PIL.Image")
        self._tokenizer = open_clip.get_tokenizer(architecture)
        if type(self._tokenizer) is not open_clip.SimpleTokenizer or self._tokenizer.reduction_fn:
            raise EncoderUnavailable(
                f"{name}: only towers with CLIP's own tokenizer are read; name its transformers version"
            )
        model, _, self._transform = open_clip.create_model_and_transforms(architecture, pretrained=weights)
        super().__init__(model, device)
        self._text: Any = getattr(self._model, "text", self._model)
        if not hasattr(self._text, "ln_final") or getattr(self._text, "cls_emb", None) is not None:
            raise EncoderUnavailable(f"{name}: its text tower gives no tokens after the final norm; name another CLIP")
        self._tokens = torch.empty(0)
        self._first, self._room = 1, self._tokenizer.context_length - 2
        self._text.ln_final.register_forward_hook(self._keep_tokens)
        self._finish(
            name if tag else f"{architecture}:{Path(weights).name}",
            family="open_clip",
            revision=weights if tag else "local",
            preprocessing=dict(self._model.visual.preprocess_cfg),
            versions=_versions("torch", "open-clip-torch", "torchvision", "pillow"),
        )

    def prepare(self, frames_FHWC: Frames) -> Tensor:
        return torch.stack([self._transform(self._image.fromarray(frame)) for frame in frames_FHWC])

    def _frames(self, pixels: Tensor) -> Tensor:
        frames: Tensor = self._model.encode_image(pixels)
        return frames

    def _captions(self, texts: list[str]) -> _TextStates:
        pooled = self._model.encode_text(self._tokenizer(texts).to(self._device))
        words = [len(self._tokenizer.encode(text)) for text in texts]
        return _TextStates(pooled, self._tokens, self._project, words)

    def _project(self, tokens: Tensor) -> Tensor:
        projection = self._text.text_projection
        if isinstance(projection, nn.Parameter):
            return tokens @ projection
        projected: Tensor = tokens if projection is None else projection(tokens)
        return projected

    def _keep_tokens(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self._tokens = output


def _library(name: str) -> Any:
    """A library of the extra, imported when a model is loaded: together they take seconds."""
    return importlib.import_module(name)


def _require_hub(name: str) -> None:
    """Raise EncoderUnavailable at once, rather than after the libraries' many tries, unless `name` can be had."""
    hub = _library("huggingface_hub")

    try:
        hub.snapshot_download(name, local_files_only=True)
    except Exception:  # not kept here, or no valid name
        try:
            hub.HfApi().model_info(name, timeout=10)
        except Exception as error:
            raise EncoderUnavailable(
                f"{name}: no such folder here, and the model hub cannot be asked for it ({_line(error)}); "
                "name a local folder, or run once where there is network"
            ) from error


def mend_torchvision() -> None:
    """Let torchvision be imported where its compiled part does not fit torch (PyPI's CUDA wheel beside a CPU torch).

    Only its transforms are needed, which are plain torch; its import stops at two operators that such a pair lacks.
    """
    try:
        importlib.import_module("torchvision")
    except ImportError:
        return  # transformers does without; open_clip will say that it needs it
    except RuntimeError:
        for operator in ("nms", "qnms"):
            _MENDED.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


_MENDED = torch.library.Library("torchvision", "FRAGMENT")


@contextmanager
def _quiet() -> Iterator[None]:
    """Loading without the libraries' progress bars, notes and retries on the terminal."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Features of a model with the wrong activation would be wrong without a sign.
            warnings.filterwarnings("error", message="QuickGELU mismatch")
            yield
    finally:
        logging.disable(level)


def _digest_of_weights(model: nn.Module) -> str:
    """SHA-256 over names, shapes and float32 values of all weights, whatever files they came from."""
    sha = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        sha.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        sha.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def _versions(*packages: str) -> dict[str, str]:
    return {package: metadata.version(package) for package in packages}


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
