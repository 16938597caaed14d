"""What a failed assertion of a shared helper compared is shown, as in the tests themselves."""

import pytest

pytest.register_assert_rewrite("tests.end_to_end.commands")
