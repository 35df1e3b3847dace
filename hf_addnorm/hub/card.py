"""Model cards: what the add & norm is, how to load the model, how it was trained, what came out, what it cost."""

import importlib.util
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from safetensors import safe_open
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from ..models.base.protocols import JsonValue, StockValue
from ..models.base.whole_file import whole_file
from ..models.core.family_facts import FamilyFacts
from ..models.spec.spec import AddNormSpec
from .description import Description, as_ours, bias_left_to_model, described, facts_of, family_of, stock_spec
from .input_kinds import INPUT_KINDS, InputKind
from .known_code import this_version
from .redaction import redact
from .results import ResultLike, Run


if TYPE_CHECKING:
    # needed for cards alone
    import jinja2


CARD = "README.md"
TEMPLATE = "card.md.jinja"

# the end of a class's name: the Hub's name for the task, unless what it reads or its family says another
_TASKS = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMultipleChoice": "multiple-choice",
    "ForMaskedLM": "fill-mask",
    "ForCausalLM": "text-generation",
    "ForConditionalGeneration": "text-generation",
    "MTModel": "translation",
    "ForPreTraining": "fill-mask",
    "LMHeadModel": "text-generation",
    "ForNextSentencePrediction": "text-classification",
    "ForImageClassification": "image-classification",
    "ForObjectDetection": "object-detection",
    "ForSemanticSegmentation": "image-segmentation",
    "Backbone": "image-feature-extraction",
    "ForMaskedImageModeling": "image-feature-extraction",
    "ForCTC": "automatic-speech-recognition",
    "ForAudioFrameClassification": "audio-classification",
    "ForXVector": "audio-classification",
    "ForAudioClassification": "audio-classification",
    "ForSpeechToText": "automatic-speech-recognition",
    "ForTextToSpeech": "text-to-speech",
    "ForSpeechToSpeech": "audio-to-audio",
    "EncoderDecoderModel": "text-generation",
    "": "feature-extraction",
}

# tasks whose models both hear or speak and write or read: a tokenizer and a feature extractor together prepare that
_SOUND_AND_TEXT = ("automatic-speech-recognition", "text-to-speech", "audio-to-audio")

Model = PreTrainedModel | PreTrainedConfig | str | os.PathLike[str]


@dataclass(frozen=True)
class Subject:
    """The model that a card is about.

    Args:
        model (`str`): the model's class.
        parts (`list[Description]`): its add & norms.
        auto_classes (`dict`): the Auto classes that find it, and the classes that they find.
        parameters (`int`, *optional*): their number.
        facts (`FamilyFacts`): what is known of the model's family.
        is_ours (`bool`): whether it needs code beside Transformers'.
    """

    model: str
    parts: list[Description]
    auto_classes: dict[str, str]
    parameters: int | None
    facts: FamilyFacts
    is_ours: bool

    @property
    def auto(self) -> str:
        """The Auto class that loads it as what it was saved."""
        ours = f"AddNorm{self.model.removeprefix('AddNorm')}"
        found = [auto for auto, name in self.auto_classes.items() if name == ours and auto != "AutoModel"]
        return found[0] if found else "AutoModel"

    @property
    def task(self) -> str:
        """The Hub's name for what it does."""
        tasks = {**_TASKS, **self.inputs.tasks, **self.facts.tasks}
        return tasks[next(end for end in sorted(tasks, key=len, reverse=True) if self.model.endswith(end))]

    @property
    def inputs(self) -> InputKind:
        """The kind of its inputs: text, images or sound."""
        return INPUT_KINDS[self.facts.inputs]

    @property
    def processor(self) -> tuple[str, str]:
        """The Auto class of what prepares its inputs, and how an example calls it."""
        if self.task in _SOUND_AND_TEXT:
            return "AutoProcessor", "processor"
        return self.inputs.processor, self.inputs.variable


def _subject(model: Model) -> Subject:
    if isinstance(model, PreTrainedModel):
        parameters = sum(parameter.numel() for parameter in model.parameters())
        return _subject_of(model.config, type(model).__name__, parameters)
    if isinstance(model, PreTrainedConfig):
        return _subject_of(model, (model.architectures or ["AutoModel"])[0], None)
    config = read_config(model)
    return _subject_of(config, (config.architectures or ["AutoModel"])[0], count_parameters(Path(model)))


def _subject_of(config: PreTrainedConfig, name: str, parameters: int | None) -> Subject:
    # as remote code, a config's classes are copies of ours, which are told by name
    ours = as_ours(AutoConfig.for_model(**config.to_dict()))
    auto_classes = getattr(ours, "auto_classes", {"AutoModelForSeq2SeqLM": "AddNormEncoderDecoderModel"})
    is_stock = getattr(ours, "stock_model_type", None) == config.model_type
    return Subject(name, described(ours), auto_classes, parameters, facts_of(ours), not is_stock)


def _subject_of_run(run: Run) -> Subject:
    """The subject of a card that is made without the model, from the result of its training run."""
    if config := run.content.get("model_config"):
        return _subject_of(AutoConfig.for_model(**config), run.model, run.content.get("parameters"))
    family = family_of(run.model)
    if family is None:
        raise ValueError(f"the result is of a {run.model}, which is of no AddNorm family: give its model, too.")
    spec = run.spec or stock_spec(run.model)
    sizes = run.package.get("config")
    config = None if sizes is None else family(**{**sizes, "add_norm": spec.to_dict()})
    part = Description("", spec, config)
    return Subject(
        run.model,
        [part],
        family.auto_classes,
        run.content.get("parameters"),
        family.facts,
        run.model.startswith("AddNorm"),
    )


def read_config(folder: str | os.PathLike[str], **kwargs: StockValue) -> PreTrainedConfig:
    """The config in a folder or a repository; never runs code that is there.

    Raises:
        OSError: if there is none.
        ValueError: if it is of no known model.
    """
    config: PreTrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False, **kwargs)
    return config


def count_parameters(folder: Path) -> int | None:
    """The number of weights in a folder's safetensors files, from their heads alone; None where there are none."""
    files = sorted(folder.glob("*.safetensors"))
    total = 0
    for file in files:
        with safe_open(file, framework="pt") as weights:
            for key in weights.keys():  # noqa: SIM118 - it is no dict
                count = 1
                for size in weights.get_slice(key).get_shape():
                    count *= size
                total += count
    return total if files else None


class CardOptions(TypedDict, total=False):
    """What a card says that neither the model nor a run says; see `create_card`."""

    name: str | None
    repo: str | None
    base_model: str | None
    license: str | None
    tags: list[str] | None


def create_card(
    model: Model | None = None,
    results: ResultLike | None = None,
    stock_results: ResultLike | None = None,
    *,
    name: str | None = None,
    repo: str | None = None,
    base_model: str | None = None,
    license: str | None = None,
    tags: list[str] | None = None,
) -> ModelCard:
    """Make the model card of a model.

    Args:
        model: a model, its config, or the folder that it was saved in. It may be left out where there are results.
        results (`dict` or path, *optional*): the result JSON of the run that trained it.
        stock_results (`dict` or path, *optional*): that of the stock model on the same data and rows.
        name (`str`, *optional*): the card's heading; by default the end of `repo`, or the folder's name.
        repo (`str`, *optional*): where it is loaded from; by default the name.
        base_model, license (`str`, *optional*): of the checkpoint that it was made of; by default what the results
            say, if they do.
        tags (`list[str]`, *optional*): more tags for the front matter.
    Returns:
        A `huggingface_hub.ModelCard`; `str(card)` is its text.
    Raises:
        ValueError: if there is neither model nor results, or if the stock results are of other data, rows or scheme.
        ImportError: if Jinja2 is missing.
    """
    run, stock = _runs(results, stock_results)
    if model is not None:
        subject = _subject(model)
    elif run is not None:
        subject = _subject_of_run(run)
    else:
        raise ValueError("a card needs a model or the results of a run.")
    default = Path(model).resolve().name if isinstance(model, str | os.PathLike) else subject.model
    name = name or (repo or default).split("/")[-1]
    base_model = base_model or (run.base_model if run else None)
    data = _front_matter(subject, run, name, base_model, license or (run.license if run else None), tags or [])
    rows, columns = _rows(subject, run, stock)
    text = _template().render(
        data=data.to_yaml(),
        name=name,
        repo=repo or name,
        summary=_summary(subject, run, base_model),
        version=dict(run.versions).get("hf_addnorm", this_version()) if run else this_version(),
        run=run,
        began=_began(subject, run, base_model),
        rows=rows,
        columns=columns,
        limits=_limits(subject, run, stock, base_model),
        **_about_subject(subject),
    )
    return ModelCard(redact(_without_gaps(text)))


def _runs(results: ResultLike | None, stock_results: ResultLike | None) -> tuple[Run | None, Run | None]:
    """The run of a card, and that of the stock model beside it, which must be of the same data, rows and task."""
    run = None if results is None else Run.read(results)
    stock = None if stock_results is None else Run.read(stock_results)
    if stock is not None:
        if run is None:
            raise ValueError("stock_results without results: there is nothing to set them beside.")
        stock.refuse_as_stock_of(run)
    return run, stock


def _about_subject(subject: Subject) -> dict[str, object]:
    """What the template says of a model whatever its run was: its parts, and how it is loaded."""
    processor, variable = subject.processor
    return {
        "parts": [_Part(part, subject) for part in subject.parts],
        "is_ours": subject.is_ours,
        "auto": subject.auto,
        "imports": sorted({subject.auto, processor}),
        "processor": processor,
        "processor_variable": variable,
        "bibtex": "\n\n".join(dict.fromkeys(entry for part in subject.parts for entry in part.bibtex.split("\n\n"))),
    }


def write_card(
    folder: str | os.PathLike[str],
    result: ResultLike | None = None,
    stock_result: ResultLike | None = None,
    **options: Unpack[CardOptions],
) -> Path:
    """Write the card of the model in `folder` to its README.md, whatever was there.

    Args:
        folder: where the model was saved.
        result, stock_result, options: as in `create_card`.
    Returns:
        The card's path.
    """
    card = create_card(folder, result, stock_result, **options)
    path = Path(folder, CARD)
    with whole_file(path) as partial:
        card.save(partial)
    return path


class _Part:
    """A description, with what the template asks beyond it."""

    def __init__(self, description: Description, subject: Subject):
        self.description = description
        family = None if description.config is None else description.config.stock_add_norm()
        stock = stock_spec(subject.model) if family is None else AddNormSpec.parse(None, family)
        self.is_stock = bias_left_to_model(description.spec) == bias_left_to_model(stock)

    def __getattr__(self, name: str) -> object:
        return getattr(self.description, name)


def _template() -> "jinja2.Template":
    if importlib.util.find_spec("jinja2") is None:
        raise ImportError("a model card needs Jinja2: pip install 'hf_addnorm[cli]'.")
    import jinja2

    environment = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    # a cell of a table is one line, and "|" is its end
    environment.filters["cell"] = lambda value: str(value).replace("|", "\\|").replace("\n", " ")
    environment.filters["code"] = lambda names: ", ".join(f"`{name}`" for name in names.split(", "))
    return environment.from_string(template_path().read_text())


def template_path() -> Path:
    """The template: beside this file in an installed wheel, in model_cards/ of a checkout."""
    installed = Path(__file__).with_name(TEMPLATE)
    return installed if installed.exists() else Path(__file__).parents[2] / "model_cards" / TEMPLATE


def _without_gaps(text: str) -> str:
    """At most one empty line in a row."""
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    return text


def _front_matter(
    subject: Subject, run: Run | None, name: str, base_model: str | None, license: str | None, tags: list[str]
) -> ModelCardData:
    kinds = [kind for part in subject.parts for kind in part.norms]
    own = ["hf_addnorm", *(part.spec.preset for part in subject.parts), *kinds] if subject.is_ours else []
    fields: dict[str, JsonValue] = {}
    if run is not None:
        fields["metrics"] = list(run.metrics)
        fields["datasets"] = [run.dataset_on_hub] if run.dataset_on_hub else None
        fields["model_name"] = name
        fields["eval_results"] = [
            EvalResult(
                task_type=subject.task,
                dataset_type=run.dataset_on_hub or run.dataset_name,
                dataset_name=run.dataset_name,
                dataset_config=run.config.get("dataset_config"),
                dataset_split=run.config.get("validation_split"),
                metric_type=metric,
                metric_value=round(value, 6),
            )
            for metric, value in run.metrics.items()
        ]
    return ModelCardData(
        library_name="transformers",
        license=license,
        base_model=base_model,
        pipeline_tag=subject.task,
        tags=[*own, *tags] or None,
        **fields,
    )


def _summary(subject: Subject, run: Run | None, base_model: str | None) -> str:
    stock = subject.model.removeprefix("AddNorm")
    what = f"`{subject.model}`"
    if subject.parameters:
        what += f" with {subject.parameters:,} parameters"
    article = "An" if subject.model[0] in "AEIOU" else "A"
    origin = f", made of [{base_model}](https://huggingface.co/{base_model})" if base_model else ""
    data = f", fine-tuned on {run.dataset_name}" if run is not None and base_model else ""
    if not subject.is_ours:
        return f"{article} {what}, the stock model of Transformers{origin}{data}."
    presets = " and ".join(dict.fromkeys(f"`{part.spec.preset}`" for part in subject.parts))
    return f"{article} {what}: Transformers' `{stock}` with another add & norm (preset {presets}){origin}{data}."


def _began(subject: Subject, run: Run | None, base_model: str | None) -> str:
    if run is None:
        return ""
    recipe = f" with the recipe `{run.content['recipe']}` of hf_addnorm" if "recipe" in run.content else ""
    if base_model is None:
        return f"It was trained{recipe}."
    how = f"It began with the weights of [{base_model}](https://huggingface.co/{base_model}) and was trained{recipe}."
    if subject.is_ours:
        how += " Weights that have a place in the add & norm were kept, the others had their start values."
    return how


def _rows(subject: Subject, run: Run | None, stock: Run | None) -> tuple[list[list[str]], list[str]]:
    if run is None:
        return [], []
    rows = [[f"this one, `{_said(subject)}`", *_numbers(run)]]
    if stock is not None:
        scheme = f"`{stock.spec.preset}`" if stock.spec else "as Transformers has it"
        rows.append([f"stock, {scheme}", *(_numbers(stock, like=run))])
    return rows, [*run.metrics, "parameters", "peak memory, MB"]


def _said(subject: Subject) -> str:
    return " and ".join(dict.fromkeys(part.add_norm.strip('"') for part in subject.parts)).replace("|", "\\|")


def _numbers(run: Run, like: Run | None = None) -> list[str]:
    values = [run.metrics.get(name) for name in (like or run).metrics]
    found = ["" if value is None else f"{value:.4f}" for value in values]
    parameters, memory = run.content.get("parameters"), run.content.get("peak_memory_mb")
    return [*found, f"{parameters:,}" if parameters else "", f"{memory:,.0f}" if memory else ""]


def _limits(subject: Subject, run: Run | None, stock: Run | None, base_model: str | None) -> list[str]:
    limits = []
    parts = [_Part(part, subject) for part in subject.parts]
    if all(part.is_stock for part in parts):
        limits.append("Its add & norm is the stock one: nothing was swapped, and nothing lost by it.")
    elif run is None or stock is None:
        limits.append(
            "What the swap cost is not known: there is no run of the stock model on the same rows beside it."
        )
    else:
        limits.append(
            f"What the swap cost, beside the stock model on the same data and rows: {_difference(run, stock)}."
        )
        limits.append("That is one run each. Runs with another seed differ too; a small difference may be chance.")
    if run is None:
        limits.append("What it was made for, and what it was tested on, is not recorded here.")
    else:
        rows = run.content.get("data", {}).get("train", {}).get("rows")
        trained = f"{rows:,} rows of {run.dataset_name}" if rows else run.dataset_name
        limits.append(
            f"It was trained on {trained} alone and tested on the same kind of data; nothing else was tried."
        )
    if base_model:
        limits.append(f"Limits and bias of {base_model} are its limits, too.")
    limits += [warning for part in parts for warning in part.description.warnings]
    return limits


def _difference(run: Run, stock: Run) -> str:
    said = []
    for name, value in run.metrics.items():
        if name in stock.metrics:
            change = value - stock.metrics[name]
            said.append(f"{name} {change:+.4f} ({stock.metrics[name]:.4f} to {value:.4f})")
    here, there = run.content.get("parameters"), stock.content.get("parameters")
    if here and there:
        said.append(f"{here - there:+,} parameters" if here != there else "as many parameters")
    return ", ".join(said)


def is_placeholder(card: ModelCard) -> bool:
    """Whether this card is the empty one that Transformers uploads where there is none."""
    mark = "@description@"
    before, after = ModelCard.from_template(ModelCardData(), model_description=mark).text.split(mark)
    text = card.text
    return (
        text.startswith(before)
        and text.endswith(after)
        and "automatically generated" in text[len(before) : len(text) - len(after)]
        and "\n" not in text[len(before) : len(text) - len(after)].strip()
    )


def replace_placeholder(folder: str | os.PathLike[str], repo: str) -> None:
    """Replace the empty card that Transformers wrote by this model's card; the tags that it was given stay.

    Args:
        folder: what is about to be pushed.
        repo (`str`): where to.
    """
    path = Path(folder, CARD)
    card = ModelCard.load(path)
    if is_placeholder(card):
        write_card(folder, repo=repo, tags=card.data.tags or [])


def to_json(card: ModelCard) -> dict[str, JsonValue]:
    """A card as JSON: front matter and text."""
    return {"data": json.loads(json.dumps(card.data.to_dict())), "text": card.text}
