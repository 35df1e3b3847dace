"""Everything that travels inside a saved checkpoint, in rooms.

Imports run one way: base <- norms, residuals, streams, weights <- spec <- core <- families <- composites. Only torch,
transformers and huggingface_hub are imported besides. A checkpoint's folder is flat: while saving,
`hf_addnorm/checkpoint_code.py` makes one file of each room, but for families and composites, which keep their files.
"""

from . import spec


__all__ = ["spec"]
