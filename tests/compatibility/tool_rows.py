"""What the models were tried with: a row for each use of a tool, with the tests that show it."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """One use of a tool.

    Args:
        tool (`str`): its name.
        package (`str`): the distribution whose version is shown.
        what (`str`): what was tried.
        tests (`tuple`): test functions as `file.py::name`, the file beneath `tests/`; the result is theirs.
        note (`str`): what a user must know where it works.
        refused (`str`): why it does not work; the tests then show that it does not.
        untried (`str`): why nothing was tried.
    """

    tool: str
    package: str
    what: str
    tests: tuple[str, ...] = ()
    note: str = ""
    refused: str = ""
    untried: str = ""


@dataclass
class Tool:
    """Makes the rows of one tool."""

    name: str
    package: str
    rows: list[Row] = field(default_factory=list)

    def __call__(self, what: str, *tests: str, **words: str) -> "Tool":
        self.rows.append(Row(self.name, self.package, what, tests, **words))
        return self


_INTEGRATION = "test_integration.py::test_"
_ADAPTERS = "test_adapters.py::test_"
_OPTIONS = "tools/test_trainer_options.py::test_"
_INSIDE = "tools/test_looking_inside.py::test_"
_EIGHT = "tools/test_eight_bits.py::test_"
_SENTENCES = "tools/test_sentence_transformers.py::test_"
_PLANS = "tools/test_devices_and_plans.py::test_"
_FORWARD = "test_tools_on_forward.py::test_"
_COMPILED = "tools/test_compiled_presets.py::test_"
_OTHERS = "tools/test_other_trainers.py::test_"

TOOLS = [
    Tool("Trainer", "transformers")("train, save, load", f"{_INTEGRATION}trainer_trains_saves_and_reloads")(
        "resume: the same weights, bit for bit", f"{_OPTIONS}a_resumed_run_is_the_whole_one"
    )("`load_best_model_at_end`", f"{_OPTIONS}the_best_model_is_loaded_at_the_end")(
        "`torch_compile`", f"{_OPTIONS}compiled_training_is_the_plain_one"
    )(
        "recomputed activations",
        f"{_OPTIONS}recomputed_activations_train_as_kept_ones",
        f"{_INTEGRATION}gradient_checkpointing_gives_equal_gradients",
        note="a stream of several tensors needs `use_reentrant=False`; the other way is refused in a sentence",
    )(
        "label smoothing",
        "tools/test_label_smoothing.py::test_the_loss_is_that_of_the_stock_model",
        "tools/test_label_smoothing.py::test_a_causal_model_as_remote_code_has_its_labels_shifted",
        note="`regularized_bn`, whose norms add to the loss, needs `AddNormTrainer`",
    )(
        "groups of weight decay",
        f"{_INTEGRATION}weight_decay_takes_what_it_takes_in_the_stock_model",
        f"{_INTEGRATION}trainer_spares_the_gates_of_a_norm",
        note="GPT-2 and Megatron-BERT: weights of norms that are no `LayerNorm` are decayed "
        "([limits](limits.md#trainer-and-weight-decay))",
    ),
    Tool("optuna", "optuna")(
        "`hyperparameter_search`, over the scheme too", f"{_OPTIONS}optuna_searches_for_the_scheme_too"
    ),
    Tool("pipelines", "transformers")(
        "every task that a family is in, from an object and a folder",
        "tools/test_all_pipelines.py::test_a_pipeline_of_an_object_and_of_a_folder",
        note="`document-question-answering` knows LayoutLM by the name of its config's class: set "
        "`pipeline.model_type = ModelType.LayoutLM`",
    )(
        "the same by family, also as remote code",
        "tools/test_all_pipelines.py::test_every_pipeline_of_a_family_as_object_folder_and_remote_code",
        note="as above",
    )(
        "`decision`",
        untried="it reads a chat template and a configuration of its own, which no checkpoint of our families has",
    ),
    Tool("evaluate", "evaluate")(
        "`evaluator` with a model and a metric",
        f"{_PLANS}evaluate_has_its_metrics_of_a_saved_model",
        note="give model and tokenizer: of a pipeline object evaluate 0.4.6 asks for a class that Transformers 5 does "
        "not have",
    ),
    Tool("PEFT", "peft")(
        "LoRA, DoRA, IA3, AdaLoRA: the stock family's default targets",
        f"{_ADAPTERS}defaults_are_those_of_the_stock_family",
    )("LoRA on all linear or on named layers; merged equals unmerged", f"{_ADAPTERS}lora_merged_equals_unmerged")(
        "adapters have gradients, are saved and loaded", f"{_ADAPTERS}every_adapter_has_a_gradient_and_is_saved"
    )(
        "prefix tuning",
        f"{_ADAPTERS}a_prefix_is_trained_and_saved",
        note="of families whose layers take a cache, as in the stock model; encoder and decoder with as many heads",
    )(
        "LN-tuning of all of the add & norm",
        f"{_ADAPTERS}all_of_the_add_norm_is_tuned",
        f"{_ADAPTERS}norms_that_are_elsewhere_have_no_default",
        note="`ln_tuning_names(model)` gives the names",
    )(
        "norms with running statistics",
        f"{_ADAPTERS}an_adapter_is_saved_with_the_statistics_of_its_norms",
        note="`modules_to_save=norms_with_statistics(model)`",
    ),
    Tool("sentence-transformers", "sentence-transformers")(
        "as its module: encode, save, load", f"{_SENTENCES}encodes_saves_and_loads"
    )("train", f"{_SENTENCES}trains")("CrossEncoder", f"{_SENTENCES}a_cross_encoder_scores_saves_and_trains")(
        "remote code", f"{_SENTENCES}as_remote_code"
    ),
    Tool("generation", "transformers")(
        "EncoderDecoderModel of two AddNorm models, with and without cache",
        f"{_INTEGRATION}encoder_decoder_generates_with_cache",
    )("GPT-2 and decoders with a cache", "test_exactness.py::test_generation_with_cache_is_stock"),
    Tool("torch.compile", "torch")(
        "BERT, by spec: one graph, shapes that change",
        f"{_COMPILED}one_graph_for_every_shape",
    )("every family, one graph", "test_streams.py::test_compiles_as_one_graph"),
    Tool("torch.export", "torch")("BERT, by spec: shapes that change", f"{_COMPILED}exported_for_every_shape"),
    Tool("ONNX Runtime", "onnxruntime")(
        "BERT, by spec, at other shapes than it was exported with",
        "test_onnx.py::test_a_layer_runs_in_onnx_runtime",
        "test_onnx.py::test_every_spec_runs_in_onnx_runtime",
    )("dynamic quantisation to 8 bits", f"{_EIGHT}onnx_runtime_of_eight_bits"),
    Tool("OpenVINO", "openvino")("of ONNX, in float32 and with weights of 8 bits (nncf)", f"{_EIGHT}openvino"),
    Tool("torchao", "torchao")(
        "`TorchAoConfig` in `from_pretrained`: weights of 8 bits", f"{_EIGHT}torchao_weights_of_eight_bits"
    )("weights and activations of 8 bits", f"{_EIGHT}torchao_activations_of_eight_bits"),
    Tool("optimum-intel", "optimum-intel")(
        "`OVModel`",
        untried="pip finds no recent release of it beside Transformers 5.23; OpenVINO itself was tried instead",
    ),
    Tool("devices", "accelerate")("`device_map`: offloaded to the CPU", f"{_FORWARD}offloaded_to_the_cpu")(
        "`device_map`: offloaded to the disk", f"{_FORWARD}dispatched_to_the_disk"
    )("built without memory (`meta`)", f"{_FORWARD}built_without_memory"),
    Tool("dtype", "torch")("bfloat16 and float16 with every spec", f"{_PLANS}dtypes"),
    Tool("attention", "transformers")(
        "eager, sdpa, flex attention agree",
        f"{_INTEGRATION}attention_implementations_agree",
        note="FlashAttention needs a GPU: not run here",
    ),
    Tool("FSDP2", "torch")(
        "two processes train as one (gloo)", "test_sharding.py::test_sharded_training_is_training_in_one_process"
    )("its checkpoint is saved with code", "test_sharding.py::test_a_sharded_model_is_saved_with_its_own_code_alone"),
    Tool("tensor parallelism", "transformers")(
        "`DistributedConfig(tp_size=2)`: GPT-NeoX, by spec, two processes (gloo)",
        "tools/test_tensor_parallel.py::test_a_split_model_is_the_whole_one_or_refused",
        note="norms in q, k, v, qk, up and mid are refused in a sentence, as weight transforms are",
    )(
        "the other families",
        f"{_PLANS}plans_are_those_of_the_stock_family",
        refused="their stock families have no plan for it in Transformers, so there is none to inherit",
    ),
    Tool("DeepSpeed", "deepspeed")(
        "ZeRO stage 2 on a CPU, one process",
        f"{_OTHERS}deepspeed_trains_in_one_process",
        note="on the CPU it compiles code of its own at the first start, which takes minutes",
    )("several GPUs", untried="no machine with several GPUs"),
    Tool("Lightning", "lightning")("train, save, load", f"{_OTHERS}lightning_trains_and_saves"),
    Tool("SetFit", "setfit")("train, predict", f"{_OTHERS}setfit_trains_and_predicts"),
    Tool("torchinfo", "torchinfo")(
        "`summary`",
        f"{_INSIDE}torchinfo_counts_what_the_model_has",
        note="without input data its total is exact; with some, it counts twice what runs outside of the module that "
        "holds it",
    ),
    *(
        Tool(name, name)("the loss and the figures of `WatchAddNorm`", "tools/test_trackers.py::test_keeps_" + name)
        for name in ("tensorboard", "wandb", "mlflow", "trackio")
    ),
    Tool("copies", "torch")("`copy.deepcopy`", f"{_INTEGRATION}a_deep_copy_is_another_model")(
        "pickle",
        "test_pickle.py::test_a_model_with_any_spec_is_pickled_and_copied",
        "test_pickle.py::test_a_model_of_any_family_is_pickled_and_copied",
    )("a spawned process", "test_pickle.py::test_a_model_goes_to_a_spawned_process"),
    Tool("saving", "safetensors")(
        "in shards, twice into one folder", "test_hub_ready.py::test_saving_into_the_same_folder_twice_and_sharded"
    )("resized embeddings", f"{_INTEGRATION}resized_embeddings", "test_vocabulary.py::test_another_number_of_tokens"),
    Tool("captum", "captum")("integrated gradients of the tokens", f"{_INSIDE}captum_attributes_to_tokens"),
    Tool("NNsight", "nnsight")("reading and changing a layer", f"{_INSIDE}nnsight_reads_and_changes_a_layer"),
    Tool("TransformerLens", "transformer-lens")(
        "loading",
        f"{_INSIDE}transformer_lens_knows_no_family_of_ours",
        refused="it rewrites a model in its own code, for a list of architectures; the points of every sublayer "
        "([hooks](tools.md#points-of-a-sublayer)) are what it is used for",
    ),
    Tool("hooks", "torch")(
        "all forward hooks of the stock model", "test_hooks.py::test_default_runs_every_hook_that_stock_runs"
    )(
        "in every scheme: layers, attention, Linear layers, norms",
        "test_hooks.py::test_every_scheme_runs_those_of_layers_and_of_what_they_compute_with",
    )(
        "the points of every sublayer",
        "test_diagnosis_watching.py::test_outputs_stay_bit_for_bit_and_all_sublayers_are_seen",
        note="`hf_addnorm.diagnosis.watching` ([hooks](tools.md#points-of-a-sublayer))",
    ),
]

ROWS = [row for tool in TOOLS for row in tool.rows]
