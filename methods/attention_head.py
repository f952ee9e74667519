"""The attention block of the prompt methods with no prompts: their control.

Caption, words and frames attend to each other in a narrow space; nothing else. Prompt methods are known to gain little
over the block that carries them, so the two always stand together in a table.
"""

from __future__ import annotations

from ctvr_bench.methods.shared.attention import Attending
from ctvr_bench.methods.shared.registry import register


@register()
class AttentionHead(Attending):
    """The attention block by itself."""

    name = "attention_head"
    paper = "control of L2P, DualPrompt and CODA-Prompt (same block, no prompts)"
    source = "the definition"
    idea = "How much of a prompt method is its attention block?"
