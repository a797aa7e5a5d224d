"""Input files: read row by row, each fault with its location. Outputs: whole or absent."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.files import columns, copied, faults, read, write

from multiembed import ConfigurationError
from multiembed.files import InputError, Inputs, WholeFile, output_format, outputs
from multiembed.files.arrow import Column

ROWS = [{"id": 1, "text": 'first, "quoted"'}, {"id": 2, "text": "second\nof two lines"}, {"id": 3, "text": "第三行"}]
TEXTS = [row["text"] for row in ROWS]


def jsonl(*rows):
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)


# ── reading ──────────────────────────────────────────────────────────────────────────────────────


def as_csv(tmp_path):
    return write(tmp_path / "rows.csv", 'id,text\r\n1,"first, ""quoted"""\r\n2,"second\nof two lines"\r\n3,第三行\r\n')


def as_tsv(tmp_path):
    return write(tmp_path / "rows.tsv", 'id\ttext\n1\t"first, ""quoted"""\n2\t"second\nof two lines"\n3\t第三行\n')


def as_jsonl(tmp_path):
    return write(tmp_path / "rows.jsonl", jsonl(*ROWS))


def as_parquet(tmp_path):
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    return tmp_path / "rows.parquet"


@pytest.mark.parametrize("make", [as_csv, as_tsv, as_jsonl, as_parquet])
def test_table_is_read_with_the_types_of_its_columns(tmp_path, make):
    path = make(tmp_path)
    assert read(path) == TEXTS
    assert columns(path) == {"id": pa.int64(), "text": pa.string()}


def test_text_file_is_split_at_newlines_only(tmp_path):
    path = write(tmp_path / "a.txt", "first\r\nsecond\u2028still second\nthird")
    assert read(path) == ["first", "second\u2028still second", "third"]
    assert columns(path) == {"text": pa.string()}


def test_folder_is_read_file_by_file_in_order(tmp_path):
    for name in ("b.md", "a.txt", "deep/c.markdown", ".hidden.md", ".git/d.md", "e.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, f"text\nof {name}\n")
    with Inputs([str(tmp_path)]) as inputs:
        (chunk,) = inputs.chunks()
    assert chunk.texts == ["text\nof a.txt\n", "text\nof b.md\n", "text\nof deep/c.markdown\n"]
    assert chunk.columns.values("path") == [str(tmp_path / name) for name in ("a.txt", "b.md", "deep/c.markdown")]


def test_markdown_file_is_one_text(tmp_path):
    assert read(write(tmp_path / "a.md", "# Title\n\ntext\n")) == ["# Title\n\ntext\n"]


def test_several_inputs_share_one_column(tmp_path):
    first = write(tmp_path / "a.jsonl", jsonl({"body": "one", "n": 1}))
    second = write(tmp_path / "b.csv", "n,body\n2.5,two\n")
    assert read(first, second) == ["one", "two"]
    assert columns(first, second) == {"body": pa.string(), "n": pa.float64()}
    with pytest.raises(InputError, match=r"c\.csv: there is no column 'body'\. Its columns: text"):
        read(first, write(tmp_path / "c.csv", "text\nthree\n"))


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, pa.Codec("zstd").compress])
def test_compressed_files_are_recognised_by_their_bytes(tmp_path, pack):
    packed = pack(jsonl(*ROWS).encode())
    packed = packed if isinstance(packed, bytes) else packed.to_pybytes()
    assert read(write(tmp_path / "rows.jsonl", packed)) == TEXTS
    assert read(write(tmp_path / "rows.jsonl.gz", packed)) == TEXTS


def test_truncated_compressed_file_is_an_error(tmp_path):
    path = write(tmp_path / "rows.jsonl.gz", gzip.compress(jsonl(*ROWS * 1000).encode())[:-20])
    with pytest.raises(InputError, match=r"rows\.jsonl\.gz:\d+: cannot be read"):
        read(path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("make", [as_csv, as_jsonl])
def test_byte_order_mark_names_the_encoding(tmp_path, make, encoding):
    path = make(tmp_path)
    path.write_bytes(path.read_bytes().decode().encode(encoding))
    assert read(path) == read(path) == TEXTS
    assert set(columns(path)) == {"id", "text"}


def test_other_encoding_is_read_if_named_and_else_a_fault(tmp_path):
    path = write(tmp_path / "a.txt", "ascii\n中文\n".encode("gb18030"))
    assert read(path, encoding="gb18030") == ["ascii", "中文"]
    assert list(faults(path)) == [f"{path}:2"]
    assert "--encoding" in faults(path)[f"{path}:2"]
    table = write(tmp_path / "a.csv", "text,n\nascii,1\n中文,2\n".encode("gb18030"))
    assert read(table, encoding="gb18030") == ["ascii", "中文"]
    assert list(faults(table)) == [f"{table}:3"]
    lines = write(tmp_path / "a.jsonl", jsonl({"text": "ascii"}, {"text": "中文"}).encode("gb18030"))
    assert read(lines, encoding="gb18030") == ["ascii", "中文"]
    assert list(faults(lines)) == [f"{lines}:2"]
    with pytest.raises(InputError, match="no encoding 'gbx'"):
        read(path, encoding="gbx")


def test_standard_input_is_copied_and_read_twice(tmp_path):
    stdin = io.BytesIO(jsonl(*ROWS).encode())
    with Inputs(["-"], form="jsonl", stdin=stdin, spool=tmp_path) as inputs:
        assert inputs.survey(columns=False).rows == 3
        assert [text for chunk in inputs.chunks() for text in chunk.texts] == TEXTS
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_named_pipe_is_copied_and_read(tmp_path):
    pipe = tmp_path / "rows.jsonl"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(jsonl(*ROWS),))
    writer.start()
    assert read(pipe, spool=tmp_path) == TEXTS
    writer.join()


def test_tsv_without_quoting_keeps_quotation_marks(tmp_path):
    path = write(tmp_path / "a.tsv", 'text\tn\n"Hello" he said\t1\n')
    with pytest.raises(InputError, match=r"a\.tsv:2: the row cannot be read.*--no-quotes"):
        read(path)
    assert read(path, quoted=False) == ['"Hello" he said']


def test_csv_delimiter_option_is_used(tmp_path):
    assert read(write(tmp_path / "a.csv", "text;n\na,b;1\n"), delimiter=";") == ["a,b"]


def test_jsonl_text_in_an_inner_object_is_read(tmp_path):
    path = write(tmp_path / "a.jsonl", jsonl({"data": {"body": "inner"}, "text": "outer"}))
    assert read(path, column="data.body") == ["inner"]
    assert "data.body" in faults(path, column="data")[f"{path}:1"]


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from("abcd"), st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False)
        )
    )
)
def test_any_rows_are_unchanged_from_jsonl_to_jsonl(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("rows")
    rows = [{**row, "text": "x"} for row in rows] or [{"text": "x"}]
    source = write(folder / "in.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    copied([source], folder / "out.jsonl")
    out = [json.loads(line) for line in (folder / "out.jsonl").read_bytes().splitlines()]
    assert [{name: row[name] for name in row if name != "embedding"} for row in out] == rows


# ── the column of the texts ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ({"id": 1, "body": "x"}, "body"),
        ({"title": "t", "text": "x", "content": "y"}, "text"),
        ({"title": "t", "content": "x"}, "content"),
    ],
)
def test_column_is_the_only_text_or_the_one_with_its_name(tmp_path, row, column):
    for path in (write(tmp_path / "a.jsonl", jsonl(row)), tmp_path / "a.parquet"):
        if path.suffix == ".parquet":
            pq.write_table(pa.Table.from_pylist([row]), path)
        with Inputs([str(path)]) as inputs:
            assert inputs.column == column


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"title": "t", "body": "b"}, r"several columns hold text: say with --column.*title \(text\), body \(text\)"),
        ({"id": 1, "tags": ["a"]}, r"no column holds text.*id \(integer\), tags \(list\)"),
    ],
)
def test_ambiguous_column_is_an_error(tmp_path, row, message):
    with pytest.raises(InputError, match=message):
        read(write(tmp_path / "a.jsonl", jsonl(row)))


def test_wrong_column_is_an_error_that_lists_the_columns(tmp_path):
    path = as_parquet(tmp_path)
    with pytest.raises(InputError, match=r"no column 'txt'\. Its columns: id \(int64\), text \(text\)"):
        read(path, column="txt")
    with pytest.raises(InputError, match=r"'id' holds no text\. Its columns: id \(int64\)"):
        read(path, column="id")


def test_unknown_input_format_is_an_error(tmp_path):
    with pytest.raises(InputError, match=r"--format what .*rows\.dat holds: text, document, csv"):
        read(write(tmp_path / "rows.dat", "x"))
    with pytest.raises(InputError, match="--format what standard input holds"):
        read("-", stdin=io.BytesIO(b"x"))
    assert read(tmp_path / "rows.dat", form="text") == ["x"]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", "", "it has no header"),
        ("a.csv", "text,text\na,b\n", "names 'text' twice"),
        ("a.csv", 'text,n\nok,1\n"open,2\nmore\n', r"a\.csv:3: the row cannot be read"),
        ("a.parquet", "PAR1 but no more", "no whole Parquet file"),
        ("empty", None, r"no file in this folder ends with \.txt"),
    ],
)
def test_broken_file_is_an_error(tmp_path, name, data, message):
    path = tmp_path / name
    path.mkdir() if data is None else path.write_text(data)
    with pytest.raises(InputError, match=message):
        read(path)


def test_file_changed_between_readings_is_an_error(tmp_path):
    path = as_jsonl(tmp_path)
    with Inputs([str(path)]) as inputs:
        inputs.survey(columns=False)
        write(path, jsonl(*ROWS, {"text": "one more"}))
        with pytest.raises(InputError, match="has changed"):
            list(inputs.chunks())


# ── rows that cannot be embedded ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"text": ""}', "the text is empty"),
        ('{"text": " \\n\\u3000"}', "the text is empty"),
        ('{"text": null}', "'text' is null"),
        ('{"text": 5}', "'text' is an integer, not text"),
        ('{"text": ["a"]}', "'text' is a list, not text"),
        ('{"text": {"de": "a"}}', "'text' is an object, not text: a field inside is named as text.de"),
        ('{"body": "a"}', "there is no 'text'; the line has 'body'"),
        ("[1, 2]", "the line is no JSON object but a list (jq -c '.[]' makes lines of a list)"),
        ('"a"', "the line is no JSON object but text"),
        ('{"text": "a"', "the line is no JSON (unexpected end of data at column 13)"),
        ("{", ("the line is no JSON (unexpected end of data at column 2): one object a line is asked for, "
               "not JSON over several lines")),
    ],
)  # fmt: skip
def test_jsonl_faults_have_line_and_reason(tmp_path, line, why):
    path = write(tmp_path / "a.jsonl", f'{{"text": "good"}}\n\n{line}\n{{"text": "good"}}\n')
    assert faults(path) == {f"{path}:3": why}


def test_jsonl_nan_and_lone_surrogates_are_read(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"text": "half \\ud83d", "score": NaN}\n')
    assert read(path) == ["half \ufffd"]
    copied([path], tmp_path / "out.jsonl")
    out = json.loads((tmp_path / "out.jsonl").read_bytes())
    assert (out["text"], out["score"]) == ("half \ufffd", None)


def test_empty_line_of_text_is_a_fault(tmp_path):
    path = write(tmp_path / "a.txt", "first\n\n  \nlast\n")
    assert faults(path) == {f"{path}:2": "the text is empty", f"{path}:3": "the text is empty"}


def test_csv_faults_have_the_line_where_the_row_begins(tmp_path):
    path = write(tmp_path / "a.csv", 'id,text\n\n1,"two\nlines"\n2,\n3,a,b\n4\n')
    assert faults(path) == {
        f"{path}:5": "the text is empty",
        f"{path}:6": "the row has 3 fields, the header 2",
        f"{path}:7": "the row has 1 fields, the header 2",
    }


def test_parquet_nulls_and_empty_texts_are_faults(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["good", None, ""]}), path)
    assert faults(path) == {f"{path}:2": "'text' is null", f"{path}:3": "the text is empty"}


def test_survey_counts_all_faults_and_names_the_first(tmp_path):
    path = write(tmp_path / "a.txt", "good\n" + "\n" * 2000)
    with Inputs([str(path)]) as inputs:
        survey = inputs.survey(columns=False)
    assert (survey.rows, survey.faults, len(survey.named)) == (2001, 2000, 5)
    assert survey.named[0] == f"{path}:2: the text is empty"


# ── types ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        (["1", "-20", ""], pa.int64()),
        (["1", "2.5", "1e3"], pa.float64()),
        (["true", "FALSE"], pa.bool_()),
        (["007", "8"], pa.string()),  # as numbers they would lose their zeros
        (["1", "n/a"], pa.string()),
        (["1", "true"], pa.string()),
        (["12345678901234567890"], pa.string()),
        (["2026-11-21"], pa.string()),
        (["", ""], pa.string()),
    ],
)
@pytest.mark.parametrize("gap", [0, 1000])
def test_csv_column_has_the_type_of_all_its_values(tmp_path, fields, kind, gap):
    filler = [fields[0]] * gap  # so that the last value stands in another chunk than the first
    path = write(
        tmp_path / "a.csv", "n,text\n" + "".join(f"{field},x\n" for field in [*fields[:1], *filler, *fields[1:]])
    )
    assert columns(path, column="text")["n"] == kind


@pytest.mark.parametrize(
    ("first", "last", "kind"),
    [
        (1, 2.5, pa.float64()),
        (1, None, pa.int64()),
        (None, "a", pa.string()),
        (None, None, pa.string()),
        ({"a": 1}, {"b": "x"}, pa.struct([("a", pa.int64()), ("b", pa.string())])),
        ([], ["a"], pa.list_(pa.string())),
        (1, "a", None),
        (1, True, None),
        ({}, {}, None),
        ({"a": 1}, {"a": "x"}, None),
    ],
)
@pytest.mark.parametrize("gap", [0, 1000])
def test_jsonl_field_has_the_type_of_all_its_values(tmp_path, first, last, kind, gap):
    rows = [{"text": "x", "v": first}] * (1 + gap) + [{"text": "x", "v": last}]
    path = write(tmp_path / "a.jsonl", jsonl(*rows))
    assert columns(path)["v"] == kind
    copied([path], tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet").num_rows == len(rows)


def test_jsonl_values_without_common_type_become_text(tmp_path):
    path = write(tmp_path / "a.jsonl", jsonl(*({"text": "x", "v": v} for v in (1, "a", None, {"b": [True]}))))
    copied([path], tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet")["v"].to_pylist() == ["1", "a", None, '{"b":[true]}']


def test_jsonl_large_integers_among_floats_become_floats(tmp_path):
    path = write(tmp_path / "a.jsonl", jsonl(*[{"text": "x", "v": 2**60 + 1}] * 512, {"text": "x", "v": 0.5}))
    copied([path], tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet")["v"][0].as_py() == float(2**60)


# ── writing ──────────────────────────────────────────────────────────────────────────────────────

WIDE = pa.table(
    {
        "text": ["a", "b", "c"],
        "day": pa.array([0, None, 2], pa.date32()),
        "price": pa.array(["1.10", "2.20", None]).cast(pa.decimal128(10, 2)),
        "raw": pa.array([b"\x00\xff", None, b""]),
        "kind": pa.array(["x", "y", "x"]).dictionary_encode(),
        "tags": pa.array([["a"], [], None]),
        "small": pa.array([1, 2, 3], pa.int8()),
    }
)


def test_parquet_to_parquet_keeps_columns_and_types(tmp_path):
    pq.write_table(WIDE, tmp_path / "in.parquet")
    copied([tmp_path / "in.parquet"], tmp_path / "out.parquet", dimensions=3)
    out = pq.read_table(tmp_path / "out.parquet")
    assert out.select(WIDE.column_names) == WIDE
    assert out.schema.field("embedding").type == pa.list_(pa.float32(), 3)
    assert out["embedding"].to_pylist() == [[0, 0, 0], [1, 1, 1], [2, 2, 2]]


def test_parquet_to_jsonl_writes_other_types_as_text(tmp_path):
    pq.write_table(WIDE, tmp_path / "in.parquet")
    copied([tmp_path / "in.parquet"], tmp_path / "out.jsonl")
    first = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])
    assert first == {
        "text": "a",
        "day": "1970-01-01",
        "price": "1.10",
        "raw": "00ff",
        "kind": "x",
        "tags": ["a"],
        "small": 1,
        "embedding": [0, 0],
    }


def test_jsonl_to_jsonl_keeps_each_line_unchanged(tmp_path):
    path = write(tmp_path / "in.jsonl", '{ "text":"a", "n": 1.50, "big": 123456789012345678901234567890 } \r\n')
    copied([path], tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text() == (
        '{ "text":"a", "n": 1.50, "big": 123456789012345678901234567890,"embedding":[0.0,0.0]}\n'
    )


def test_csv_to_jsonl_writes_numbers_as_numbers(tmp_path):
    copied([write(tmp_path / "in.csv", "id,zip,text\n1,007,a\n,008,b\n")], tmp_path / "out.jsonl", column="text")
    out = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(row["id"], row["zip"]) for row in out] == [(1, "007"), (None, "008")]


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_rows_that_are_not_kept_are_left_out(tmp_path, suffix):
    source = write(tmp_path / "in.jsonl", jsonl(*({"text": "x", "n": n} for n in range(1500))))
    copied([source], tmp_path / f"out.{suffix}", kept=[3, 700, 701])
    if suffix == "jsonl":
        out = [json.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    else:
        out = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [(row["n"], row["embedding"]) for row in out] == [(n, [n, n]) for n in (3, 700, 701)]


def test_npy_has_nan_where_a_row_is_not_kept(tmp_path):
    source = write(tmp_path / "in.jsonl", jsonl(*({"text": "x"} for _ in range(1500))))
    copied([source], tmp_path / "out.npy", kept=[700, 1499], dimensions=3)
    matrix = np.load(tmp_path / "out.npy", mmap_mode="r")
    assert (matrix.dtype, matrix.shape, matrix.flags.c_contiguous) == (np.float32, (1500, 3), True)
    assert np.flatnonzero(~np.isnan(matrix).any(axis=1)).tolist() == [700, 1499]
    assert matrix[1499].tolist() == [1499] * 3


def test_parquet_of_many_rows_has_several_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(outputs, "_ROW_GROUP_BYTES", 1 << 20)
    source = write(tmp_path / "in.txt", "x\n" * 5000)
    copied([source], tmp_path / "out.parquet", dimensions=128)
    file = pq.ParquetFile(tmp_path / "out.parquet")
    assert (file.metadata.num_rows, file.metadata.num_row_groups) == (5000, 3)
    assert [row[0].as_py() for row in file.read()["embedding"]] == list(range(5000))


def test_output_refuses_an_existing_embedding_column(tmp_path):
    source = write(tmp_path / "in.jsonl", jsonl(*[{"text": "x"}] * 600, {"text": "x", "embedding": 1}))
    for suffix in ("parquet", "jsonl"):
        with pytest.raises(ConfigurationError, match=r"a column 'embedding' already.*--embedding-column"):
            copied([source], tmp_path / f"out.{suffix}")


def test_output_name_without_known_suffix_is_an_error(tmp_path):
    with pytest.raises(ConfigurationError, match=r"end it with \.parquet, \.jsonl or \.npy"):
        output_format(tmp_path / "out.csv")


# ── whole or not at all ──────────────────────────────────────────────────────────────────────────


def test_whole_file_appears_only_when_finished(tmp_path):
    path = tmp_path / "out"
    with WholeFile(path) as file:
        file.stream.write(b"half")
        assert not path.exists()
    assert not list(tmp_path.iterdir())
    with WholeFile(path) as file:
        file.stream.write(b"whole")
        file.finish()
    assert [(found.name, found.read_bytes()) for found in tmp_path.iterdir()] == [("out", b"whole")]


def test_whole_file_replaces_only_with_overwrite(tmp_path):
    path = write(tmp_path / "out", "before")
    with pytest.raises(ConfigurationError, match="exists already: --overwrite"):
        WholeFile(path)
    with WholeFile(path, overwrite=True) as file:
        file.stream.write(b"half")
    assert path.read_text() == "before"
    with WholeFile(path, overwrite=True) as file:
        file.stream.write(b"after")
        file.finish()
    assert path.read_text() == "after"


def test_whole_file_keeps_a_file_that_appears_meanwhile(tmp_path):
    path = tmp_path / "out"
    with WholeFile(path) as file:
        write(path, "of another program")
        with pytest.raises(ConfigurationError, match="exists already"):
            file.finish()
    assert [(found.name, found.read_text()) for found in tmp_path.iterdir()] == [("out", "of another program")]


def test_whole_file_is_refused_to_a_second_writer(tmp_path):
    with WholeFile(tmp_path / "out"), pytest.raises(ConfigurationError, match="Another program"):
        WholeFile(tmp_path / "out")


def test_whole_file_reuses_the_file_of_a_killed_program(tmp_path):
    write(tmp_path / ".out.partial", "x" * 100)
    with WholeFile(tmp_path / "out") as file:
        file.stream.write(b"new")
        file.finish()
    assert (tmp_path / "out").read_text() == "new"


@pytest.mark.parametrize("name", ["missing/out", "."])
def test_whole_file_in_a_missing_folder_is_an_error(tmp_path, name):
    with pytest.raises(ConfigurationError, match="folder"):
        WholeFile(tmp_path / name)


def test_pyarrow_is_required_only_for_parquet(monkeypatch, tmp_path):
    from multiembed.files import arrow

    arrow.arrow.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'multiembed\[files\]'"):
        output_format(tmp_path / "out.parquet")
    assert read(as_csv(tmp_path)) == TEXTS
    assert Column("a", None).name == "a"


def test_whole_file_keeps_permissions_and_links(tmp_path):
    (tmp_path / "there").mkdir()
    path = write(tmp_path / "there" / "out", "before")
    path.chmod(0o600)
    (tmp_path / "link").symlink_to(path)
    with WholeFile(tmp_path / "link", overwrite=True) as file:
        file.stream.write(b"after")
        file.finish()
    assert (tmp_path / "link").is_symlink()
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("after", 0o600)


def test_whole_file_refuses_a_device():
    with pytest.raises(ConfigurationError, match="is no regular file"):
        WholeFile(Path(os.devnull), overwrite=True)


@pytest.mark.skipif(sys.platform == "win32", reason="files are not locked there")
def test_whole_file_opened_while_another_finishes_is_safe(tmp_path, monkeypatch):
    first = WholeFile(tmp_path / "out", overwrite=True)
    first.stream.write(b"first")
    begun = os.open

    def opened(*arguments):
        descriptor = begun(*arguments)
        monkeypatch.setattr(os, "open", begun)
        first.finish()  # between the second program's opening and its locking
        return descriptor

    monkeypatch.setattr(os, "open", opened)
    with WholeFile(tmp_path / "out", overwrite=True):
        assert (tmp_path / "out").read_text() == "first"


# ── what a file may also be ──────────────────────────────────────────────────────────────────────


def test_parquet_text_that_is_not_utf_8_is_a_fault(tmp_path):
    text = pa.array([b"good", b"\xff bad", b"good"]).view(pa.binary()).cast(pa.string(), safe=False)
    pq.write_table(pa.table({"text": text, "note": text}), tmp_path / "in.parquet")
    assert faults(tmp_path / "in.parquet", column="text") == {
        f"{tmp_path / 'in.parquet'}:2": "byte 0xff at 0 is no utf-8"
    }
    copied([tmp_path / "in.parquet"], tmp_path / "out.jsonl", column="text")
    assert [json.loads(line)["note"] for line in (tmp_path / "out.jsonl").read_text().splitlines()] == ["good"] * 2


def test_parquet_of_long_texts_is_read_in_small_chunks(tmp_path):
    pq.write_table(pa.table({"text": [f"{n}" + "x" * 500_000 for n in range(40)]}), tmp_path / "in.parquet")
    with Inputs([str(tmp_path / "in.parquet")]) as inputs:
        assert max(map(len, inputs.chunks())) < 10


@pytest.mark.parametrize("kind", ["large", "dictionary", "view"])
def test_parquet_text_of_any_string_type_is_read(tmp_path, kind):
    plain = pa.array(["a", None, "b", "a"])
    made = {
        "large": lambda: plain.cast(pa.large_string()),
        "dictionary": plain.dictionary_encode,
        "view": lambda: plain.cast(pa.string_view()),
    }[kind]
    try:
        pq.write_table(pa.table({"text": made()}), tmp_path / "in.parquet")
    except pa.ArrowNotImplementedError:  # pyarrow 16 writes no view
        pytest.skip("this pyarrow cannot write the type")
    assert read(tmp_path / "in.parquet") == ["a", "", "b", "a"]


def test_compressed_document_is_read(tmp_path):
    assert read(write(tmp_path / "a.md.gz", gzip.compress(b"# Title\n"))) == ["# Title\n"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_file_name_that_is_not_utf_8_is_written(tmp_path, suffix):
    (tmp_path / "in").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path / "in") + b"/\xff.txt")).write_text("text")
    copied([tmp_path / "in"], tmp_path / f"out.{suffix}")
    assert (tmp_path / f"out.{suffix}").exists()


def test_folder_may_hold_the_output(tmp_path):
    write(tmp_path / "a.md", "text")
    with Inputs([str(tmp_path)]) as inputs:
        inputs.survey(columns=False)
        write(tmp_path / "out.parquet", "made meanwhile")
        assert [len(chunk) for chunk in inputs.chunks()] == [1]


def test_jsonl_empty_objects_are_faults(tmp_path):
    path = write(tmp_path / "a.jsonl", "{}\n" * 600 + '{"id": 1, "body": "x"}\n')
    assert read(path)[-1] == "x"
    assert len(faults(path)) == 600
    assert faults(write(tmp_path / "b.jsonl", "{}\n")) == {f"{tmp_path / 'b.jsonl'}:1": "the line has no field"}


def test_jsonl_deep_object_with_nan_is_a_fault(tmp_path):
    deep = '{"text": "x", "score": NaN, "v": ' + "[" * 600 + "]" * 600 + "}"
    path = write(tmp_path / "a.jsonl", f'{{"text": "good"}}\n{deep}\n')
    assert list(faults(path)) == [f"{path}:2"]


def test_missing_or_unreadable_input_is_an_error(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"The file or folder .*none\.txt"):
        read(tmp_path / "none.txt")
    path = write(tmp_path / "a.txt", "x")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match=r"a\.txt: it may not be read"):
        read(path)
