"""Defaults of PEFT for our families: what an adapter is put on where its config names no `target_modules`."""

import sys


_ROWS = "TRANSFORMERS_MODELS_TO_"
# whose rows name norms, which another scheme may have elsewhere
_OF_NORMS = "TRANSFORMERS_MODELS_TO_LNTUNING_TARGET_MODULES_MAPPING"


def register_with_peft(model_type: str, stock_model_type: str, has_stock_norms: bool) -> None:
    """Let a model type have the stock family's rows in PEFT's tables, if PEFT has been imported.

    Args:
        model_type, stock_model_type (`str`): ours, and that whose rows it gets.
        has_stock_norms (`bool`): whether every norm of the stock model is in the model that PEFT asks about; without,
            the row of the tuning of norms is taken away, and PEFT asks for the names.
    """
    constants = sys.modules.get("peft.utils.constants")
    # a user's model type that PEFT knows by itself stays as it is
    if constants is None or model_type == stock_model_type:
        return
    for name, table in vars(constants).items():
        if not name.startswith(_ROWS) or not isinstance(table, dict) or stock_model_type not in table:
            continue
        if name == _OF_NORMS and not has_stock_norms:
            table.pop(model_type, None)
        else:
            table.setdefault(model_type, table[stock_model_type])
