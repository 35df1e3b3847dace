"""Registers the toy family; its row for the generated suites."""

from families import TINY_TEXT, Family, two_segment_inputs

import hf_addnorm

from .configuration_addnorm_toy import AddNormXLMRobertaXLConfig


hf_addnorm.register_family(AddNormXLMRobertaXLConfig)
ROWS = {
    "toy": Family(
        AddNormXLMRobertaXLConfig, {**TINY_TEXT, "type_vocab_size": 2}, two_segment_inputs, position_table=True
    )
}
