"""Markup: what comes from outside is text."""

from meanflow_tune.report.page.markup import Html, name, table, tag, text


def test_text_is_escaped_and_markup_is_not() -> None:
    assert tag("p", "<b>", tag("i", "a & b")) == "<p>&lt;b&gt;<i>a &amp; b</i></p>"
    assert text("\x00\x1b[0m\ud800") == "\ufffd\ufffd[0m\ufffd"


def test_attributes_are_escaped_and_left_out() -> None:
    made = tag("img", alt='"x" > y', class_=None, hidden=True, data_row=3)
    assert made == '<img alt="&quot;x&quot; &gt; y" hidden data-row="3">'


def test_a_name_may_break_and_stays_text() -> None:
    assert name("a_b/<c>") == "a_<wbr>b/<wbr>&lt;c&gt;"


def test_a_table_has_heads_of_rows_and_columns() -> None:
    made = table("What <it> shows", ("name", "n"), [["a<b", 1]], sortable=True)
    assert made.count('scope="col"') == 2
    assert '<th scope="row">a&lt;b</th><td class="num">1</td>' in made
    assert made.count('<button type="button">') == 2
    assert "<caption>What &lt;it&gt; shows</caption>" in made
    assert isinstance(made, Html)
