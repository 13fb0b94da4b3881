"""The corpora of the papers, from the Hugging Face hub."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from xmsim.configs.errors import XmsimError, nearest
from xmsim.workloads.texts.corpora import Corpus, DocumentSample, RunningText, shipped_text

HUB_SECONDS = 5  # for the hub's first answer


class DatasetError(XmsimError):
    """A corpus that cannot be had here."""


def hub_corpus(name: str) -> Corpus:
    """The corpus of that name: wikitext2, ptb or c4. Where WikiText-2 cannot be had, the shipped excerpt of it, with a note.

    Raises:
        DatasetError: another name, or PTB or C4 cannot be had: no connection and no copy of it here, or no `datasets` package.
    """
    if name not in _CORPORA:
        raise DatasetError(f"no dataset {name}; {nearest(name, tuple(_CORPORA))}")
    return _CORPORA[name]()


def _wikitext2() -> Corpus:
    """The raw test split, its lines joined by empty ones.

    Source: coralabo/DynaX, dataUtil.py; locuslab/wanda, lib/data.py; FasterDecoding/TEAL adds an empty line at the end.
    """
    try:
        lines = _column("wikitext2", "text", "Salesforce/wikitext", "wikitext-2-raw-v1", split="test")
    except DatasetError as error:
        return shipped_text(note=f"{error}; the shipped excerpt of WikiText-2 was read instead")
    return RunningText("WikiText-2, test split", "\n\n".join(lines))


def _ptb() -> Corpus:
    """Penn Treebank's validation split, its sentences joined by empty lines. Source: coralabo/DynaX, dataUtil.py."""
    sentences = _required(
        "ptb",
        "sentence",
        "ptb-text-only/ptb_text_only",
        revision="refs/convert/parquet",  # the dataset itself is a script, which nothing here runs
        split="validation",
    )
    return RunningText("Penn Treebank, validation split", "\n\n".join(sentences))


def _c4() -> Corpus:
    """One window from each of 256 documents of the first file of C4's validation split. Source: coralabo/DynaX, dataUtil.py."""
    files = {"validation": "en/c4-validation.00000-of-00008.json.gz"}
    return DocumentSample("C4, validation documents", _required("c4", "text", "allenai/c4", data_files=files, split="validation"))


_CORPORA: dict[str, Callable[[], Corpus]] = {"wikitext2": _wikitext2, "ptb": _ptb, "c4": _c4}


def _required(name: str, column: str, *place: str, **options: Any) -> list[str]:
    try:
        return _column(name, column, *place, **options)
    except DatasetError as error:
        raise DatasetError(f"{error}; give a file of it with --text FILE") from error


def _column(name: str, column: str, *place: str, **options: Any) -> list[str]:
    """One column of a dataset, from the hub or from the copy that an earlier run left here."""
    try:
        import datasets
    except ImportError as error:
        raise DatasetError(f"dataset {name}: the datasets package is missing (pip install 'xmsim[datasets]')") from error
    try:
        with _without_retries():
            return [str(text) for text in datasets.load_dataset(*place, **options)[column]]
    except Exception as error:  # datasets and its clients raise whatever they like; all of it means: not to be had
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].removesuffix(".")
        raise DatasetError(f"dataset {name}: cannot be loaded ({reason})") from error


@contextmanager
def _without_retries() -> Iterator[None]:
    """Ask the hub once; if it does not answer, only copies on this host count, and nobody waits for retries."""
    from huggingface_hub import constants

    logger = logging.getLogger("huggingface_hub")
    offline, level = constants.HF_HUB_OFFLINE, logger.level
    logger.setLevel(logging.ERROR)
    constants.HF_HUB_OFFLINE = offline or not _hub_answers()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline
        logger.setLevel(level)


def _hub_answers() -> bool:
    """The hub, or the mirror or proxy that the environment names, gives any answer at all."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS)
    except Exception:  # the client's errors depend on its version
        return False
    return True
