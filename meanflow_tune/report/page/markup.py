"""HTML as text that is escaped unless it was made here."""

import re
from collections.abc import Iterable, Sequence
from html import escape

_VOID = frozenset({"img", "input", "meta", "br", "link", "wbr"})
# Neither HTML nor a terminal shows these; a NUL ends the parsing of a page.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff\ud800-\udfff]")


class Html(str):
    """Markup: `tag` puts it in as it is, and any other text escaped."""

    __slots__ = ()


def text(value: object) -> Html:
    """Any text, from wherever it comes, as markup."""
    return value if isinstance(value, Html) else Html(escape(_CONTROL.sub("\ufffd", str(value))))


def join(parts: Iterable[object], between: str = "") -> Html:
    """The parts one after another; what is no markup is escaped."""
    return Html(between.join(text(part) for part in parts))


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """An element. `class_` is the attribute class, `data_row` is data-row; None and False leave one out."""
    words = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        title = key.rstrip("_").replace("_", "-")
        words.append(title if value is True else f'{title}="{text(value)}"')
    opening = f"<{' '.join(words)}>"
    if name in _VOID:
        return Html(opening)
    return Html(f"{opening}{join(children)}</{name}>")


def name(value: object) -> Html:
    """A name that may break after its underscores and slashes."""
    return Html(re.sub(r"([_/])", r"\1<wbr>", text(value)))


def paragraph(*children: object, class_: str | None = None) -> Html:
    return tag("p", *children, class_=class_)


def bullets(items: Iterable[object], class_: str | None = None) -> Html:
    return tag("ul", *(tag("li", item) for item in items), class_=class_)


def table(
    caption: object,
    head: Sequence[object],
    rows: Iterable[Sequence[object]],
    text_columns: int = 1,
    sortable: bool = False,
    class_: str = "",
) -> Html:
    """A table whose first column heads its rows; the columns after `text_columns` are numbers.

    sortable: the columns' heads are buttons that sort.
    """

    def kind(index: int) -> str | None:
        return None if index < text_columns else "num"

    heads = [
        tag(
            "th",
            tag("button", name, type="button") if sortable else name,
            scope="col",
            class_=kind(index),
        )
        for index, name in enumerate(head)
    ]
    body = []
    for row in rows:
        if len(row) != len(head):
            raise ValueError(f"a row of {len(row)} cells in a table of {len(head)} columns")
        cells = [tag("th", row[0] if isinstance(row[0], Html) else name(row[0]), scope="row")]
        cells += [tag("td", cell, class_=kind(i)) for i, cell in enumerate(row[1:], 1)]
        body.append(tag("tr", *cells))
    made = tag(
        "table",
        tag("caption", caption),
        tag("thead", tag("tr", *heads)),
        tag("tbody", *body),
        class_=" ".join(filter(None, (class_, "sortable" if sortable else ""))) or None,
    )
    # A region that scrolls must be reachable by keyboard, and then it needs a name.
    return tag("div", made, class_="scroll", tabindex="0", role="group", aria_label=caption)


def details(summary: object, *children: object) -> Html:
    return tag("details", tag("summary", summary), *children)
