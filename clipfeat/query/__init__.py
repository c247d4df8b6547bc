"""Where features look like a text or an example: in the frames of a run, or in fused scenes."""

from clipfeat.query.ask import Texts, load_texts, query, text_prompts

__all__ = ["Texts", "load_texts", "query", "text_prompts"]
