"""A chain of a teacher, an auto-encoder and their data, trained once for all tests of the methods."""

from __future__ import annotations

import pytest

from tests.chain import Chain, build, small_networks


@pytest.fixture(scope="session")
def chain_once(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    with pytest.MonkeyPatch.context() as patch:
        small_networks(patch)
        return build(tmp_path_factory.mktemp("chain"))


@pytest.fixture
def chain(chain_once: Chain, monkeypatch: pytest.MonkeyPatch) -> Chain:
    """Small networks, no reports, and the chain; to be read, not changed."""
    small_networks(monkeypatch)
    monkeypatch.setattr("xmkd.training.write_or_warn", lambda *_: None)
    return chain_once
