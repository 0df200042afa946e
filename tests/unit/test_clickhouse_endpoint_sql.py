from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.embedded.clickhouse.sql import analyse, quote, tokens


@pytest.mark.parametrize(
    ("text", "kind", "output_format"),
    [
        ("SELECT 1", "SELECT", ""),
        ("select 1 format JSON", "SELECT", "JSON"),
        ("SELECT 1 FORMAT JSON;", "SELECT", "JSON"),
        (
            "SELECT 1 FORMAT JSONEachRow SETTINGS max_threads = 1, x='FORMAT y'",
            "SELECT",
            "JSONEachRow",
        ),
        ("SELECT 'a FORMAT CSV'", "SELECT", ""),
        ("SELECT 1 -- FORMAT CSV", "SELECT", ""),
        ("SELECT 1 /* FORMAT CSV */ FORMAT TSV", "SELECT", "TSV"),
        ("SELECT format FROM t", "SELECT", ""),
        ("SELECT format FROM (SELECT 1 AS format) FORMAT CSV", "SELECT", "CSV"),
        ("SELECT * FROM (SELECT 1 FORMAT CSV)", "SELECT", ""),
        ("WITH 1 AS x SELECT x", "SELECT", ""),
        ("(SELECT 1)", "SELECT", ""),
        ("-- hello\n  SHOW TABLES", "SHOW", ""),
        ("SELECT $a$ FORMAT CSV $a$", "SELECT", ""),
        ("", "", ""),
        (" -- only a comment", "", ""),
    ],
)
def test_kind_and_format_of_a_query(text: str, kind: str, output_format: str) -> None:
    statement = analyse(text)
    assert (statement.kind, statement.output_format, statement.insert) == (
        kind,
        output_format,
        None,
    )


@pytest.mark.parametrize(
    ("text", "head", "input_format", "data"),
    [
        ("INSERT INTO t FORMAT CSV\n1,2\n", "INSERT INTO t ", "CSV", "1,2\n"),
        ("INSERT INTO t FORMAT Native\r\n\n", "INSERT INTO t ", "Native", "\n"),
        ('INSERT INTO t FORMAT JSONEachRow {"a":1}', "INSERT INTO t ", "JSONEachRow", '{"a":1}'),
        (
            "insert into db.t (a, `FORMAT`) values (1)",
            "insert into db.t (a, `FORMAT`) ",
            "Values",
            " (1)",
        ),
        ("INSERT INTO TABLE format FORMAT TSV\nx", "INSERT INTO TABLE format ", "TSV", "x"),
        ("INSERT INTO db.values VALUES (1)", "INSERT INTO db.values ", "Values", " (1)"),
        (
            "INSERT INTO t SETTINGS async_insert=1, a='FORMAT X' FORMAT TSV\nx",
            "INSERT INTO t SETTINGS async_insert=1, a='FORMAT X' ",
            "TSV",
            "x",
        ),
        ("INSERT INTO {t:Identifier} FORMAT TSV\nx", "INSERT INTO {t:Identifier} ", "TSV", "x"),
        ("INSERT INTO t (a)", "INSERT INTO t (a)", "", ""),
        ("INSERT INTO t FORMAT Values (1)", "INSERT INTO t ", "Values", " (1)"),
    ],
)
def test_an_insert_is_split_from_its_data(
    text: str, head: str, input_format: str, data: str
) -> None:
    insert = analyse(text).insert
    assert insert is not None
    assert (insert.head, insert.input_format, text[insert.data_start :]) == (
        head,
        input_format,
        data,
    )


@pytest.mark.parametrize(
    "text",
    [
        "INSERT INTO t SELECT 1",
        "INSERT INTO t (a, b) SELECT 1, 2",
        "INSERT INTO t (SELECT 1)",
        "INSERT INTO t (a) (SELECT 1)",
        "INSERT INTO t WITH 1 AS x SELECT x",
    ],
)
def test_an_insert_from_a_query_has_no_data(text: str) -> None:
    statement = analyse(text)
    assert (statement.kind, statement.insert) == ("INSERT SELECT", None)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT file('/etc/passwd')",
        "SELECT * FROM FILE ('/etc/passwd', CSV)",
        "SELECT * FROM `file`('/etc/passwd')",
        "SELECT 1 INTO OUTFILE '/tmp/x'",
        "INSERT INTO t FROM INFILE 'x' FORMAT CSV",
        "INSERT INTO FUNCTION file('x') SELECT 1",
        "INSERT INTO FUNCTION file('x', CSV) VALUES (1)",
        "CREATE TABLE x (a Int8) ENGINE = File(CSV, '/tmp/x')",
        "INSERT INTO t SELECT * FROM python(x)",
        "WITH x AS (SELECT file('a')) SELECT * FROM x",
    ],
)
def test_reaching_for_the_host_is_seen(text: str) -> None:
    assert analyse(text).denied


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 'file(', \"x\" FROM file",
        "SELECT file FROM t -- file('x')",
        "INSERT INTO t VALUES ('file(')",
    ],
)
def test_the_word_file_alone_is_fine(text: str) -> None:
    assert not analyse(text).denied


@given(st.text(st.characters(max_codepoint=255)))
def test_tokens_cover_any_text_in_order(text: str) -> None:
    end = 0
    for token in tokens(text):
        assert token.start >= end
        assert text[token.start : token.end] == token.text
        end = token.end
    analyse(text)


@given(st.text(st.characters(max_codepoint=255)))
def test_data_of_an_insert_is_never_read_as_sql(data: str) -> None:
    text = "INSERT INTO t FORMAT RowBinary\n" + data
    insert = analyse(text).insert
    assert insert is not None
    assert text[insert.data_start :] == data


@given(st.text())
def test_a_quoted_string_is_one_token(value: str) -> None:
    (token,) = tokens(quote(value).encode().decode("latin-1"))
    assert token.kind == "string"
