"""Faulty files and interrupted runs of `multiembed embed`: one clear error, the right status, nothing left behind."""

from __future__ import annotations

import gzip
import json
import os
import socket
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.embed_command import embed, lines, rows, rows_of, said
from support.files import columns, copied, faults, read, write

from multiembed.files import InputError, Inputs, pipes
from multiembed.files.jsonl import MAX_DEPTH

LOCAL = ("--model", "local:char-ngrams", "--dimensions", 8)
POSIX = pytest.mark.skipif(os.name != "posix", reason="needs POSIX files and signals")

# ── delimiters (B7) ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "data", "line", "option"),
    [
        ("a.csv", "id;text\n1;hello\n2;world, you\n", 1, "';'"),
        ("a.csv", "id;text\r\n1;hello\r\n", 1, "';'"),
        ("a.csv", "\ufeffid;text\n1;hello\n", 1, "';'"),
        ("a.csv", '"id";"text"\n"1";"a; b"\n', 1, "';'"),
        ("a.csv", '"id";"text"\n"1";"two\nlines"\n', 1, "';'"),
        ("a.csv", "id; text\n1; hello\n2; you\n", 1, "';'"),
        ("a.csv", "id;text\n", 1, "';'"),
        ("a.csv", "\n\nid;text\n1;hello\n", 3, "';'"),
        ("a.csv", "id\ttext\n1\thello\n", 1, "tab"),
        ("a.csv", "id|text\n1|hello\n", 1, "'|'"),
        ("a.csv", "text\n1;hello\n2;you, too\n", 2, "';'"),
        ("a.tsv", "id,text\n1,hello\n", 1, "','"),
        ("a.tsv", '"id","text"\n1,"hello, you"\n', 1, "','"),
    ],
)
def test_csv_other_delimiter_is_refused(tmp_path, name, data, line, option):
    path = write(tmp_path / name, data)
    done = embed(path, "-o", tmp_path / "out.npy", *LOCAL)
    assert done.exit_code == 2
    assert f"{path}:{line}: this looks like 2 fields separated by {option}" in said(done)
    assert f"--delimiter {option}" in said(done)
    assert [found.name for found in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("name", "data", "texts"),
    [
        ("a.csv", "text\nI came; I saw\nwe left\n", ["I came; I saw", "we left"]),
        ("a.csv", "text\nI came; I saw\nwe left; all\n", ["I came; I saw", "we left; all"]),
        ("a.csv", "text\nselect 1;\nselect 2;\n", ["select 1;", "select 2;"]),
        ("a.csv", "text\na\tb\nc\n", ["a\tb", "c"]),
        ("a.csv", 'text\n"a;b"\n"c;d"\n', ["a;b", "c;d"]),
        ("a.csv", '"text; or not"\na\nb\n', ["a", "b"]),
        ("a.csv", "text; or not\na\nb; c\nd\n", ["a", "b; c", "d"]),
        ("a.tsv", "text\nHello, you\nand, me\n", ["Hello, you", "and, me"]),
    ],
)
def test_csv_one_column_of_prose_is_read(tmp_path, name, data, texts):
    assert read(write(tmp_path / name, data)) == texts


def test_csv_sample_too_long_for_look_ahead_is_read(tmp_path):
    texts = [f"row {number}; {'; '.join('x' * (number % 3))}" for number in range(500)]
    assert read(lines(tmp_path / "a.csv", ["text", *texts])) == texts


@pytest.mark.parametrize(
    ("how", "texts"),
    [
        ({"delimiter": ";"}, ["hello"]),
        ({"delimiter": ","}, ["1;hello"]),  # the user says that it is one column
        ({"column": "id;text"}, ["1;hello"]),
    ],
)
def test_csv_delimiter_named_by_user_is_used(tmp_path, how, texts):
    assert read(write(tmp_path / "a.csv", "id;text\n1;hello\n"), **how) == texts


@pytest.mark.parametrize("name", ["tab", "TAB", "\\t", "\t"])
def test_delimiter_tab_is_named_by_word(tmp_path, name):
    assert read(write(tmp_path / "a.csv", "id\ttext\n1\thello\n"), delimiter=name) == ["hello"]


@pytest.mark.parametrize("name", ["", ";;", "x", "7", '"', "\n", "\r", "\0", "semicolon"])
def test_delimiter_that_separates_nothing_is_refused(tmp_path, name):
    with pytest.raises(InputError, match=r"--delimiter: .* cannot separate fields"):
        read(write(tmp_path / "a.csv", "id;text\n1;hello\n"), delimiter=name)


def test_delimiter_without_csv_input_is_refused(tmp_path):
    with pytest.raises(InputError, match="say --format csv"):
        read(write(tmp_path / "a.txt", "id;text\n1;hello\n"), delimiter=";")


def test_delimiter_of_another_input_is_refused(tmp_path):
    first, second = write(tmp_path / "a.csv", "id;text\n1;one\n"), write(tmp_path / "b.csv", "id,text\n2,two\n")
    with pytest.raises(InputError, match=r"a\.csv:1: .*--delimiter ';'"):
        read(first, second)
    with pytest.raises(InputError, match=r"b\.csv:1: .*different delimiters need a run each"):
        read(second, first, delimiter=";")
    write(first, "sep=;\nid;text\n1;one\n")
    assert read(first, second) == ["one", "two"]


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize(
    ("first", "between"),
    [("sep=;", ";"), ("SEP=;", ";"), ('"sep=;"', ";"), ("\ufeffsep=;", ";"), ("sep=|", "|"), ("sep=\t", "\t")],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_csv_separator_line_is_no_row(tmp_path, pack, first, between, end):
    data = end.join([first, f"id{between}text", f"1{between}hello", "2"])
    path = write(tmp_path / "a.csv", pack(data.encode()))
    with Inputs([str(path)]) as inputs:
        chunks = list(inputs.chunks())
    assert [text for chunk in chunks for text in chunk.texts] == ["hello", ""]
    assert faults(path) == {f"{path}:4": "the row has 1 fields, the header 2"}
    assert list(columns(path)) == ["id", "text"]


def test_csv_delimiter_option_outweighs_separator_line(tmp_path):
    assert read(write(tmp_path / "a.csv", "sep=;\nid,text\n1,hello\n"), delimiter=",") == ["hello"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "it has no header"),
        ("\n\n", "it has no header"),
        ("sep=;", "it has no header"),
        ("sep=;\n", "it has no header"),
        ("sep=\nid;text\n", r"a\.csv:1: the line 'sep=' names no delimiter"),
        ("sep=", r"a\.csv:1: the line 'sep=' names no delimiter"),
    ],
)
def test_csv_without_header_or_separator_is_refused(tmp_path, data, message):
    with pytest.raises(InputError, match=message):
        read(write(tmp_path / "a.csv", data))


@pytest.mark.parametrize(
    ("data", "status"), [("id;text\n1;a\n", 2), ("sep=;\nid;text\n1;a\n", 0), ("id,text\n1,a\n", 0)]
)
def test_csv_on_standard_input_is_checked(tmp_path, data, status):
    done = embed("-", "--format", "csv", "-o", tmp_path / "out.jsonl", *LOCAL, stdin=data)
    assert done.exit_code == status, done.output
    assert "--delimiter ';'" in said(done) or not status
    assert sorted(found.name for found in tmp_path.iterdir()) == ([] if status else ["out.jsonl"])


def test_csv_of_another_encoding_is_refused_for_that(tmp_path):
    with pytest.raises(InputError, match="--encoding"):
        read(write(tmp_path / "a.csv", "编号;文本\n1;a\n".encode("gb18030")))


# ── JSON (D2) ────────────────────────────────────────────────────────────────────────────────────


def nested(depth, kind):
    return "[" * depth + "1" + "]" * depth if kind == "list" else '{"a":' * depth + "1" + "}" * depth


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "npy"])
@pytest.mark.parametrize("depth", [MAX_DEPTH, 500, 1020, 100_000])
@pytest.mark.parametrize("kind", ["list", "object"])
def test_jsonl_deep_nesting_is_one_fault(tmp_path, kind, depth, suffix):
    path = write(tmp_path / "a.jsonl", f'{{"text": "a"}}\n{{"text": "b", "v": {nested(depth, kind)}}}\n')
    done = embed(path, "-o", tmp_path / f"out.{suffix}", *LOCAL)
    assert done.exit_code == 2, done.output
    assert f"{path}:2: the line nests lists and objects more than {MAX_DEPTH} levels deep" in said(done)


def test_jsonl_brackets_in_text_are_no_nesting(tmp_path):
    text = '[{"' * 300 + "\\"
    assert read(write(tmp_path / "a.jsonl", json.dumps({"text": text}) + "\n")) == [text]


@pytest.mark.parametrize("kind", ["list", "object"])
@pytest.mark.parametrize("depth", [40, 60, MAX_DEPTH - 1])
def test_jsonl_nesting_too_deep_for_parquet_becomes_text(tmp_path, kind, depth):
    row = f'{{"text":"a","v":{nested(depth, kind)}}}\n'
    copied([write(tmp_path / "a.jsonl", row * 2)], tmp_path / "out.parquet")
    value = pq.read_table(tmp_path / "out.parquet")["v"][0].as_py()
    value = json.loads(value) if isinstance(value, str) else value
    assert value == json.loads(nested(depth, kind))


@pytest.mark.parametrize("number", ["9" * 400, "-" + "9" * 400, "9" * 5000, "1e999", "-1e999"])
def test_jsonl_number_beyond_floats_is_one_fault(tmp_path, number):
    path = write(tmp_path / "a.jsonl", f'{{"text": "a"}}\n{{"text": "b", "v": {number}}}\n')
    assert list(faults(path)) == [f"{path}:2"]


@pytest.mark.parametrize(
    ("line", "column", "key"),
    [
        ('{"text":"a","text":"b"}', "text", "text"),
        ('{"text":"a","te\\u0078t":"b"}', "text", "text"),
        ('{"id":1,"text":"a","id":2}', "text", "id"),
        ('{"text" :"a","text"\t:"b"}', "text", "text"),
        ('{"text"\r:"a","text"\r:"b"}', "text", "text"),
        ('{"text":"a","text"  :"b"}', "text", "text"),
        ('{"text":"a","text" \t \r:"b"}', "text", "text"),
        ('{"text":"a \\\\\\":","text":"b"}', "text", "text"),
        ('{"text":"a","v":NaN,"v":1}', "text", "v"),
        ('{"m":{"b":"1","b":"2"}}', "m.b", "b"),
        ('{"m":{"b":"1","c":2,"c":3}}', "m.b", "c"),
        ('{"m":{"n":{"b":"1","b":"2"}}}', "m.n.b", "b"),
        ('{"m":{"b":"1"},"m":{"b":"2"}}', "m.b", "m"),
    ],
)
def test_jsonl_repeated_key_is_one_fault(tmp_path, line, column, key):
    good = {"text": '{"text": 1, "text": 2}', "m": {"b": "x", "n": {"b": "x"}}}
    path = write(tmp_path / "a.jsonl", f"{json.dumps(good)}\n{line}\n")
    assert faults(path, column=column) == {f"{path}:2": f"the key {key!r} stands twice in one object"}
    done = embed(path, "-o", tmp_path / "out.npy", "--column", column, *LOCAL)
    assert done.exit_code == 2
    assert f"{path}:2: the key {key!r} stands twice" in said(done)


@pytest.mark.parametrize(
    ("line", "column", "text"),
    [
        ('{"text":"a","m":{"b":1,"b":2}}', "text", "a"),
        ('{"text":"a","m":[{"b":1,"b":2}]}', "text", "a"),
        ('{"m.b":"a","m":{"b":"1","b":"2"}}', "m.b", "a"),
        ('{"text":"a\\": ","v":{"a\\":":1}}', "text", 'a": '),
    ],
)
def test_jsonl_repeated_key_elsewhere_is_kept(tmp_path, line, column, text):
    path = write(tmp_path / "a.jsonl", line + "\n")
    assert read(path, column=column) == [text]
    copied([path], tmp_path / "out.jsonl", column=column)
    assert (tmp_path / "out.jsonl").read_text().startswith(line[:-1])


def test_jsonl_control_characters_are_read_where_json_allows(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"text": "a\\u0000b"}\n{"text": "a\0b"}\n')
    assert read(path)[0] == "a\0b"
    assert list(faults(path)) == [f"{path}:2"]


def test_parquet_repeated_names_are_refused_before_embedding(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), path)
    with pytest.raises(InputError, match=r"a\.parquet: two columns.*'text'"):
        read(path)
    struct = pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], names=["n", "n"])
    pq.write_table(pa.table({"text": ["a"], "v": pa.array([[None]]).cast(pa.list_(pa.int8())), "s": struct}), path)
    with pytest.raises(InputError, match=r"a\.parquet: two columns.*'n'"):
        read(path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (pa.array([1], pa.timestamp("ns")), "1970-01-01 00:00:00.000000001"),
        (pa.array([10_000_000], pa.date32()), "29349-01-26"),
    ],
)
def test_parquet_values_beyond_python_become_text_in_jsonl(tmp_path, values, message):
    pq.write_table(pa.table({"text": ["a"], "v": values}), tmp_path / "a.parquet")
    copied([tmp_path / "a.parquet"], tmp_path / "out.jsonl")
    assert json.loads((tmp_path / "out.jsonl").read_text())["v"] == message


# ── folders, links and special files (D2) ────────────────────────────────────────────────────────


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    write(tmp_path / "in" / "a.txt", "a")
    write(tmp_path / "in" / "deep" / "b.md", "b")
    write(tmp_path / "secret.txt", "secret")
    return tmp_path / "in"


def found(path):
    """The texts of a folder by their paths in it, and the reasons of the faulty ones."""
    with Inputs([str(path)]) as inputs:
        (chunk,) = inputs.chunks()
    names = [str(Path(each).relative_to(path)) for each in chunk.files]
    return {name: chunk.faults.get(row, chunk.texts[row]) for row, name in enumerate(names)}


def special_files(path):
    """Makes one special file for each name, and what its fault says."""
    os.mkfifo(path / "pipe.txt")
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(path)  # the path of a socket may have 107 bytes only
        try:
            listener.bind("socket.txt")
        finally:
            os.chdir(here)
    return {"pipe.txt": "is a pipe, not a file", "socket.txt": "is a socket, not a file"}


@POSIX
def test_folder_links_that_lead_out_are_faults(folder, tmp_path):
    (folder / "out.txt").symlink_to("../secret.txt")
    (folder / "passwd.md").symlink_to("/etc/passwd")
    (folder / "zero.txt").symlink_to("/dev/zero")
    (folder / "deep" / "out.txt").symlink_to("../../secret.txt")
    texts = found(folder)
    assert {name for name, text in texts.items() if "leads out of the folder" in text} == {
        "out.txt", "passwd.md", "zero.txt", "deep/out.txt",
    }  # fmt: skip
    out = tmp_path / "out.jsonl"
    done = embed(folder, "-o", out, *LOCAL)
    assert done.exit_code == 2
    assert "out.txt: is a link that leads out of the folder" in said(done)
    assert embed(folder, "-o", out, *LOCAL, "--on-error", "skip").exit_code == 3
    assert [row["text"] for row in rows_of(out)] == ["a", "b"]
    failed = (tmp_path / "out.jsonl.failed.jsonl").read_text()
    assert failed.count("leads out") == 4
    assert "secret\n" not in failed


@POSIX
def test_folder_links_inside_are_read_once(folder):
    (folder / "again.txt").symlink_to("deep/b.md")
    (folder / "deep" / "up").symlink_to("..")
    (folder / "deep" / "self").symlink_to(".")
    (folder / ".hidden").mkdir()
    write(folder / ".hidden" / "c.txt", "c")
    (folder / "c.txt").symlink_to(".hidden/c.txt")
    (folder / "c2.txt").symlink_to(".hidden/c.txt")
    write(folder / "README", "readme")
    (folder / "readme.md").symlink_to(folder / "README")
    assert found(folder) == {"a.txt": "a", "c.txt": "c", "readme.md": "readme", "deep/b.md": "b"}


@POSIX
def test_folder_given_as_a_link_is_read(folder, tmp_path):
    (folder / "again.txt").symlink_to("a.txt")
    (tmp_path / "link").symlink_to(folder)
    assert found(tmp_path / "link") == {"a.txt": "a", "deep/b.md": "b"}


@POSIX
def test_folder_links_to_nothing_and_in_circles_are_faults(folder):
    (folder / "broken.txt").symlink_to("nothing")
    (folder / "circle.txt").symlink_to("circle.txt")
    texts = found(folder)
    assert texts["broken.txt"].startswith("cannot be read: No such file")
    assert texts["circle.txt"].startswith("cannot be read: Too many levels")


@POSIX
def test_folder_special_files_are_faults(folder):
    expected = special_files(folder)
    assert found(folder) == {"a.txt": "a", "deep/b.md": "b", **expected}


@POSIX
def test_input_special_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(pipes, "WRITER_PATIENCE", 0)
    special_files(tmp_path)
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name, message in (
        ("pipe.txt", "a pipe that no program writes to"),
        ("socket.txt", "this is a socket"),
        ("zero", "this is a device"),
        ("/dev/null", "this is a device"),
    ):
        with pytest.raises(InputError, match=message):
            read(tmp_path / name, form="text", spool=tmp_path)
    with Path("/dev/zero").open("rb") as zero, pytest.raises(InputError, match="Standard input is a device"):
        read("-", form="text", stdin=zero, spool=tmp_path)
    assert not list(tmp_path.glob(".multiembed*"))


@POSIX
def test_pipe_with_a_silent_writer_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(pipes, "WRITER_PATIENCE", 0)
    os.mkfifo(tmp_path / "a.txt")
    reader = os.open(tmp_path / "a.txt", os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(tmp_path / "a.txt", os.O_WRONLY)
    os.close(reader)
    asked = threading.Event()
    first = pipes._first_bytes

    def looked(*arguments):
        begin = first(*arguments)
        asked.set()
        return begin

    monkeypatch.setattr(pipes, "_first_bytes", looked)

    def say():
        asked.wait()
        os.write(writer, b"late\n")
        os.close(writer)

    thread = threading.Thread(target=say)
    thread.start()
    assert read(tmp_path / "a.txt", spool=tmp_path) == ["late"]
    thread.join()


@POSIX
def test_input_names_without_a_file_are_refused(tmp_path):
    (tmp_path / "broken.txt").symlink_to("nothing")
    (tmp_path / "circle.txt").symlink_to("circle.txt")
    for name, message in (
        ("broken.txt", "a link to a file that does not exist"),
        ("circle.txt", "Too many levels"),
        ("x" * 300, "File name too long"),
        ("broken.txt/x", "The file or folder"),
    ):
        with pytest.raises(InputError, match=message):
            read(tmp_path / name)
    with pytest.raises(InputError, match="name is empty"):
        read("")


def test_document_too_long_for_memory_is_one_fault(tmp_path, monkeypatch):
    monkeypatch.setattr("multiembed.files.plain_text.MAX_LINE_BYTES", 1 << 20)
    write(tmp_path / "a.md", "a")
    write(tmp_path / "b.md.gz", gzip.compress(b"x" * ((1 << 20) + 1)))
    assert read(tmp_path / "a.md") == ["a"]
    assert list(faults(tmp_path / "b.md.gz")) == [str(tmp_path / "b.md.gz")]


# ── encodings ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.csv", "a.jsonl"])
def test_wide_text_without_a_mark_is_refused(tmp_path, name, encoding):
    data = {"a.csv": "text\nhé\n", "a.jsonl": '{"text": "hé"}\n'}.get(name, "hé\n")
    path = write(tmp_path / name, data.encode(encoding))
    done = embed(path, "-o", tmp_path / "out.npy", *LOCAL)
    assert done.exit_code == 2
    assert f"say --encoding {encoding}" in said(done)
    assert [text.strip() for text in read(path, encoding=encoding)] == ["hé"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "gbk", "latin-1", "cp037", "utf-7"])
def test_text_of_a_named_encoding_is_read(tmp_path, encoding):
    path = write(tmp_path / "a.jsonl", '{"text": "first"}\n{"text": "second"}\n'.encode(encoding))
    assert read(path, encoding=encoding) == ["first", "second"]


@pytest.mark.parametrize("encoding", ["", "klingon", "rot13", "base64", "undefined", "a\0b"])
def test_unknown_encoding_is_refused(tmp_path, encoding):
    with pytest.raises(InputError, match="There is no encoding"):
        read(write(tmp_path / "a.txt", "x"), encoding=encoding)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_text_of_another_encoding_is_refused(tmp_path, encoding):
    with pytest.raises(InputError, match=r"a\.txt:1: this is not of the encoding"):
        read(write(tmp_path / "a.txt", "ascii"), encoding=encoding)


# ── places ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-o", "in.npy.failed.jsonl", "--overwrite"), "is an input, too"),
        (("-o", "in.npy", "--overwrite"), "in.npy.failed.jsonl is an input, too"),
        (("-o", "out.npy", "--cache", "./out.npy"), "is the output, too"),
        (("-o", "x" * 300 + ".npy"), "cannot be written: File name too long"),
        (("-o", "circle.npy", "--overwrite"), "cannot be written: Too many levels"),
        (("-o", "nowhere/out.npy"), "does not exist: make it first"),
        (("-o", "dangling.npy", "--overwrite"), "does not exist: make it first"),
        (("-o", "in.npy.failed.jsonl/out.npy"), "Not a directory"),
    ],
)
@POSIX
def test_output_path_that_cannot_be_written_is_refused(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    rows(tmp_path / "in.npy.failed.jsonl", ["a"])
    (tmp_path / "circle.npy").symlink_to("circle.npy")
    (tmp_path / "dangling.npy").symlink_to("nowhere/out.npy")
    done = embed("in.npy.failed.jsonl", *arguments, *LOCAL)
    assert done.exit_code == 2, done.output
    assert message in said(done)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["circle.npy", "dangling.npy", "in.npy.failed.jsonl"]


def test_output_in_a_read_only_folder_is_refused(tmp_path, monkeypatch):
    source, access = lines(tmp_path / "in.txt", ["a"]), os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and access(path, mode))
    done = embed(source, "-o", tmp_path / "out.npy", *LOCAL)
    assert done.exit_code == 2
    assert "may not be written to" in said(done)


def test_error_text_has_no_control_characters(tmp_path):
    done = embed(write(tmp_path / "a.csv", "a\x1b[31m,b\n1,2\n"), "-o", tmp_path / "out.npy", *LOCAL, "--column", "c")
    assert done.exit_code == 2
    assert "\x1b" not in done.output
    assert "a\\x1b[31m" in said(done)
