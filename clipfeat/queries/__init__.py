"""Where features look like a text or an example: in the frames of a run, or in fused scenes.

Not ``query``, which is a function of the package: ``clipfeat.query(…)``.
"""

from clipfeat.system.faces import lazily

__getattr__, __all__ = lazily(__name__, ask=["load_texts", "query", "text_prompts"])
