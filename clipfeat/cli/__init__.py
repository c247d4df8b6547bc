"""The commands: how they are composed, and how a user is told what went wrong."""

from clipfeat.system.faces import lazily

__getattr__, __all__ = lazily(
    __name__,
    commands=[
        "evaluate_main",
        "export_main",
        "extract_main",
        "fit_head_main",
        "fuse_main",
        "inspect_main",
        "map_main",
        "query_main",
        "report_main",
        "train_main",
        "view_main",
        "vis_main",
    ],
)
