"""Settings: one line for their first fault, and families whose members are found by being imported."""

import re
from abc import abstractmethod
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, TypeAdapter, ValidationError

from meanflow_tune.settings import Member, OneOf, Settings, first_fault


class Shape(Member):
    @abstractmethod
    def area(self) -> float: ...


class Square(Shape):
    kind: Literal["square"] = "square"
    edge: float = Field(1.0, gt=0.0)

    def area(self) -> float:
        return self.edge**2


class Round(Shape):
    radius: float = 1.0


class Disc(Round):
    kind: Literal["disc"] = "disc"

    def area(self) -> float:
        return 3.0 * self.radius**2


class Drawing(Settings):
    shape: Annotated[Shape, OneOf(Shape.members())] = Square()
    pen: int = 1


def test_members_are_the_concrete_classes() -> None:
    assert Shape.members() == (Square, Disc)


def test_one_of_the_members_is_told_by_its_kind() -> None:
    for shape in (Square(edge=2.0), Disc(radius=0.5)):
        drawing = Drawing(shape=shape)
        data = drawing.model_dump(mode="json")
        assert data["shape"] == shape.model_dump(mode="json")
        assert Drawing.model_validate(data) == drawing
    with pytest.raises(ValidationError, match="'square', 'disc'"):
        TypeAdapter(Drawing).validate_python({"shape": {"kind": "star"}})


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ({"pen": "x"}, r"pen: .*valid integer.* \(got 'x'\)"),
        ({"pem": 1}, "pem: is not a setting"),
        (
            {"shape": {"kind": "square", "edge": -1}, "pen": 0.5},
            r"shape.square.edge: .*; and 1 more",
        ),
        ({"shape": {"edge": 1}}, r"shape: needs a 'kind', .* \(got {'edge': 1}\)"),
        ({"shape": "disc"}, r"shape: must be settings, such as {.*} \(got 'disc'\)"),
        ({"shape": {"kind": "disc", "edge": 1}}, "shape.disc.edge: is not a setting"),
    ],
)
def test_the_first_fault_is_one_line(data: Any, line: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Drawing.model_validate(data)
    text = first_fault(caught.value)
    assert "\n" not in text
    assert re.fullmatch(line, text), text
