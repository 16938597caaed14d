"""What a failed assertion of a shared helper compared is shown, as in the tests themselves."""

import pytest

pytest.register_assert_rewrite("tests.support.processes.commands")
