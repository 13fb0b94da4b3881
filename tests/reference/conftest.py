"""Fixtures of the reference's tests."""

import pytest
from tests.reference.kinds import Kind, kinds


@pytest.fixture(scope="session", params=kinds(), ids=lambda kind: kind.device or "numpy")
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param
