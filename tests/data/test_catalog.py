"""Named data sets: small files in every original layout, the real data, archives, downloads."""

import dataclasses
import hashlib
import io
import json
import random
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import h5py
import numpy as np
import pytest

import vaecf_lib as vc
from vaecf_lib.data import catalog
from vaecf_lib.data.sources import Source, download

MEASURED = list((Path(__file__).resolve().parents[2] / "book" / "results" / "measured").glob("*.json"))
ML_100K = {"u.data": "1\t10\t5\t881250949\n2\t10\t3\t891717742\n2\t11\t1\t878887116\n",
           "u.item": "10|Toy Story (1995)|01-Jan-1995||x|0\n11|GoldenEye (1995)|01-Jan-1995||x|0\n"}  # fmt: skip
ML_DAT = {"ratings.dat": "1::10::5::978300760\n2::10::3::978302109\n2::11::1::978301968\n",
          "movies.dat": "10::Toy Story (1995)::Animation\n11::Jumanji (1995)::Adventure\n"}  # fmt: skip
ML_CSV = {
    "ratings.csv": "userId,movieId,rating,timestamp\n1,10,4.5,1112486027\n2,10,3.0,1112484676\n2,11,0.5,1112484819\n",
    "movies.csv": 'movieId,title,genres\n10,"American President, The (1995)",Comedy\n11,Jumanji (1995),Adventure\n',
}
NETFLIX = {"training_set/mv_0000001.txt": "1:\n1488844,3,2005-09-06\n822109,5,2005-05-13\n",
           "training_set/mv_0000002.txt": "2:\n822109,1,2005-09-05\n"}  # fmt: skip
MSD = {
    "train_triplets.txt": "b80344d063b5ccb3\tSOAKIMP12A8C130995\t1\nb80344d063b5ccb3\tSOBBMDR12A8C13253B\t2\nc34\tSOAKIMP12A8C130995\t17\n"
}
AMAZON_2018 = "1223000893,A14CK12J7C7JRK,3.0,1294790400\n1223000893,A39QHP5WLON5HV,5.0,1379116800\nB001,A39QHP5WLON5HV,1.0,1379116801\n"
AMAZON_2014 = "A14CK12J7C7JRK,1223000893,3.0,1294790400\nA39QHP5WLON5HV,1223000893,5.0,1379116800\nA39QHP5WLON5HV,B001,1.0,1379116801\n"
TEXT_LAYOUTS = {
    "ml-100k": ML_100K,
    "ml-1m": ML_DAT,
    "ml-10m": {**ML_DAT, "ratings.dat": ML_DAT["ratings.dat"].replace("::5::", "::4.5::")},
    "ml-20m": ML_CSV,
    "netflix": NETFLIX,
    "msd": MSD,
    "amazon-pet": {"Pet_Supplies.csv": AMAZON_2018},
    "amazon-kindle": {"ratings_Kindle_Store.csv": AMAZON_2014},
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty data folder, with the check of the published size switched off."""
    monkeypatch.setenv("VAECF_DATA", str(tmp_path))
    for name, entry in catalog.DATASETS.items():
        monkeypatch.setitem(
            catalog.DATASETS,
            name,
            dataclasses.replace(entry, ratings=None, urls=(f"http://127.0.0.1:9/{entry.archive}",)),
        )
    return tmp_path


def write(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("latin-1"))


def zipped(path, files, prefix="inner/"):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(prefix + name, text.encode("latin-1"))


@pytest.mark.parametrize("name", TEXT_LAYOUTS)
def test_unpacked_folder_of_every_layout(folder, name):
    write(folder / name, TEXT_LAYOUTS[name])
    log = vc.load_dataset(name)
    assert (len(log), log.n_users, log.n_items) == (3, 2, 2)
    assert log.rating.min() >= 0.5
    if name.startswith("ml"):
        assert "1995" in log.titles[0]
    if name == "netflix":
        assert log.timestamp[0] == 1125964800


@pytest.mark.parametrize("name", ["ml-100k", "ml-1m", "ml-10m", "ml-20m", "msd"])
def test_zip_of_every_zipped_layout(folder, name):
    zipped(folder / catalog.DATASETS[name].archive, TEXT_LAYOUTS[name])
    assert len(vc.load_dataset(name)) == 3


def test_netflix_as_its_nested_tar(folder):
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w") as tar:
        for name, text in NETFLIX.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    with tarfile.open(folder / "nf_prize_dataset.tar.gz", "w:gz") as tar:
        info = tarfile.TarInfo("download/training_set.tar")
        info.size = inner.tell()
        inner.seek(0)
        tar.addfile(info, inner)
    log = vc.load_dataset("netflix")
    assert (len(log), log.n_users, log.n_items) == (3, 2, 2)


@pytest.mark.parametrize("name", ["douban", "flixster"])
def test_monti_files(folder, name):
    ratings = np.zeros((4, 3))
    ratings[0, 1], ratings[2, 0], ratings[3, 2] = 5, 1, 3
    test = np.zeros((4, 3))
    test[3, 2] = 1
    file = catalog.DATASETS[name].files[0]
    (folder / name).mkdir()
    with h5py.File(folder / name / file, "w") as out:
        out["M"], out["Otraining"], out["Otest"] = ratings.T, ((ratings > 0) & (test == 0)).astype(float).T, test.T
    log = vc.load_dataset(name)
    assert [log.user_ids[u] for u in log.user] == [0, 2, 3]
    assert log.rating.tolist() == [5, 1, 3] and log.is_test.tolist() == [False, False, True]
    (folder / name / file).write_bytes(b"no hdf5")
    with pytest.raises(vc.DataError, match=f"{file}: not a complete Monti data set"):
        vc.load_dataset(name)


def test_gowalla_in_either_form(folder):
    """Its published split comes with it, under which every user and place stays."""
    (folder / "gowalla").mkdir()
    arrays = {"user": np.array([0, 0, 2, 2]), "item": np.array([5, 7, 5, 9]), "is_test": np.arange(4) % 2 == 1}
    np.savez(folder / "gowalla" / "gowalla.npz", **arrays, n_users=3)
    first = vc.load_dataset("gowalla")
    assert first.rating is None and first.item_ids[first.item].tolist() == [5, 7, 5, 9]
    split = vc.split_weak(first)
    assert (split.train.nnz, split.test.targets.nnz) == (2, 2) and split.train.shape == (2, 3)
    (folder / "gowalla" / "gowalla.npz").unlink()
    write(folder / "gowalla", {"train.txt": "0 5\n1\n2 5\n", "test.txt": "0 7\n2 9\n"})
    second = vc.load_dataset("gowalla")
    found = {
        (second.user_ids[u], second.item_ids[i], t)
        for u, i, t in zip(second.user, second.item, second.is_test, strict=True)
    }
    assert found == {(0, 5, False), (0, 7, True), (2, 5, False), (2, 9, True)}
    for text, line in (("0 5\n\n2 5\n", 2), ("0 x\n", 1)):
        write(folder / "gowalla", {"train.txt": text})
        with pytest.raises(vc.DataError, match=rf"train.txt, line {line}: expected a user and items"):
            vc.load_dataset("gowalla")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"user": np.arange(2)}, "no arrays user, item and is_test"),
        ({"user": np.arange(2), "item": np.arange(3), "is_test": np.arange(2) > 0}, "no arrays user, item and is_test"),
        ({"user": np.arange(2) / 2, "item": np.arange(2), "is_test": np.arange(2) > 0}, "must be whole numbers"),
    ],
)
def test_odd_gowalla_files_are_named(folder, arrays, message):
    (folder / "gowalla").mkdir()
    np.savez(folder / "gowalla" / "gowalla.npz", **arrays)
    with pytest.raises(vc.DataError, match=rf"gowalla.npz: .*{message}"):
        vc.load_dataset("gowalla")


def test_what_cannot_be_fetched_says_which_file_goes_where(tmp_path, monkeypatch):
    monkeypatch.setenv("VAECF_DATA", str(tmp_path))
    with pytest.raises(vc.DataError, match=r"put gowalla.npz or train.txt into .*gowalla by hand"):
        vc.load_dataset("gowalla")


ODD_MATS = [
    {"M": np.ones((2, 2)), "Otraining": np.ones((2, 2))},
    {"M": np.ones((2, 2)), "Otraining": np.ones((3, 2)), "Otest": np.zeros((2, 2))},
    {"M": np.ones(4), "Otraining": np.ones(4), "Otest": np.zeros(4)},
    {"M": np.array([b"a"]), "Otraining": np.ones((1, 1)), "Otest": np.zeros((1, 1))},
    {"M/x": np.ones((2, 2)), "Otraining": np.ones((2, 2)), "Otest": np.zeros((2, 2))},
    {"M": np.full((2, 2), np.nan), "Otraining": np.zeros((2, 2)), "Otest": np.zeros((2, 2))},
]


@pytest.mark.parametrize("arrays", ODD_MATS, ids=range(len(ODD_MATS)))
def test_odd_mat_files_are_named(folder, arrays):
    (folder / "douban").mkdir()
    with h5py.File(folder / "douban" / "training_test_dataset.mat", "w") as out:
        for key, array in arrays.items():
            out[key] = array
    with pytest.raises(vc.DataError, match=r"training_test_dataset\.mat") as caught:
        vc.load_dataset("douban")
    assert "\n" not in str(caught.value)


def test_the_hash_of_measured_data(planted, real_data):
    """Kept results name their data by this hash."""
    kept = {json.loads(p.read_text())["dataset"]: json.loads(p.read_text())["data_sha256"] for p in MEASURED}
    for name in ("planted", "ml-100k", "ml-1m", "douban", "flixster"):
        assert vc.load_dataset(name).sha256 == kept[name]


def test_real_data(real_data):
    expected = {
        "ml-1m": (1_000_209, 6040, 3706, [56_174, 107_557, 261_197, 348_971, 226_310]),
        "ml-100k": (100_000, 943, 1682, [6_110, 11_370, 27_145, 34_174, 21_201]),
    }
    for name, (n, users, items, histogram) in expected.items():
        log = vc.load_dataset(name)
        assert (len(log), log.n_users, log.n_items) == (n, users, items)
        assert np.bincount(log.rating.astype(int))[1:].tolist() == histogram
    assert vc.load_dataset("ml-1m").titles[0] == "Toy Story (1995)"
    douban, flixster = vc.load_dataset("douban"), vc.load_dataset("flixster")
    assert len(douban) == 136_891 and douban.is_test.sum() == 13_689
    assert len(flixster) == 26_173 and flixster.is_test.sum() == 2_617
    assert (flixster.n_users, flixster.n_items) == (2_341, 2_956)
    assert set(flixster.rating.tolist()) == set(np.arange(0.5, 5.1, 0.5))
    if (real_data / "gowalla").exists():  # which is in no catalogue's download
        gowalla = vc.load_dataset("gowalla")
        assert (len(gowalla), gowalla.n_users, gowalla.n_items) == (1_027_370, 29_858, 40_981)
        assert gowalla.is_test.sum() == 217_242


BROKEN = [
    ("ml-1m", "ratings.dat", "1::10::5::1\n2::10::x::1\n", r"ratings\.dat, line 2: expected 'id::id::number::id', found '2::10::x::1'"),
    ("ml-1m", "ratings.dat", "1::10::5::1\n2::10\n", r"ratings\.dat, line 2: expected"),
    ("ml-1m", "ratings.dat", "1::10::5::1\n\n2::10::5::1\n", r"ratings\.dat, line 2: expected"),
    ("ml-1m", "ratings.dat", "1:7:10::5::1\n", r"ratings\.dat, line 1: expected"),
    ("ml-1m", "ratings.dat", "1::10::5::1\n2::10::6::1\n", r"ratings\.dat, line 2: rating 6 is outside the scale 1 to 5"),
    ("ml-1m", "ratings.dat", "1::10::4.5::1\n", r"ratings\.dat, line 1: rating 4\.5 is outside the scale"),
    ("ml-1m", "ratings.dat", "", r"ratings\.dat: the file is empty\. Fetch it again"),
    ("ml-1m", "ratings.dat", "1::10::5::1\n1::10::4::2\n", r"ratings\.dat, line 2: user 1 and item 10 stand there a second time; 1 such"),
    ("ml-100k", "u.data", "1\t10\t5\t8\n1\t10\n", r"u\.data, line 2: expected"),
    ("ml-20m", "ratings.csv", "user,movie\n", r"ratings\.csv, line 1: expected the header"),
    ("ml-20m", "ratings.csv", ML_CSV["ratings.csv"] + "3,4,5.5,1\n", r"ratings\.csv, line 5: rating 5\.5 is outside"),
    ("netflix", "training_set/mv_0000001.txt", "1:\n12,6,2005-09-06\n", r"mv_0000001\.txt, line 2: expected 'movie:'"),
    ("netflix", "training_set/mv_0000001.txt", "12,5,2005-09-06\n", r"mv_0000001\.txt, line 1: expected"),
    ("msd", "train_triplets.txt", "u\ts\t1\nu\tr\t0\n", r"train_triplets\.txt, line 2: a play count below 1"),
    ("msd", "train_triplets.txt", "u\ts\n", r"train_triplets\.txt, line 1: expected"),
    ("amazon-pet", "Pet_Supplies.csv", "i,u,9.0,5\n", r"Pet_Supplies\.csv, line 1: rating 9 is outside"),
    ("amazon-pet", "Pet_Supplies.csv", "i,u,3.0,1294790400\nj,u,3.0,1294", r"Pet_Supplies\.csv: the last line has no end"),
    ("ml-1m", "ratings.dat", f"1::{10**30}::5::1\n", r"ratings\.dat: the file cannot be read as a table"),
    ("ml-1m", "movies.dat", "10::Toy Story::x\neleven::Jumanji::x\n", r"movies\.dat, line 2: expected 'id::title'"),
    ("ml-1m", "movies.dat", "10::Toy Story::x\n<html>\n", r"movies\.dat, line 2: expected 'id::title'"),
    ("ml-20m", "movies.csv", "movie,title\n10,x\n", r"movies\.csv: not a table with movieId and title"),
    ("ml-20m", "movies.csv", "movieId,title\nten,x\n", r"movies\.csv: not a table with movieId and title"),
    ("netflix", "training_set/mv_0000001.txt", "1:\n12,5,2005-02-30\n", r"mv_0000001\.txt, line 2: .*found '12,5,2005-02-30'"),
    ("netflix", "training_set/mv_0000001.txt", f"1:\n{10**30},5,2005-02-03\n", r"mv_0000001\.txt, line 2: expected"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "file", "text", "message"), BROKEN)
def test_every_kind_of_damage_names_file_line_and_remedy(folder, name, file, text, message):
    write(folder / name, {**TEXT_LAYOUTS[name], file: text})
    with pytest.raises(vc.DataError, match=message):
        vc.load_dataset(name)


def test_later_amazon_review_replaces_the_earlier(folder):
    write(folder / "amazon-pet", {"Pet_Supplies.csv": AMAZON_2018 + "B001,A39QHP5WLON5HV,4.0,1379116900\n"})
    log = vc.load_dataset("amazon-pet")
    assert len(log) == 3 and 4.0 in log.rating and 1.0 not in log.rating


def test_incomplete_release_is_refused(folder, monkeypatch):
    write(folder / "ml-1m", ML_DAT)
    entry = dataclasses.replace(catalog.DATASETS["ml-1m"], ratings=1_000_209)
    monkeypatch.setitem(catalog.DATASETS, "ml-1m", entry)
    with pytest.raises(vc.DataError, match=r"ml-1m has 1,000,209 ratings, this file 3"):
        vc.load_dataset("ml-1m")
    monkeypatch.setitem(catalog.DATASETS, "ml-1m", dataclasses.replace(entry, ratings=2))
    with pytest.raises(vc.DataError, match=r"ml-1m has 2 ratings, this file 3: .* another release"):
        vc.load_dataset("ml-1m")


def test_a_file_that_may_not_be_read_is_no_damaged_archive(folder, monkeypatch):
    (folder / "ml-1m").mkdir()
    (folder / "ml-1m" / "ratings.dat").write_text("1::2::3::4\n")

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(vc.DataError, match=r"ml-1m/ratings\.dat: may not be read\. Change its permissions"):
        vc.load_dataset("ml-1m")


def test_truncated_zip(folder):
    path = folder / "ml-1m.zip"
    zipped(path, ML_DAT)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(vc.DataError, match=r"ml-1m\.zip: the archive is truncated or damaged"):
        vc.load_dataset("ml-1m")


def test_zip_with_a_damaged_member(folder):
    path = folder / "ml-1m.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, text in ML_DAT.items():
            archive.writestr(name, text)
    path.write_bytes(path.read_bytes().replace(b"978302109", b"978302108"))
    with pytest.raises(vc.DataError, match="damaged"):
        vc.load_dataset("ml-1m")


def test_encrypted_zip_and_unknown_compression(folder):
    path = folder / "ml-1m.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, text in ML_DAT.items():
            archive.writestr(name, text)
    whole = path.read_bytes()
    for flag_or_method, at in ((b"\x01", 6), (b"\x63", 8)):  # bit 0 of the flags: encrypted; method 99: unknown
        changed = bytearray(whole)
        for signature, offset in ((b"PK\x03\x04", at), (b"PK\x01\x02", at + 2)):
            start = 0
            while (start := whole.find(signature, start)) >= 0:
                changed[start + offset : start + offset + 1] = flag_or_method
                start += 4
        path.write_bytes(changed)
        with pytest.raises(vc.DataError, match=r"ml-1m\.zip: the archive is truncated or damaged \(") as caught:
            vc.load_dataset("ml-1m")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "files"), [("ml-1m", ML_DAT), ("netflix", NETFLIX)])
def test_damaged_archives_are_refused_in_one_line(folder, name, files):
    """Garbage within a deflated or gzipped stream raises kinds of errors of its own: 100 archives, a few bytes each."""
    path = folder / catalog.DATASETS[name].archive
    if name == "ml-1m":
        zipped(path, files)
    else:
        with tarfile.open(path, "w:gz") as tar:
            for member, text in files.items():
                info = tarfile.TarInfo(member)
                info.size = len(text)
                tar.addfile(info, io.BytesIO(text.encode()))
    whole, expected = path.read_bytes(), vc.load_dataset(name).sha256
    n_refused = 0
    for seed in range(100):
        draw = random.Random(seed)
        damaged = bytearray(whole)
        for _ in range(draw.randint(1, 20)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            assert vc.load_dataset(name).sha256 == expected
        except vc.DataError as error:
            n_refused += 1
            assert str(folder) in str(error) and "\n" not in str(error)
    assert n_refused > 50


@pytest.mark.parametrize("member", ["../evil.dat", "/etc/evil.dat", "C:\\evil.dat", "a/../../evil.dat"])
def test_archive_member_outside_the_folder(folder, member):
    zipped(folder / "ml-1m.zip", {member: "x", **ML_DAT}, prefix="")
    with tarfile.open(folder / "nf_prize_dataset.tar.gz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo(member))
    for name in ("ml-1m", "netflix"):
        with pytest.raises(vc.DataError, match="points outside the archive's folder"):
            vc.load_dataset(name)


def test_wrong_archive(folder):
    zipped(folder / "ml-1m.zip", ML_CSV)
    with pytest.raises(vc.DataError, match=r"ml-1m\.zip: no file ratings\.dat inside"):
        vc.load_dataset("ml-1m")


def test_unknown_name_lists_the_known():
    with pytest.raises(vc.ConfigError, match=r"unknown data set 'ml1m'\. Known: planted, ml-100k, ml-1m"):
        vc.load_dataset("ml1m")


# --- downloads, against a server on this machine -----------------------------------------------------------------


class Server:
    """Serves one body; can break off after some bytes, answer 404, ignore ranges, and not say how long it is."""

    def __init__(self, body):
        self.body, self.break_after, self.ranges, self.requests = body, None, True, []
        self.length, self.chunked, self.other = True, False, b""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.requests.append((self.path, self.headers.get("Range"), self.headers.get("Accept-Encoding")))
                if "missing" in self.path:
                    self.send_error(404)
                    return
                body = outer.other if "other" in self.path else outer.body
                start = 0
                if outer.ranges and self.headers.get("Range"):
                    start = int(self.headers["Range"].split("=")[1].rstrip("-"))
                self.send_response(206 if start else 200)
                if outer.chunked:
                    self.send_header("Transfer-Encoding", "chunked")
                    self.end_headers()
                    cut = len(body) if outer.break_after is None else outer.break_after
                    self.wfile.write(b"%x\r\n" % len(body) + body[:cut])
                    if cut == len(body):
                        self.wfile.write(b"\r\n0\r\n\r\n")
                    return
                if outer.length:
                    self.send_header("Content-Length", str(len(body) - start))
                self.end_headers()
                end = len(body) if outer.break_after is None else outer.break_after
                self.wfile.write(body[start:end])

            def log_message(self, *args):
                pass

        self.http = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}"


@pytest.fixture
def server():
    server = Server(np.random.default_rng(0).bytes(300_000))
    yield server
    server.http.shutdown()
    server.http.server_close()


def keep(path):
    """What download() is to make of a file: here, nothing."""
    return path


def digest(body):
    return hashlib.sha256(body).hexdigest()


def test_download_verifies_and_is_kept(server, tmp_path):
    path = download((f"{server.url}/file.zip",), digest(server.body), tmp_path, keep)
    assert path.read_bytes() == server.body
    (tmp_path / "any").touch()
    assert path.stat().st_mode == (tmp_path / "any").stat().st_mode, "not the private mode of a temporary file"
    download((f"{server.url}/file.zip",), digest(server.body), tmp_path, keep)
    assert len(server.requests) == 1, "a verified file is not fetched again"
    assert server.requests[0][2] == "identity", "packed for the way, lengths and ranges would be of other bytes"


def test_download_resumes_where_it_broke_off(server, tmp_path):
    server.break_after = 100_000
    with pytest.raises(vc.DataError, match="a started download goes on where it stopped"):
        download((f"{server.url}/file.zip",), digest(server.body), tmp_path, keep)
    assert not (tmp_path / "file.zip").exists(), "nothing unfinished under the final name"
    kept = (tmp_path / "file.zip.part").stat().st_size
    assert kept > 0
    server.break_after = None
    assert download((f"{server.url}/file.zip",), digest(server.body), tmp_path, keep).read_bytes() == server.body
    assert server.requests[-1][1] == f"bytes={kept}-"


def test_download_from_a_server_without_ranges_starts_over(server, tmp_path):
    (tmp_path / "file.zip.part").write_bytes(b"old bytes")
    server.ranges = False
    assert download((f"{server.url}/file.zip",), digest(server.body), tmp_path, keep).read_bytes() == server.body


def test_download_tries_the_next_mirror(server, tmp_path):
    urls = (f"{server.url}/missing/file.zip", f"{server.url}/file.zip")
    assert download(urls, digest(server.body), tmp_path, keep).read_bytes() == server.body
    assert len(server.requests) == 2


def test_wrong_hash_is_refused_and_leaves_nothing(server, tmp_path):
    with pytest.raises(vc.DataError, match=r"(?s)could not fetch file\.zip:.*hash"):
        download((f"{server.url}/file.zip",), "0" * 64, tmp_path, keep)
    with pytest.raises(vc.DataError, match="hash") as caught:
        download((f"{server.url}/file.zip",), "0" * 64, tmp_path, keep)
    assert "delete that file" not in str(caught.value), "a published hash is no file of the user's"
    assert not (tmp_path / "file.zip").exists()


def test_unknown_hash_is_kept_and_enforced_later(server, tmp_path):
    with pytest.warns(UserWarning, match="no published hash is known"):
        path = download((f"{server.url}/file.zip",), None, tmp_path, keep)
    path.unlink()
    server.body = server.body[:-1] + b"x"
    with pytest.raises(vc.DataError, match=r"hash.*kept in .*file\.zip\.sha256: delete that file to accept another"):
        download((f"{server.url}/file.zip",), None, tmp_path, keep)


def of_server(monkeypatch, server, folder, name, **changes):
    """Let the entry ``name`` of the catalogue come from ``server``, its hash unknown."""
    entry = catalog.DATASETS[name]
    changes = {"urls": (f"{server.url}/{entry.archive}",), "sha256": None, "ratings": None} | changes
    monkeypatch.setitem(catalog.DATASETS, name, dataclasses.replace(entry, **changes))
    monkeypatch.setenv("VAECF_DATA", str(folder))


def test_an_error_page_is_neither_kept_nor_pinned(server, tmp_path, monkeypatch):
    """Its hash, once kept, would refuse the real file for ever."""
    of_server(monkeypatch, server, tmp_path, "amazon-pet")
    server.body = b"<html>Service unavailable</html>\n"
    with pytest.raises(
        vc.DataError, match=r"not the file it should be, and deleted again: .*line 1: expected"
    ) as caught:
        vc.load_dataset("amazon-pet")
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())
    server.body = AMAZON_2018.encode()
    with pytest.warns(UserWarning, match="no published hash is known"):
        assert len(vc.load_dataset("amazon-pet")) == 3
    assert (tmp_path / "Pet_Supplies.csv.sha256").read_text(encoding="utf-8").strip() == digest(server.body)


def test_the_next_mirror_is_asked_when_the_first_sends_something_else(server, tmp_path, monkeypatch):
    of_server(
        monkeypatch, server, tmp_path, "ml-10m", ratings=3, urls=(f"{server.url}/other/a.zip", f"{server.url}/b.zip")
    )
    buffer = io.BytesIO()
    zipped(buffer, TEXT_LAYOUTS["ml-10m"])
    server.body, server.other = buffer.getvalue(), b"<html></html>"
    with pytest.warns(UserWarning, match="kept SHA-256"):
        assert len(vc.load_dataset("ml-10m")) == 3


def test_too_few_ratings_are_not_pinned(server, tmp_path, monkeypatch):
    of_server(monkeypatch, server, tmp_path, "ml-10m", ratings=4)
    buffer = io.BytesIO()
    zipped(buffer, TEXT_LAYOUTS["ml-10m"])
    server.body = buffer.getvalue()
    with pytest.raises(vc.DataError, match="has 4 ratings, this file 3"):
        vc.load_dataset("ml-10m")
    assert not list(tmp_path.iterdir())


def test_a_reply_of_unknown_length_needs_a_known_hash(server, tmp_path, monkeypatch):
    """Broken off at the end of a line, such a reply is a sound file of fewer ratings."""
    of_server(monkeypatch, server, tmp_path, "amazon-pet")
    server.body, server.length = AMAZON_2018.encode(), False
    server.break_after = len(AMAZON_2018.splitlines(keepends=True)[0])
    with pytest.raises(vc.DataError, match="does not say how long it is"):
        vc.load_dataset("amazon-pet")
    assert not list(tmp_path.iterdir())
    server.chunked = True  # whose end is marked
    with pytest.raises(vc.DataError, match="IncompleteRead"):
        vc.load_dataset("amazon-pet")
    (tmp_path / "Pet_Supplies.csv.part").unlink()
    server.chunked, server.break_after = False, None
    path = download((f"{server.url}/file.csv",), digest(server.body), tmp_path, keep)
    assert path.read_bytes() == server.body


def test_load_dataset_downloads_and_prints_the_terms_once(server, tmp_path, monkeypatch, capsys):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in ML_DAT.items():
            archive.writestr(f"ml-1m/{name}", text)
    server.body = buffer.getvalue()
    monkeypatch.setenv("VAECF_DATA", str(tmp_path))
    entry = dataclasses.replace(
        catalog.DATASETS["ml-1m"], urls=(f"{server.url}/ml-1m.zip",), sha256=digest(server.body), ratings=3
    )
    monkeypatch.setitem(catalog.DATASETS, "ml-1m", entry)
    assert len(vc.load_dataset("ml-1m")) == 3
    assert capsys.readouterr().err.count("terms of use") == 1
    assert len(vc.load_dataset("ml-1m")) == 3
    assert "terms of use" not in capsys.readouterr().err
    assert len(server.requests) == 1


def test_source_reads_a_single_file(tmp_path):
    (tmp_path / "a.csv").write_text("x")
    assert Source(tmp_path / "a.csv").read("a.csv") == b"x"


def test_source_reads_the_file_of_that_name_alone(tmp_path):
    write(tmp_path, {"uXdata": "wrong", "u.data.bak": "wrong", "z/u.data": "right"})
    assert Source(tmp_path).read("u.data") == b"right"
