"""What the tests of evaluation share."""

import pytest
from support.own_questions import write_questions


@pytest.fixture
def data(tmp_path):
    """Files of a user's own: questions to answer in text, and questions with choices."""
    return write_questions(tmp_path)
