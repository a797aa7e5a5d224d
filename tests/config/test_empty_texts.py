"""Empty texts: rejected before sending, with their positions and the line that leaves them out."""

from __future__ import annotations

import asyncio

import pytest
from langchain_core.documents import Document
from llama_index.core.schema import TextNode
from support.adapters import DASHSCOPE, options_for

from langchain_multiembed import MultiEmbeddings
from llamaindex_multiembed import MultiEmbedding
from multiembed import EmbeddingClient, InvalidRequestError


def documents_of(texts):
    return {"documents": [Document(page_content=text) for text in texts]}


def nodes_of(texts):
    return {"nodes": [TextNode(text=text) for text in texts]}


def texts_of_documents(names):
    return [document.page_content for document in names["documents"]]


def texts_of_nodes(names):
    return [node.get_content() for node in names["nodes"]]


DROPPING = {
    "client": (EmbeddingClient, "embed", lambda texts: {"texts": texts}, lambda names: names["texts"]),
    "langchain": (MultiEmbeddings, "embed_documents", documents_of, texts_of_documents),
    "llamaindex": (MultiEmbedding, "get_text_embedding_batch", nodes_of, texts_of_nodes),
}


@pytest.mark.parametrize("way", ["", "a"], ids=["sync", "async"])
@pytest.mark.parametrize("entry_point", DROPPING)
def test_empty_texts_are_listed_with_a_line_that_drops_them(simulator, entry_point, way):
    """The line that the message ends with is run: what is left has no empty text, and can be embedded."""
    made, method, hold, held = DROPPING[entry_point]
    model = {"model_name" if made is MultiEmbedding else "model": DASHSCOPE}
    embedder = made(**model, **options_for(simulator))
    texts = ["one", "", " \n", "two", *[""] * 9, "three"]

    def embed(some_texts):
        result = getattr(embedder, way + method)(some_texts)
        return asyncio.run(result) if way else result

    with pytest.raises(InvalidRequestError) as caught:
        embed(texts)
    message = caught.value.message
    assert "11 of 14 texts are empty or blank" in message
    assert "Positions, counted from 0: 1, 2, 4, 5, 6 and 6 more." in message
    assert caught.value.indices == (1, 2, *range(4, 13))
    assert simulator.requests == []
    names = hold(texts)
    exec(message.partition("To leave them out: ")[2], names)
    assert held(names) == ["one", "two", "three"]
    assert len(getattr(rows := embed(held(names)), "vectors", rows)) == 3


def test_only_empty_text_is_named_without_positions(simulator):
    with pytest.raises(InvalidRequestError, match="The text is empty or blank, and the API rejects such texts"):
        MultiEmbeddings(model=DASHSCOPE, **options_for(simulator)).embed_query("")
