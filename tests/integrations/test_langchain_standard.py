"""LangChain's own standard suites, for every provider, against the simulator over real sockets."""

from __future__ import annotations

import pytest
from support.adapters import MODELS, REMOTE_MODELS, options_for, provider_of

from langchain_multiembed import MultiEmbeddings
from multiembed.providers import PROVIDERS

pytest.importorskip("langchain_tests", reason="it needs a newer langchain-core")
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests


class _OneModel:
    """Each suite is run once for each model."""

    @pytest.fixture(autouse=True)
    def one_model(self, simulator, tried):
        self.tried = tried
        self.simulator = simulator

    @property
    def embeddings_class(self):
        return MultiEmbeddings

    @property
    def embedding_model_params(self):
        return {"model": self.tried, **options_for(self.simulator, self.tried)}


@pytest.mark.parametrize("tried", REMOTE_MODELS)
class TestUnit(_OneModel, EmbeddingsUnitTests):
    @property
    def init_from_env_params(self):
        provider = PROVIDERS[provider_of(self.tried)]
        needed = {provider.key_env[0], *provider.base_url_env}
        environment = {name: value for name, value in self.simulator.environment().items() if name in needed}
        return environment, {"model": self.tried}, {"model": self.tried}


@pytest.mark.parametrize("tried", MODELS)
class TestIntegration(_OneModel, EmbeddingsIntegrationTests):
    pass
