"""Fine-tuning's loss and what is compared by each scoring, against plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from ctvr_bench.bench.run.training import generator_for
from ctvr_bench.features.streams import TextBatch, VideoBatch
from ctvr_bench.methods.shared.base import MethodConfig
from ctvr_bench.methods.shared.heads import AdaptedVideo
from ctvr_bench.methods.shared.scoring import embed_text, embed_video, pair_similarity
from tests.learning import begin, make, train_pairs


def naive_contrastive(sim_NN: Tensor, scale: float, video_N: list[int]) -> float:
    """Both directions summed; other captions of the same video are no negatives."""
    total, size = 0.0, len(sim_NN)
    for matrix in (sim_NN, sim_NN.T):
        for row in range(size):
            rivals = [c for c in range(size) if c == row or video_N[c] != video_N[row]]
            below = sum(math.exp(scale * float(matrix[row, c])) for c in rivals)
            total -= (scale * float(matrix[row, row]) - math.log(below)) / size
    return total


@pytest.mark.parametrize("scoring", ["cosine", "word_frame", "fused"])
def test_the_loss_is_the_contrast_of_both_directions_without_captions_of_the_same_video(scoring: str) -> None:
    method = make("finetune", scoring=scoring)
    begin(method, 0)
    batch = method.prepare(train_pairs(0).pairs(torch.arange(12)), generator_for(0, "draws"))
    videos = batch.video_N.tolist()
    assert len(set(videos)) < len(videos)
    with torch.no_grad():
        text, video = method.encode_text(batch.text, 0), method.encode_video(batch.video)
        sim_NN = pair_similarity(text, video, method.config).double()
    (loss,) = method.loss(batch).values()
    assert float(loss.detach()) == pytest.approx(naive_contrastive(sim_NN, method.config.scale, videos), rel=1e-4)


def test_each_side_is_dropped_out_with_a_mask_of_its_own() -> None:
    method = make("finetune", dropout=0.5)
    begin(method, 0)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator_for(0, "weights"))
    batch = method.prepare(train_pairs(0).pairs(torch.arange(12)), generator_for(0, "draws"))
    keep = [batch.draws[f"keep_{side}_NR"] for side in ("text", "video")]
    assert not torch.equal(*keep)
    assert set(keep[0].unique().tolist()) == {0.0, 2.0}
    with torch.no_grad():
        text, video = method.embed_batch(batch)
        for side, found in (("text", text.pooled_ND), ("video", video.pooled_MD)):
            other = {"text": "video", "video": "text"}[side]
            mask = {f"keep_{other}_NR": torch.ones_like(keep[0])}
            alike = method.embed_batch(batch.with_draws(**mask))
            assert torch.equal((alike[0].pooled_ND if side == "text" else alike[1].pooled_MD), found)


@pytest.mark.parametrize("scoring", ["cosine", "word_frame", "fused"])
def test_what_is_compared_is_of_unit_length_and_pooled_as_the_scoring_says(scoring: str) -> None:
    config = MethodConfig(scoring=scoring)
    generator = torch.Generator().manual_seed(0)
    frames_MFD, words_NLD = (torch.randn(3, 4, 8, generator=generator) * 5 for _ in range(2))
    frames_MFD[:, 1] *= 7  # a long frame counts more in the mean of raw frames
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0]]).bool()
    video = embed_video(AdaptedVideo(frames_MFD, mask), config)
    text = embed_text(TextBatch(words_NLD[:, 0], words_NLD, mask), config)
    for row in range(3):
        real_FD = frames_MFD[row][mask[row]]
        mean_D = (real_FD if scoring == "cosine" else normalize(real_FD, dim=1)).mean(0)
        torch.testing.assert_close(video.pooled_MD[row], normalize(mean_D, dim=0))
        torch.testing.assert_close(text.pooled_ND[row], normalize(words_NLD[row, 0], dim=0))
        if scoring != "cosine":
            assert video.frames_MFD is not None
            assert text.words_NLD is not None
            torch.testing.assert_close(video.frames_MFD[row][mask[row]], normalize(real_FD, dim=1))
            torch.testing.assert_close(text.words_NLD[row][mask[row]], normalize(words_NLD[row][mask[row]], dim=1))
            assert not video.frames_MFD[row][~mask[row]].any()
            assert not text.words_NLD[row][~mask[row]].any()


@pytest.mark.parametrize("scoring", ["cosine", "word_frame"])
def test_zero_shot_compares_the_frozen_features_of_what_is_there(scoring: str) -> None:
    method = make("zero_shot", scoring=scoring)
    generator = torch.Generator().manual_seed(1)
    words_NLD, frames_MFD = torch.randn(2, 3, 8, generator=generator), torch.randn(2, 4, 8, generator=generator)
    word_mask = torch.tensor([[1, 1, 1], [1, 0, 0]]).bool()
    frame_mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]]).bool()
    text = method.encode_text(TextBatch(words_NLD[:, 1], words_NLD, word_mask), 0)
    video = method.encode_video(VideoBatch(frames_MFD, frame_mask))
    found_NM = pair_similarity(text, video, method.config)
    for caption in range(2):
        for item in range(2):
            real_FD, real_LD = frames_MFD[item][frame_mask[item]], words_NLD[caption][word_mask[caption]]
            cosine_LF = normalize(real_LD, dim=1) @ normalize(real_FD, dim=1).T
            expected = (cosine_LF.max(1).values.mean() + cosine_LF.max(0).values.mean()) / 2
            if scoring == "cosine":
                expected = normalize(words_NLD[caption, 1], dim=0) @ normalize(real_FD.mean(0), dim=0)
            assert float(found_NM[caption, item]) == pytest.approx(float(expected), abs=1e-5)
