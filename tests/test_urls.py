"""Passwords and keys are hidden in every kind of URL, and what is none stays readable."""

import pytest

from meanflow_tune.urls import has_hidden, hide_password, hide_passwords


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:s@cret@host:1/x", "http://***@host:1/x"),
        ("https://TOKEN@host/x", "https://***@host/x"),
        (
            "tune --tracking-uri 'postgresql://u:p@h/d' -v",
            "tune --tracking-uri 'postgresql://***@h/d' -v",
        ),
        ("postgresql+psycopg://u:pa/ss:w?rd#1@h:5432/d", "postgresql+psycopg://***@h:5432/d"),
        ("postgresql://u@h/d?password=x&sslmode=require", "postgresql://u@h/d?password=***&sslmode=require"),
        ("postgresql://u:@h/d", "postgresql://***@h/d"),
        ("postgresql://u@p@h/d", "postgresql://***@h/d"),
        ("x-postgresql://u@h/d", "x-postgresql://***@h/d"),
        ("postgresql:///d?host=/run&sslpassword=x", "postgresql:///d?host=/run&sslpassword=***"),
        ("mssql+pyodbc:///?odbc_connect=DRIVER%3DX%3BPWD%3Dx", "mssql+pyodbc:///?odbc_connect=***"),
        ("http://h:1/?token=a.b-c&x=1", "http://h:1/?token=***&x=1"),
        ("http://h/?a=1&amp;API_KEY=abc'", "http://h/?a=1&amp;API_KEY=***'"),
        ("s3://AKIA:se/cret@bucket/path", "s3://***@bucket/path"),
        ("https://b.s3.amazonaws.com/x?X-Amz-Signature=abc", "https://b.s3.amazonaws.com/x?X-Amz-Signature=***"),
("for url: /api?access_token=x (by", "for url: /api?access_token=*** (by"),
        ("one http://a:b@h and mysql://c:d@h", "one http://***@h and mysql://***@h"),
    ],
)  # fmt: skip
def test_secrets_are_hidden_wherever_they_stand(text: str, shown: str) -> None:
    assert hide_password(text) == shown
    assert has_hidden(shown)
    assert hide_password(shown) == shown, "a masked URL stays as it is"


@pytest.mark.parametrize(
    "text",
    [
        "http://host/a@b and sqlite:////x/a@b.db",
        "sqlite:////x/y:z@w.db?timeout=3",
        "--study-storage postgresql://me@db/studies --tracking-uri mysql+pymysql://me@db/mlflow",
        "http://127.0.0.1:5000/#/models/digits@champion",
        "models:/digits@champion",
        "--set budget.images=64000 --objectives a@1,b@4",
        "data:image/png;base64,iVBORpwdSIGtoken==",
        "x ? key : other; sig = 3 && a=b",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert hide_password(text) == text
    assert not has_hidden(text)


def test_plain_data_keeps_its_shape() -> None:
    data = {"a": ["http://u:p@h", 1, None, {"b": "x"}], "n": 1.5, "t": True}
    assert hide_passwords(data) == {"a": ["http://***@h", 1, None, {"b": "x"}], "n": 1.5, "t": True}
