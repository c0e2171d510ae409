"""The store: what is kept, what survives a kill, and what is never believed."""

import json
import os
import sqlite3
import threading
import zlib
from hashlib import sha256
from pathlib import Path

import pytest

from pipeline.core.errors import UserError
from pipeline.core.store import SCHEMA, Store, batched, digest, lookups
from tests.pipeline.core.processes import python

KEY = digest({"extractor": "test", "version": 1})


def name(number: int) -> str:
    return sha256(str(number).encode()).hexdigest()


def only_file(store: Store) -> Path:
    [path] = (store.folder / "results").glob("*.sqlite3")
    return path


def test_what_was_put_is_got(tmp_path: Path) -> None:
    values = {
        name(number): json.dumps([{"text": f"ü {number} \U0001f600"}], ensure_ascii=False).encode()
        for number in range(2500)
    }
    with Store.open(tmp_path) as store:
        assert store.get_many(KEY, list(values)) == {}
        store.put_many(KEY, values)
        assert store.get_many(KEY, [*values, name(-1)]) == values
        assert store.get_many(digest({"extractor": "other"}), list(values)) == {}
        assert store.known(KEY, [*values, name(-1)]) == set(values)
        assert store.known(digest({"extractor": "other"}), list(values)) == set()
    with Store.open(tmp_path) as store:
        assert store.get_many(KEY, [name(3)]) == {name(3): values[name(3)]}


def test_a_value_may_be_any_bytes_and_a_key_any_digest(tmp_path: Path) -> None:
    post = digest({"tokens": ["a"], "contexts": [], "images": []})
    tensors = bytes(range(256)) * 100
    with Store.open(tmp_path) as store:
        store.put_many(KEY, {post: tensors, name(1): b""})
        assert store.get_many(KEY, [post, name(1)]) == {post: tensors, name(1): b""}
        for wrong in ("ab", "zz" * 32, "ab" * 33):
            with pytest.raises(ValueError):  # noqa: PT011  (bytes.fromhex's own message, or ours)
                store.put_many(KEY, {wrong: b"x"})


def test_a_store_of_before_is_read_on(tmp_path: Path) -> None:
    """Files that held JSON as text have the layout of today's: written here as SQL, as they were then."""
    rows = {name(number): f'[{{"text": "ü {number}"}}]' for number in range(3)}
    (tmp_path / "results").mkdir()
    with sqlite3.connect(tmp_path / "results" / f"{KEY[:32]}.sqlite3") as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(
            "CREATE TABLE results (key BLOB NOT NULL UNIQUE, value BLOB NOT NULL, checksum INTEGER NOT NULL)"
        )
        connection.execute("PRAGMA application_id = 1397900337")
        connection.execute("PRAGMA user_version = 1")
        for key, text in rows.items():
            raw, value = bytes.fromhex(key), text.encode()
            connection.execute("INSERT INTO results VALUES (?, ?, ?)", (raw, value, zlib.crc32(value, zlib.crc32(raw))))
    connection.close()
    with Store.open(tmp_path) as store:
        assert store.get_many(KEY, list(rows)) == {key: text.encode() for key, text in rows.items()}
        store.put_many(KEY, {name(0): b"other", name(9): b"new"})
        assert store.get_many(KEY, [name(0), name(9)]) == {name(0): rows[name(0)].encode(), name(9): b"new"}


def test_what_is_there_stays(tmp_path: Path) -> None:
    """Two runs that read the same picture at once end with one and the same result."""
    with Store.open(tmp_path) as store:
        store.put_many(KEY, {name(1): b"first"})
        store.put_many(KEY, {name(1): b"second", name(2): b"third"})
        assert store.get_many(KEY, [name(1), name(2)]) == {name(1): b"first", name(2): b"third"}


def test_digest_tells_fingerprints_apart() -> None:
    assert digest({"a": 1, "b": {"c": 2.5, "d": None}}) == digest({"b": {"d": None, "c": 2.5}, "a": 1})
    assert digest({"a": 1}) != digest({"a": "1"})
    with pytest.raises(ValueError, match=r"[Oo]ut of range"):
        digest({"a": float("nan")})
    with pytest.raises(TypeError):
        digest({"a": Path()})


WRITER = """
import sys
from hashlib import sha256
from pipeline.core.store import Store
folder, key, start = sys.argv[1], sys.argv[2], int(sys.argv[3])
with Store.open(folder) as store:
    for batch in range(start, start + 400):
        keys = [sha256(str(16 * batch + place).encode()).hexdigest() for place in range(16)]
        values = dict.fromkeys(keys, f"[{batch}]".encode() * 50)
        store.put_many(key, values)
        print(batch, flush=True)
"""


def test_a_kill_loses_nothing_that_was_put(tmp_path: Path) -> None:
    for attempt, batches_before in enumerate((1, 10, 40)):
        folder = tmp_path / str(attempt)
        process = python(WRITER, str(folder), KEY, "0")
        assert process.stdout
        for _ in range(batches_before):
            process.stdout.readline()
        process.kill()
        reported = [*range(batches_before), *(int(line) for line in process.stdout.read().split())]
        process.communicate()
        with Store.open(folder) as store:
            found = store.get_many(KEY, [name(number) for number in range(400 * 16)])
        batches = {number // 16 for number in range(400 * 16) if name(number) in found}
        assert set(reported) <= batches
        assert len(found) == 16 * len(batches), "a batch was kept in part"
        assert batches == set(range(len(batches)))


def test_two_processes_write_one_store(tmp_path: Path) -> None:
    processes = [python(WRITER, str(tmp_path), KEY, start) for start in ("0", "0", "200")]
    assert [process.communicate()[1] for process in processes] == ["", "", ""]
    with Store.open(tmp_path) as store:
        assert len(store.get_many(KEY, [name(number) for number in range(600 * 16)])) == 600 * 16


def test_threads_share_a_store(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:

        def work(start: int) -> None:
            for number in range(start, start + 40):
                store.put_many(KEY, {name(number): b"%d" % number})
                assert store.get_many(KEY, [name(number)]) == {name(number): b"%d" % number}

        threads = [threading.Thread(target=work, args=(100 * index,)) for index in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(store.get_many(KEY, [name(number) for number in range(400)])) == 160


def filled(folder: Path) -> Path:
    with Store.open(folder) as store:
        store.put_many(KEY, {name(number): b"x" * 200 for number in range(2000)})
        return only_file(store)


def get_all(folder: Path) -> dict[str, bytes]:
    with Store.open(folder) as store:
        return store.get_many(KEY, [name(number) for number in range(2000)])


def test_a_torn_file_is_reported(tmp_path: Path) -> None:
    whole = filled(tmp_path / "whole").read_bytes()
    for case, damaged in enumerate(
        [
            whole[:5000],
            whole[: len(whole) // 2],
            whole[:-100],
            b"garbage" * 1000,
            b"\0" * 4096 + whole[4096:],
            whole[:8192] + b"\xff" * 4096 + whole[12288:],
        ]
    ):
        path = filled(tmp_path / str(case))
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="delete") as caught:
            get_all(tmp_path / str(case))
        assert str(path) in str(caught.value)


def test_a_damaged_value_is_not_believed(tmp_path: Path) -> None:
    path = filled(tmp_path)
    content = path.read_bytes()
    place = content.rindex(b"x" * 100)
    path.write_bytes(content[:place] + b"y" + content[place + 1 :])
    with pytest.raises(UserError, match="checksum"):
        get_all(tmp_path)


def test_an_emptied_file_is_filled_again(tmp_path: Path) -> None:
    filled(tmp_path).write_bytes(b"")
    assert get_all(tmp_path) == {}
    filled(tmp_path)
    assert len(get_all(tmp_path)) == 2000


def test_a_newer_layout_is_left_alone(tmp_path: Path) -> None:
    path = filled(tmp_path)
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    connection.close()
    with pytest.raises(UserError, match="newer"):
        get_all(tmp_path)
    with Store.open(tmp_path) as store, pytest.raises(UserError, match="newer"):
        store.put_many(KEY, {name(1): b"x"})


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    path = filled(tmp_path)
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE results (key, value)")
    connection.close()
    with pytest.raises(UserError, match="not a file of the store"):
        get_all(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="SIGHTREAD_STORE"):
        Store.open(tmp_path / "store")


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "store").touch()
    with pytest.raises(UserError, match="SIGHTREAD_STORE"):
        Store.open(tmp_path / "store")


def test_work_folders_are_kept_apart(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    one = store.work_folder("train", "a/b")
    assert one.is_dir()
    assert store.work_folder("train", "a/b") == one
    assert len({one, store.work_folder("train", "a", "b"), store.work_folder("train")}) == 3


def test_batched() -> None:
    assert list(batched(range(5), 2)) == [[0, 1], [2, 3], [4]]
    assert list(batched([], 2)) == []


def test_queries_are_few_whatever_the_number_of_keys() -> None:
    marks = set()
    for count in (*range(1, 700), 5000):
        pieces = list(lookups(range(count)))
        assert {key for _, keys in pieces for key in keys} == set(range(count))
        assert all(mark.count("?") == len(keys) for mark, keys in pieces)
        marks |= {mark for mark, _ in pieces}
    assert len(marks) == 10
    assert list(lookups([])) == []
