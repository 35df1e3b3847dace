"""Every pipeline of Transformers that a family can be in: what it is given, and a run of it.

A process in which hf_addnorm cannot be imported reads this file too, so it imports nothing of the package.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


IMAGE_TASKS = ("image-classification", "image-feature-extraction", "object-detection", "image-segmentation")
SOUND_TASKS = ("audio-classification", "automatic-speech-recognition")


def given(task: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a pipeline of this task is called with: arguments, and arguments by name."""
    if task in IMAGE_TASKS:
        from PIL import Image

        # every box, however sure the model is
        named = {"threshold": 0.0} if task == "object-detection" else {}
        return (Image.fromarray(np.arange(20 * 20 * 3, dtype=np.uint8).reshape(20, 20, 3)),), named
    if task in SOUND_TASKS:
        return (np.sin(np.arange(800, dtype=np.float32)),), {}
    if task == "text-to-audio":
        import torch

        return ("w1 w2 w3",), {"forward_params": {"speaker_embeddings": torch.zeros(1, 16)}}
    return {
        "fill-mask": (("w1 [MASK] w3",), {}),
        "text-generation": (("w1 w2",), {"max_new_tokens": 3, "do_sample": False}),
        "zero-shot-classification": (("w1 w2",), {"candidate_labels": ["w3", "w4"], "hypothesis_template": "w5 {}"}),
        "document-question-answering": (
            (),
            {
                "image": None,
                "question": "w1 w2",
                "word_boxes": [("w3", [1, 1, 4, 4]), ("w4", [5, 1, 9, 4]), ("w5", [1, 6, 4, 9])],
            },
        ),
    }.get(task, (("w1 w2 w3",), {}))


def _vocoder() -> Any:
    """The same new one each time, for spectrograms of 8 numbers a frame."""
    import torch
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    sizes = {"upsample_initial_channel": 16, "upsample_rates": [2], "upsample_kernel_sizes": [4]}
    torch.manual_seed(0)
    return SpeechT5HifiGan(SpeechT5HifiGanConfig(model_in_dim=8, **sizes)).eval()


def run(task: str, model: Any, **kwargs: Any) -> Any:
    """What the pipeline gives, as JSON has it."""
    import transformers

    arguments, named = given(task)
    if task == "text-to-audio":
        kwargs["vocoder"] = _vocoder()
    pipeline = transformers.pipeline(task, model, **kwargs)
    if task == "document-question-answering":
        # it knows LayoutLM by the name of the config's class, `LayoutLMConfig`, and takes others for LayoutLMv2
        from transformers.pipelines.document_question_answering import ModelType

        pipeline.model_type = ModelType.LayoutLM
    if task == "text-to-audio":
        # with remote code it does not take the model for one of spectrograms
        pipeline.vocoder, pipeline.sampling_rate = kwargs["vocoder"], 16_000
    said = pipeline(*arguments, **named)
    return json.loads(json.dumps(said, default=lambda value: np.asarray(value).tolist()))


def main() -> None:
    """Run the cases of a file as a stranger: a list of {"task", "folder"}; their answers go to a second file."""
    cases = json.loads(Path(sys.argv[1]).read_text())
    said = [run(case["task"], case["folder"], trust_remote_code=True) for case in cases]
    Path(sys.argv[2]).write_text(json.dumps(said))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from hidden import hide

    hide()
    main()
