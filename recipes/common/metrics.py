"""Metrics as `evaluate.Metric` classes that need no Hub: `evaluate.load("accuracy")` would download its script."""

import math

import datasets
import evaluate
import jiwer
import numpy as np
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer
from scipy import stats
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, matthews_corrcoef

from .errors import UserError


class _Metric(evaluate.Metric):
    """One figure from predictions and references.

    Args:
        description: what the figure is.
        dtype: type of both columns.
        leads: see ``leading_figure``.
    """

    description: str
    dtype: str

    def _info(self) -> evaluate.MetricInfo:
        value = datasets.Value(self.dtype)
        columns = datasets.Features({"predictions": value, "references": value})
        return evaluate.MetricInfo(description=self.description, citation="", features=columns)


class Accuracy(_Metric):
    """Share of predictions that equal their reference."""

    description, dtype = "share of right predictions", "int64"

    def _compute(self, predictions, references):
        return {"accuracy": float(accuracy_score(references, predictions))}


class MacroF1(_Metric):
    """F1 of each class, averaged over the classes that occur, each with the same weight."""

    description, dtype = "mean over the classes of their F1", "int64"

    def _compute(self, predictions, references):
        return {"f1": float(f1_score(references, predictions, average="macro"))}


class MatthewsCorrelation(_Metric):
    """Correlation of predicted and true classes: 0 for guessing, 1 for all right."""

    description, dtype = "Matthews correlation coefficient", "int64"

    def _compute(self, predictions, references):
        return {"matthews_correlation": float(matthews_corrcoef(references, predictions))}


class _MultiLabelMetric(evaluate.Metric):
    """A figure of rows with any number of classes.

    Predictions are scores, a class being predicted where its score is above 0; references are 0 and 1.

    Args:
        figure: its name in the result.
    """

    description: str
    figure: str

    def _info(self) -> evaluate.MetricInfo:
        columns = {
            "predictions": datasets.Sequence(datasets.Value("float64")),
            "references": datasets.Sequence(datasets.Value("float64")),
        }
        return evaluate.MetricInfo(description=self.description, citation="", features=datasets.Features(columns))

    def score(self, scores: np.ndarray, true: np.ndarray) -> float:
        """Of ``[rows, classes]``."""
        raise NotImplementedError

    def _compute(self, predictions, references):
        return {self.figure: float(self.score(np.array(predictions), np.array(references, dtype=int)))}


class MicroF1(_MultiLabelMetric):
    """F1 over all classes of all rows together; 0 where there is neither a label nor a prediction."""

    description, figure = "F1 over all labels", "f1_micro"

    def score(self, scores, true):
        return f1_score(true, scores > 0, average="micro", zero_division=0)


class MultiLabelMacroF1(_MultiLabelMetric):
    """Mean over the classes of their F1; that of a class with neither label nor prediction is 0."""

    description, figure = "mean over the classes of their F1", "f1_macro"

    def score(self, scores, true):
        return f1_score(true, scores > 0, average="macro", zero_division=0)


class ExactMatchOfLabels(_MultiLabelMetric):
    """Share of rows whose classes are all right."""

    description, figure = "share of rows with all labels right", "exact_match"

    def score(self, scores, true):
        return np.mean(((scores > 0) == true).all(1))


class AveragePrecision(_MultiLabelMetric):
    """Mean of the precision over the recall, averaged over the classes that occur; nan where none does."""

    description, figure = "mean average precision over the classes", "average_precision"

    def score(self, scores, true):
        occurs = true.any(0)
        if not occurs.any():
            return math.nan
        return average_precision_score(true[:, occurs], scores[:, occurs], average="macro")


class Pearson(_Metric):
    """Linear correlation; nan where one side is constant."""

    description, dtype = "Pearson's linear correlation", "float32"

    def _compute(self, predictions, references):
        constant = np.ptp(predictions) == 0 or np.ptp(references) == 0
        return {"pearson": math.nan if constant else float(stats.pearsonr(predictions, references).statistic)}


class Spearman(_Metric):
    """Correlation of the ranks; nan where one side is constant."""

    description, dtype = "Spearman's rank correlation", "float32"

    def _compute(self, predictions, references):
        constant = np.ptp(predictions) == 0 or np.ptp(references) == 0
        return {"spearman": math.nan if constant else float(stats.spearmanr(predictions, references).statistic)}


class CharacterErrorRate(_Metric):
    """Characters to put in, take out or replace, over those of the references; nan where these have none."""

    description, dtype, leads = "edits of characters per character", "string", "-cer"

    def _compute(self, predictions, references):
        return {"cer": float(jiwer.cer(references, predictions)) if any(references) else math.nan}


class WordErrorRate(_Metric):
    """The same for words."""

    description, dtype, leads = "edits of words per word", "string", "-wer"

    def _compute(self, predictions, references):
        return {"wer": float(jiwer.wer(references, predictions)) if any(map(str.split, references)) else math.nan}


class ChrF(_Metric):
    """F-score of the n-grams of characters, 1 to 6, over all rows, where recall counts twice: 0 to 100.

    Source: Popovic, "chrF", 2015, https://aclanthology.org/W15-3049, as in sacrebleu.
    """

    description, dtype = "F-score of the n-grams of characters", "string"

    def _compute(self, predictions, references):
        return {"chrf": sacrebleu.corpus_chrf(predictions, [references]).score}


class Bleu(_Metric):
    """Precision of the n-grams of words, 1 to 4, over all rows: 0 to 100.

    Source: Papineni et al., "BLEU", 2002, https://aclanthology.org/P02-1040, as in sacrebleu.
    """

    description, dtype = "precision of the n-grams of words", "string"

    def _compute(self, predictions, references):
        return {"bleu": sacrebleu.corpus_bleu(predictions, [references]).score}


class Rouge(_Metric):
    """F-scores of words, pairs of words and the longest common sequence of words, mean of the rows: 0 to 100.

    Source: Lin, "ROUGE", 2004, https://aclanthology.org/W04-1013, as in rouge-score, without stemming.
    """

    description, dtype = "F-scores of words, pairs of words and the longest common sequence", "string"
    leads = "rougeL"

    def _compute(self, predictions, references):
        kinds = ["rouge1", "rouge2", "rougeL"]
        scorer = RougeScorer(kinds)
        scores = [scorer.score(*texts) for texts in zip(references, predictions, strict=True)]
        return {kind: 100 * float(np.mean([score[kind].fmeasure for score in scores])) for kind in kinds}


TEXT = {"chrf": ChrF, "bleu": Bleu, "rouge": Rouge}
CLASSIFICATION = {"accuracy": Accuracy, "f1": MacroF1, "matthews_correlation": MatthewsCorrelation}
MULTI_LABEL = {kind.figure: kind for kind in (MicroF1, MultiLabelMacroF1, ExactMatchOfLabels, AveragePrecision)}
REGRESSION = {"pearson": Pearson, "spearman": Spearman}
TRANSCRIPTION = {"cer": CharacterErrorRate, "wer": WordErrorRate}


def load_metrics(names: list[str] | None, known: dict[str, type[evaluate.Metric]]) -> evaluate.CombinedEvaluations:
    """Combine the named metrics, all known ones where no names are given.

    Raises:
        UserError: for a name that the task does not have, naming those it has.
    """
    for name in names or []:
        if name not in known:
            raise UserError(f"metric {name!r} is not one of this task's: {', '.join(known)}")
    return evaluate.combine([known[name](keep_in_memory=True) for name in names or known])


def leading_figure(names: list[str] | None, known: dict[str, type[evaluate.Metric]]) -> str:
    """The figure by which evaluations of a run are compared: that of the first metric, or of all known ones.

    It has the metric's name unless the metric's ``leads`` says otherwise, with a minus where less is better.
    """
    first = (names or list(known))[0]
    return getattr(known[first], "leads", first)
