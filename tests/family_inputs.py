"""Tiny sizes of the families under test, and their inputs: small padded batches, labels for each model's task."""

from typing import Any

import torch


TINY = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 37}
TINY_TEXT = {**TINY, "vocab_size": 99, "max_position_embeddings": 64}
TINY_SOUND = {
    **TINY,
    "conv_dim": (32, 32, 32),
    "conv_stride": (4, 4, 4),
    "conv_kernel": (8, 8, 8),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "mask_time_prob": 0.1,
    "mask_time_length": 2,
    "num_codevectors_per_group": 8,
    "codevector_dim": 16,
    "proj_codevector_dim": 16,
    "tdnn_dim": (16, 16),
    "tdnn_kernel": (3, 3),
    "tdnn_dilation": (1, 1),
    "xvector_output_dim": 16,
    "classifier_proj_size": 16,
}
# an encoder-decoder, whose stacks differ in depth, heads and width inside
TINY_BART = {
    "d_model": 32,
    "encoder_layers": 4,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 37,
    "decoder_ffn_dim": 29,
    "vocab_size": 99,
    "max_position_embeddings": 64,
    "attention_dropout": 0.1,
    "activation_dropout": 0.1,
}
# the sound has 2 * 15 frames of 8 numbers, of which two convolutions make 15
TINY_WHISPER = {
    **{key: value for key, value in TINY_BART.items() if key != "max_position_embeddings"},
    "num_mel_bins": 8,
    "max_source_positions": 15,
    "max_target_positions": 64,
    "dropout": 0.1,
    "classifier_proj_size": 16,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 3,
    "begin_suppress_tokens": None,
}
# a spectrogram has 8 numbers a frame. The layers before the decoder are left out: their dropout never ends.
TINY_SPEECH = {
    **{key: value for key, value in TINY_BART.items() if key not in ("d_model", "max_position_embeddings")},
    **{key: value for key, value in TINY_SOUND.items() if key.startswith(("conv_", "num_conv", "mask_"))},
    "hidden_size": 32,
    "max_text_positions": 64,
    "max_speech_positions": 64,
    "encoder_max_relative_position": 6,
    "encoder_layerdrop": 0.0,
    "decoder_layerdrop": 0.0,
    "num_mel_bins": 8,
    "speech_decoder_prenet_layers": 0,
    "speech_decoder_prenet_units": 8,
    "speech_decoder_postnet_layers": 2,
    "speech_decoder_postnet_units": 12,
    "speaker_embedding_dim": 16,
}
# heads that are together wider than the stream
TINY_T5 = {
    "d_model": 32,
    "d_kv": 10,
    "d_ff": 37,
    "num_layers": 4,
    "num_decoder_layers": 3,
    "num_heads": 4,
    "vocab_size": 99,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
    "decoder_start_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
}


def _draw(high: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(7))


def first_output(output: Any) -> torch.Tensor:
    """What a model gives first; a backbone's maps of features in one row."""
    first = output[0]
    return torch.cat([part.flatten() for part in first]) if isinstance(first, tuple) else first


def text_inputs(model: str) -> dict[str, torch.Tensor]:
    """Three sequences of 10 tokens, the second one padded, with labels for the model's task."""
    choices = (3, 2) if "MultipleChoice" in model or "DoubleHeads" in model else (3,)
    inputs = {"input_ids": _draw(99, *choices, 10)}
    inputs["attention_mask"] = torch.ones(*choices, 10, dtype=torch.long)
    inputs["attention_mask"][1, ..., 7:] = 0
    labels = {
        "AlbertForPreTraining": {"labels": _draw(99, 3, 10), "sentence_order_label": _draw(2, 3)},
        "ForPreTraining": {"labels": _draw(99, 3, 10), "next_sentence_label": _draw(2, 3)},
        "DoubleHeads": {"labels": _draw(99, *choices, 10), "mc_labels": _draw(2, 3)},
        "LMHead": {"labels": _draw(99, 3, 10)},
        "ForCausalLM": {"labels": _draw(99, 3, 10)},
        "ForMaskedLM": {"labels": _draw(99, 3, 10)},
        "ForNextSentencePrediction": {"labels": _draw(2, 3)},
        "ForSequenceClassification": {"labels": _draw(2, 3)},
        "ForMultipleChoice": {"labels": _draw(2, 3)},
        "ForTokenClassification": {"labels": _draw(2, 3, 10)},
        "ForQuestionAnswering": {"start_positions": _draw(7, 3), "end_positions": _draw(7, 3)},
    }
    return inputs | next((value for key, value in labels.items() if key in model), {})


def electra_inputs(model: str) -> dict[str, torch.Tensor]:
    """The same with labels that say of each token whether it was replaced, for the model that finds these."""
    inputs = two_segment_inputs(model)
    return inputs | ({"labels": _draw(2, 3, 10)} if model.endswith("ForPreTraining") else {})


def glyph_inputs(model: str) -> dict[str, torch.Tensor]:
    """The same with each token's shape and pronunciation."""
    inputs = two_segment_inputs(model)
    if model.endswith("ForPreTraining"):
        labels = {"labels_input_ids": inputs.pop("labels"), "attack_input_ids": inputs["input_ids"].flip(-1)}
        del inputs["next_sentence_label"]
        inputs |= labels
    return inputs | {"input_shape_ids": inputs["input_ids"] % 7, "input_pronunciation_ids": inputs["input_ids"] % 5}


def page_inputs(model: str) -> dict[str, torch.Tensor]:
    """The same with each token's box on a page: left, top, right, bottom."""
    inputs = two_segment_inputs(model)
    corner = torch.stack([inputs["input_ids"] % 9, inputs["input_ids"] % 8], dim=-1)
    return inputs | {"bbox": torch.cat([corner, corner + 3], dim=-1)}


def two_segment_inputs(model: str) -> dict[str, torch.Tensor]:
    """The same with token types."""
    inputs = text_inputs(model)
    return inputs | {"token_type_ids": inputs["input_ids"] % 2}


def image_inputs(model: str) -> dict[str, torch.Tensor]:
    """Three images of 16 x 16, with labels for the model's task."""
    inputs = {"pixel_values": torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(7))}
    if "MaskedImage" in model:
        return inputs | {"bool_masked_pos": _draw(2, 3, 16).bool()}
    return inputs | ({"labels": _draw(2, 3)} if "For" in model else {})


def masked_image_inputs(model: str) -> dict[str, torch.Tensor]:
    """The same; what is masked has the number of a visual word as its label, or each pixel that of its class."""
    inputs = image_inputs(model)
    if "MaskedImage" in model:
        return inputs | {"labels": _draw(20, int(inputs["bool_masked_pos"].sum()))}
    return inputs | ({"labels": _draw(2, 3, 16, 16)} if "Segmentation" in model else {})


def detection_inputs(model: str) -> dict[str, Any]:
    """Three images of 16 x 24, with no, one and two objects: their classes and boxes, as shares of the image."""
    inputs: dict[str, Any] = {"pixel_values": torch.randn(3, 3, 16, 24, generator=torch.Generator().manual_seed(7))}
    if not model.endswith("ForObjectDetection"):
        return inputs
    boxes = torch.tensor([[0.5, 0.4, 0.3, 0.2], [0.3, 0.6, 0.2, 0.5]])
    labels = [{"class_labels": _draw(3, number), "boxes": boxes[:number]} for number in range(3)]
    return inputs | {"labels": labels}


def sound_inputs(model: str) -> dict[str, torch.Tensor]:
    """Three sounds of 800 samples, which are 11 frames; the second one is padded from sample 500 on."""
    mask = torch.ones(3, 800, dtype=torch.long)
    mask[1, 500:] = 0
    sound = torch.randn(3, 800, generator=torch.Generator().manual_seed(7))
    inputs = {"input_values": sound * mask, "attention_mask": mask}
    if "ForPreTraining" in model:
        masked = torch.zeros(3, 11, dtype=torch.bool)
        masked[:, 2:6] = True
        return inputs | {"mask_time_indices": masked, "sampled_negative_indices": _draw(5, 3, 11, 5)}
    labels = {
        "ForCTC": {"labels": _draw(20, 3, 3) + 1},
        "ForSequenceClassification": {"labels": _draw(2, 3)},
        "ForXVector": {"labels": _draw(2, 3)},
        "ForAudioFrame": {"labels": torch.nn.functional.one_hot(_draw(2, 3, 11), 2)},
    }
    return inputs | next((value for key, value in labels.items() if key in model), {})


def quantized_sound_inputs(model: str) -> dict[str, torch.Tensor]:
    """The same, but UniSpeech masks its sounds by itself while it is pretrained."""
    inputs = sound_inputs(model)
    return {
        key: value for key, value in inputs.items() if key not in ("mask_time_indices", "sampled_negative_indices")
    }


def translation_inputs(model: str) -> dict[str, torch.Tensor]:
    """Three sources of 10 tokens, each of which ends once, and targets of 6; a source and a target are padded."""
    if model.endswith(("ForCausalLM", "ForTokenClassification")):
        return text_inputs(model)
    inputs = text_inputs("")
    inputs["input_ids"] = inputs["input_ids"] % 94 + 5
    # what a classifier reads is the end; padding is 1
    inputs["input_ids"][:, -1], inputs["input_ids"][1, 6:] = 2, 1
    inputs["input_ids"][1, 6] = 2
    # these read the source with the decoder too
    labels = {
        "ForSequenceClassification": {"labels": _draw(2, 3)},
        "ForQuestionAnswering": {"start_positions": _draw(7, 3), "end_positions": _draw(7, 3)},
    }
    if given := next((value for key, value in labels.items() if key in model), None):
        return inputs | given
    if model.endswith("EncoderModel"):
        return inputs
    inputs["decoder_input_ids"] = _draw(94, 3, 6) + 5
    inputs["decoder_attention_mask"] = torch.ones(3, 6, dtype=torch.long)
    inputs["decoder_attention_mask"][2, 4:] = 0
    writes = model.endswith(("ForConditionalGeneration", "MTModel"))
    return inputs | ({"labels": _draw(99, 3, 6)} if writes else {})


def spectrogram_inputs(model: str) -> dict[str, torch.Tensor]:
    """Three spectrograms of 8 x 30, and targets of 6 tokens, one of which is padded."""
    generator = torch.Generator().manual_seed(7)
    if model.endswith("ForCausalLM"):
        # it reads another model's encoder
        return text_inputs(model) | {"encoder_outputs": torch.randn(3, 15, 32, generator=generator)}
    inputs = {"input_features": torch.randn(3, 8, 30, generator=generator)}
    if "Classification" in model:
        return inputs | {"labels": _draw(2, 3)}
    targets = translation_inputs(model)
    return inputs | {key: targets[key] for key in targets if key.startswith("decoder") or key == "labels"}


def speech_inputs(model: str) -> dict[str, torch.Tensor]:
    """Sources and targets of SpeechT5: texts or sounds, texts of 6 tokens or spectrograms of 6 pairs of frames.

    A source and a target are padded. The base model reads and writes hidden states.
    """
    generator = torch.Generator().manual_seed(7)
    text = translation_inputs("")
    if model.endswith(("ForTextToSpeech", "Model")):
        inputs = {"input_ids": text["input_ids"], "attention_mask": text["attention_mask"]}
    else:
        inputs = sound_inputs("")
    if model.endswith("Model"):
        inputs["input_values"] = torch.randn(3, 10, 32, generator=generator)
        del inputs["input_ids"]
        inputs["decoder_input_values"] = torch.randn(3, 6, 32, generator=generator)
        return inputs | {"decoder_attention_mask": text["decoder_attention_mask"]}
    if model.endswith("ToText"):
        targets = translation_inputs("ForConditionalGeneration")
        return inputs | {key: targets[key] for key in targets if key.startswith("decoder") or key == "labels"}
    frames = torch.randn(3, 12, 8, generator=generator)
    frames[2, 8:] = -100.0
    return inputs | {
        "labels": frames,
        "decoder_attention_mask": text["decoder_attention_mask"].repeat_interleave(2, dim=1),
        "speaker_embeddings": torch.randn(3, 16, generator=generator),
    }
