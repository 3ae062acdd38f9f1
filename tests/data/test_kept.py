import dataclasses
import os
import warnings

import numpy as np
import pytest

import vaecf_lib as vc
from vaecf_lib.data import catalog, kept, own_files, read_own_file
from vaecf_lib.errors import DataError

ROWS = (
    "user,item,score,timestamp,title\n"
    "0012,NA,4,100,One\n0012,7,3.5,200,Two\n7,NA,2,300,Other\n7,007,1,400,Three, again\n"
).replace("Three, again", '"Three, again"')


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An own folder for what is kept, of files of any size."""
    monkeypatch.setenv("VAECF_CACHE", str(tmp_path / "kept"))
    monkeypatch.setattr(kept, "SMALLEST", 1)
    return tmp_path / "kept"


@pytest.fixture
def reads(monkeypatch):
    """Count how often the text is read."""
    done = []
    read = own_files._read_text
    monkeypatch.setattr(own_files, "_read_text", lambda *given: done.append(given) or read(*given))
    return done


def quietly(path, **options):
    """The log, and the warnings that came with it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        log = read_own_file(path, **options)
    return log, [str(warning.message) for warning in caught]


def assert_equal(one, other):
    """Two logs have the same values and types in all they hold."""
    for field in dataclasses.fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype and a.tolist() == b.tolist(), field.name
        else:
            assert a == b and type(a) is type(b), field.name


@pytest.mark.parametrize(
    "text",
    [
        ROWS,
        ROWS + "0012,7,5,500,Two\n",
        "user,item\n1,2\n1,3\n2,2\n",
        f"user,item,is_test\n{2**63},-5,1\n8,6,0\n",
        "user,item,time\na,b,then\na,c,2020-01-01\n",
    ],
    ids=["text", "repeated", "clicks", "large ids", "no times"],
)
def test_a_kept_log_is_the_log_that_was_read_with_its_warnings(folder, reads, tmp_path, text):
    path = tmp_path / "log.csv"
    path.write_text(text, encoding="utf-8")
    first, said = quietly(path)
    again, said_again = quietly(path)
    assert len(reads) == 1 and len(list(folder.iterdir())) == 1
    assert_equal(first, again)
    assert said == said_again and first.sha256 == again.sha256


def test_other_content_options_path_or_code_is_read_anew(folder, reads, tmp_path, monkeypatch):
    path, copy = tmp_path / "log.csv", tmp_path / "copy.csv"
    path.write_text(ROWS, encoding="utf-8")
    before = path.stat()
    quietly(path)
    assert quietly(path, rating="timestamp", time="score")[0].rating.tolist() == [100, 200, 300, 400]
    path.write_text(ROWS.replace("3.5", "4.5"), encoding="utf-8")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert quietly(path)[0].rating[1] == 4.5, "of the same size and time, but another content"
    copy.write_bytes(path.read_bytes())
    assert quietly(copy)[0].name == "copy"
    monkeypatch.setattr(kept, "_reader_version", lambda: "another")
    quietly(path)
    assert len(reads) == 5 and len(list(folder.iterdir())) == 5


def flip(entry):
    data = bytearray(entry.read_bytes())
    data[data.index(b"user.npy") + 150] ^= 1  # among the numbers
    return bytes(data)


@pytest.mark.parametrize(
    "damage",
    [lambda e: b"", lambda e: e.read_bytes()[:-30], lambda e: e.read_bytes()[:200], flip, lambda e: b"PK" * 99],
    ids=["empty", "cut", "cut early", "a bit", "other"],
)
def test_a_damaged_log_is_noticed_and_kept_anew(folder, reads, tmp_path, damage):
    path = tmp_path / "log.csv"
    path.write_text(ROWS, encoding="utf-8")
    first, _ = quietly(path)
    (entry,) = folder.iterdir()
    whole = entry.read_bytes()
    entry.write_bytes(damage(entry))
    assert entry.read_bytes() != whole
    again, _ = quietly(path)
    assert_equal(first, again)
    assert len(reads) == 2, "what is damaged was not used"
    quietly(path)
    assert len(reads) == 2, "it was written again"


def test_refused_files_are_not_kept(folder, tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("user,item\n1,2\n3\n", encoding="utf-8")
    for _ in range(2):
        with pytest.raises(DataError, match="line 3: 1 fields"):
            read_own_file(path)
    assert not folder.exists()


def test_a_file_that_changes_while_it_is_read_is_not_kept(folder, tmp_path, monkeypatch):
    path = tmp_path / "log.csv"
    path.write_text(ROWS, encoding="utf-8")
    read = own_files._read_text

    def change(*given):
        path.write_text(ROWS.replace("0012", "13"), encoding="utf-8")
        return read(*given)

    monkeypatch.setattr(own_files, "_read_text", change)
    quietly(path)
    assert not folder.exists()


def test_nothing_is_kept_of_small_files_or_when_switched_off(folder, tmp_path, monkeypatch):
    path = tmp_path / "log.csv"
    path.write_text(ROWS, encoding="utf-8")
    monkeypatch.setattr(kept, "SMALLEST", len(ROWS) + 1)
    quietly(path)
    monkeypatch.setattr(kept, "SMALLEST", 1)
    monkeypatch.setenv("VAECF_CACHE", "off")
    quietly(path)
    assert not folder.exists() and not (tmp_path / "off").exists()


def test_a_folder_that_cannot_be_made_is_no_trouble(tmp_path, folder, monkeypatch):
    path = tmp_path / "log.csv"
    path.write_text(ROWS, encoding="utf-8")
    monkeypatch.setenv("VAECF_CACHE", str(path / "below a file"))
    assert len(quietly(path)[0]) == 4


def test_only_the_last_logs_stay(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "LOGS", 2)
    path = tmp_path / "log.csv"
    for at in range(4):
        path.write_text(f"user,item\n1,{at}\n", encoding="utf-8")
        quietly(path)
    assert len(list(folder.iterdir())) == 2


def test_a_named_data_set_is_kept_with_its_titles_until_a_file_changes(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("VAECF_DATA", str(tmp_path))
    entry = dataclasses.replace(catalog.DATASETS["ml-1m"], ratings=2)
    parsed = []
    parse = entry.parse
    entry = dataclasses.replace(entry, parse=lambda source: parsed.append(source) or parse(source))
    monkeypatch.setitem(catalog.DATASETS, "ml-1m", entry)
    own = tmp_path / "ml-1m"
    own.mkdir()
    (own / "ratings.dat").write_text("1::20::3::9\n4::10::5::8\n", encoding="utf-8")
    (own / "movies.dat").write_text("10::Ten::x\n20::Twenty::x\n", encoding="utf-8")
    first, again = vc.load_dataset("ml-1m"), vc.load_dataset("ml-1m")
    assert_equal(first, again)
    assert len(parsed) == 1 and again.titles == ("Ten", "Twenty")
    (own / "movies.dat").write_text("10::Ten::x\n20::Zwanzig::x\n", encoding="utf-8")
    assert vc.load_dataset("ml-1m").titles == ("Ten", "Zwanzig")
