"""Corpora from the hub, through a stand-in for the datasets package: nothing here leaves this host."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from xmsim.workloads.texts import hub_corpora
from xmsim.workloads.texts.corpora import SHIPPED_NAME, DocumentSample, shipped_text
from xmsim.workloads.texts.hub_corpora import DatasetError, hub_corpus

constants = pytest.importorskip("huggingface_hub.constants")


class Hub:
    """What load_dataset was asked for, and what it answers."""

    def __init__(self) -> None:
        self.calls: list[tuple[tuple[str, ...], dict[str, Any], bool]] = []
        self.answer: dict[str, list[str]] | Exception = {}
        self.reachable = True

    def load_dataset(self, *place: str, **options: Any) -> dict[str, list[str]]:
        self.calls.append((place, options, constants.HF_HUB_OFFLINE))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub()
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=hub.load_dataset))
    monkeypatch.setattr(hub_corpora, "_hub_answers", lambda: hub.reachable)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield hub
    assert constants.HF_HUB_OFFLINE is False  # put back, whatever happened


def text_of(corpus: Any) -> str:
    return str(corpus._text)


def test_wikitext2_is_the_raw_test_split_joined_by_empty_lines(hub: Hub):
    hub.answer = {"text": [" = A = \n", "", "b"]}
    corpus = hub_corpus("wikitext2")
    assert hub.calls == [(("Salesforce/wikitext", "wikitext-2-raw-v1"), {"split": "test"}, False)]
    assert (corpus.name, corpus.note, text_of(corpus)) == ("WikiText-2, test split", "", " = A = \n\n\n\n\nb")


def test_ptb_is_the_validation_split_of_the_converted_files_so_that_no_script_runs(hub: Hub):
    hub.answer = {"sentence": ["a b", "c"]}
    corpus = hub_corpus("ptb")
    ((place, options, _),) = hub.calls
    assert place == ("ptb-text-only/ptb_text_only",)
    assert options == {"revision": "refs/convert/parquet", "split": "validation"}
    assert text_of(corpus) == "a b\n\nc"


def test_c4_is_a_sample_of_the_first_validation_file(hub: Hub):
    hub.answer = {"text": ["a document", "another"]}
    corpus = hub_corpus("c4")
    ((place, options, _),) = hub.calls
    assert place == ("allenai/c4",) and options["data_files"] == {"validation": "en/c4-validation.00000-of-00008.json.gz"}
    assert isinstance(corpus, DocumentSample)
    assert corpus.sha256 == DocumentSample("", ["a document", "another"]).sha256


@pytest.mark.parametrize("name", ["wikitext2", "ptb", "c4"])
def test_remote_code_is_never_trusted(hub: Hub, name: str):
    hub.answer = {"text": ["x"], "sentence": ["x"]}
    hub_corpus(name)
    assert not any("trust_remote_code" in options for _, options, _ in hub.calls)


def test_a_hub_that_does_not_answer_is_not_asked_again_and_copies_on_this_host_still_count(hub: Hub):
    hub.reachable = False
    hub.answer = {"text": ["kept from an earlier run"]}
    assert text_of(hub_corpus("wikitext2")) == "kept from an earlier run"
    assert [offline for *_, offline in hub.calls] == [True]


def test_without_a_connection_wikitext2_is_the_shipped_excerpt_and_says_so(hub: Hub):
    hub.reachable, hub.answer = False, ConnectionError("Couldn't reach 'Salesforce/wikitext' on the Hub.\nmore")
    corpus = hub_corpus("wikitext2")
    assert (corpus.name, corpus.sha256) == (SHIPPED_NAME, shipped_text().sha256)
    assert corpus.note == (
        "dataset wikitext2: cannot be loaded (Couldn't reach 'Salesforce/wikitext' on the Hub); "
        "the shipped excerpt of WikiText-2 was read instead"
    )


@pytest.mark.parametrize("name", ["ptb", "c4"])
def test_without_a_connection_the_others_are_one_sentence_with_the_way_out(hub: Hub, name: str):
    hub.answer = ConnectionError("no route")
    with pytest.raises(DatasetError, match=rf"^dataset {name}: cannot be loaded \(no route\); give a file of it with --text FILE$"):
        hub_corpus(name)


def test_without_the_package_the_answer_is_the_command_that_adds_it(hub: Hub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DatasetError, match=r"the datasets package is missing \(pip install 'xmsim\[datasets\]'\); give a file"):
        hub_corpus("c4")
    assert "pip install 'xmsim[datasets]'" in hub_corpus("wikitext2").note


def test_another_dataset_is_answered_with_the_nearest():
    with pytest.raises(DatasetError, match=r"^no dataset wikitext; did you mean wikitext2\?$"):
        hub_corpus("wikitext")


def test_the_first_answer_of_the_hub_is_waited_for_a_few_seconds_only(monkeypatch: pytest.MonkeyPatch):
    import huggingface_hub

    asked = {}

    def head(url: str, *, timeout: float) -> None:
        asked[url] = timeout
        raise TimeoutError

    monkeypatch.setattr(huggingface_hub, "get_session", lambda: SimpleNamespace(head=head))
    assert hub_corpora._hub_answers() is False
    assert asked == {constants.ENDPOINT: hub_corpora.HUB_SECONDS} and hub_corpora.HUB_SECONDS <= 10
    monkeypatch.setattr(huggingface_hub, "get_session", lambda: SimpleNamespace(head=lambda url, timeout: None))
    assert hub_corpora._hub_answers() is True
