"""A resident sequence classification model, asked for the logits of texts."""

from evaluators.classifier.classifier import Classifier
from evaluators.classifier.heads import Head, check_fits, label_id, labels_of, read_head
from evaluators.classifier.texts import Text

__all__ = ["Classifier", "Head", "Text", "check_fits", "label_id", "labels_of", "read_head"]
