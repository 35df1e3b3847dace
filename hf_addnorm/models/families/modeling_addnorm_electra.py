"""ELECTRA with another add & norm: the base model and its heads."""

from transformers.models.electra import modeling_electra as stock

from ..core.encoder import AddNormEncoder
from ..core.pretrained import AddNormPreTrainedModel
from .bert_shape import BertShapeAttention, BertShapeIntermediate, BertShapeLayer, bert_layout, bert_sublayers
from .configuration_addnorm_electra import AddNormElectraConfig


class AddNormElectraSelfAttention(BertShapeAttention, stock.ElectraSelfAttention): ...


class AddNormElectraCrossAttention(BertShapeAttention, stock.ElectraCrossAttention): ...


class AddNormElectraIntermediate(BertShapeIntermediate, stock.ElectraIntermediate): ...


class AddNormElectraLayer(BertShapeLayer, stock.ElectraLayer):
    sublayers = bert_sublayers(AddNormElectraSelfAttention, AddNormElectraIntermediate, AddNormElectraCrossAttention)


class AddNormElectraEncoder(AddNormEncoder, stock.ElectraEncoder): ...


class AddNormElectraPreTrainedModel(AddNormPreTrainedModel, stock.ElectraPreTrainedModel):
    config: AddNormElectraConfig
    layout = bert_layout(AddNormElectraLayer, AddNormElectraEncoder, head_norms=("generator_predictions.LayerNorm",))


class AddNormElectraModel(AddNormElectraPreTrainedModel, stock.ElectraModel): ...


class AddNormElectraForPreTraining(AddNormElectraPreTrainedModel, stock.ElectraForPreTraining): ...


class AddNormElectraForCausalLM(AddNormElectraPreTrainedModel, stock.ElectraForCausalLM): ...


class AddNormElectraForMaskedLM(AddNormElectraPreTrainedModel, stock.ElectraForMaskedLM): ...


class AddNormElectraForSequenceClassification(
    AddNormElectraPreTrainedModel, stock.ElectraForSequenceClassification
): ...


class AddNormElectraForMultipleChoice(AddNormElectraPreTrainedModel, stock.ElectraForMultipleChoice): ...


class AddNormElectraForTokenClassification(AddNormElectraPreTrainedModel, stock.ElectraForTokenClassification): ...


class AddNormElectraForQuestionAnswering(AddNormElectraPreTrainedModel, stock.ElectraForQuestionAnswering):
    config: AddNormElectraConfig
