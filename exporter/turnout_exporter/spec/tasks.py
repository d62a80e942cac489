"""Tasks that `--task` names, by what their models take."""

from turnout_exporter.errors import SpecError

TEXT = (
    "text-classification",
    "token-classification",
    "question-answering",
    "fill-mask",
    "feature-extraction",
    "causal-lm",
    "seq2seq-lm",
)
IMAGE = ("image-classification", "object-detection", "image-segmentation", "depth-estimation")
AUDIO = ("audio-classification", "ctc", "speech-recognition")
TASKS = (*TEXT, *IMAGE, *AUDIO)

#: The names of the same tasks elsewhere.
_ALIASES = {
    "text-generation": "causal-lm",
    "masked-lm": "fill-mask",
    "text2text-generation": "seq2seq-lm",
    "automatic-speech-recognition": "speech-recognition",
    "sequence-classification": "text-classification",
    "ner": "token-classification",
    "semantic-segmentation": "image-segmentation",
}

#: transformers' class for each task, where a folder is exported for another task than it was saved for.
AUTO_CLASSES = {
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "fill-mask": "AutoModelForMaskedLM",
    "feature-extraction": "AutoModel",
    "causal-lm": "AutoModelForCausalLM",
    "seq2seq-lm": "AutoModelForSeq2SeqLM",
    "image-classification": "AutoModelForImageClassification",
    "object-detection": "AutoModelForObjectDetection",
    "image-segmentation": "AutoModelForSemanticSegmentation",
    "depth-estimation": "AutoModelForDepthEstimation",
    "audio-classification": "AutoModelForAudioClassification",
    "ctc": "AutoModelForCTC",
    "speech-recognition": "AutoModelForSpeechSeq2Seq",
}


def parse_task(text: str) -> str:
    """The task of this name or alias.

    Raises:
        SpecError: there is none.
    """
    task = _ALIASES.get(text, text)
    if task not in TASKS:
        raise SpecError(f"task {text!r} isn't known; use one of {', '.join(TASKS)}, or --input instead")
    return task
