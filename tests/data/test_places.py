"""Where files are, whether they changed, and what is told of it."""

import io
import os
import pickle
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vaepipe.data import formats, places, sources, values
from vaepipe.datasets.parquet import ParquetDataset
from vaepipe.errors import DataError, Unreachable


def parquet(path, x=(1, 2, 3), **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"x": pa.array(x, pa.int64()), **columns}), path)
    return path


def picture(path, level, size=(2, 2)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, level).save(path)


def digest(path):
    return sources.digest(sources.of_files(str(path), (1,), "x", None).pieces())


def array(path, x):
    np.save(path, np.asarray(x)[:, None])
    return path


@pytest.mark.parametrize("write", [parquet, array])
def test_a_digest_sees_other_values_in_a_file_of_the_same_size_and_time(tmp_path, write):
    path = write(tmp_path / f"a.{'npy' if write is array else 'parquet'}", [1, 2, 3])
    before, stat = digest(path), path.stat()
    write(path, [1, 2, 9])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size
    assert digest(path) != before


def test_a_digest_sees_values_that_change_places_in_a_later_write(tmp_path):
    path = parquet(tmp_path / "a.parquet", [1, 2, 3])
    os.utime(path, ns=(1, 1))
    before, size = digest(path), path.stat().st_size
    parquet(path, [1, 3, 2])
    assert path.stat().st_size == size and digest(path) != before


def test_a_digest_sees_a_change_far_from_the_end_by_its_time_and_no_renaming(tmp_path):
    x = np.zeros(2**17, np.uint8)
    path = array(tmp_path / "a.npy", x)
    os.utime(path, ns=(1, 1))
    before = digest(path)
    moved = path.rename(tmp_path / "b.npy")
    assert digest(moved) == before
    x[0] = 1
    array(moved, x)
    assert digest(moved) != before


def test_the_stamp_of_images_sees_a_renaming(tmp_path):
    for name in ("a/000.png", "b/000.png"):
        picture(tmp_path / name, 7)
        os.utime(tmp_path / name, ns=(1, 1))
    before, stamp = digest(tmp_path), formats.stamp(str(tmp_path))
    assert stamp["mtime_ns"] == 1 and stamp["size"] > 0
    (tmp_path / "b" / "000.png").rename(tmp_path / "a" / "zzz.png")
    assert formats.stamp(str(tmp_path)) != stamp
    assert digest(tmp_path) != before


@pytest.mark.parametrize("name", ["with space", "50%", "50%20", "a+b", "a#b", "q?", "a[1]"])
@pytest.mark.parametrize("end", ["", "/"])
def test_uris_name_the_files_that_are_there(tmp_path, name, end):
    path = parquet(tmp_path / name / f"{name} x.parquet")
    kind, found = sources.find((tmp_path / name).as_uri() + end)[:2]
    assert kind == "parquet" and len(found) == 1
    assert places.filesystem(found[0])[1] == str(path)
    assert sources.open_file(found[0]).metadata.num_rows == 3


def test_addresses_keep_the_store_and_its_query():
    uri = "s3://bucket/pre/?region=eu&scheme=http"
    assert places.filesystem(uri)[1] == "bucket/pre"
    made = places.address(uri, "bucket/pre/a b%+#.parquet")
    assert made == "s3://bucket/pre/a%20b%25+%23.parquet?region=eu&scheme=http"
    assert places.filesystem(made)[1] == "bucket/pre/a b%+#.parquet"


@pytest.mark.parametrize(
    ("glob", "expected"),
    [
        ("*.parquet", ["top.parquet"]),
        ("[nt]*/?.parquet", ["two/c.parquet"]),
        ("o*e/?.parquet", ["one/a.parquet", "one/b.parquet"]),
        ("*/[a-b].parquet", ["one/a.parquet", "one/b.parquet"]),
        ("t*/**/*.parquet", ["two/c.parquet", "two/deep/d.parquet"]),
        ("**/d.parquet", ["two/deep/d.parquet"]),
        ("two/**", ["two/c.parquet", "two/deep/d.parquet"]),
        ("odd[1]/e.parquet", ["odd[1]/e.parquet"]),
    ],
)
def test_globs_work_in_all_parts_of_a_path(tmp_path, glob, expected):
    for name in ("top", "one/a", "one/b", "two/c", "two/deep/d", "odd[1]/e", "_not/f", "one/.g"):
        parquet(tmp_path / f"{name}.parquet")
    found = sources.find(str(tmp_path / glob))[1]
    assert found == [str(tmp_path / name) for name in expected]
    if "?" not in glob:
        uri = tmp_path.as_uri() + "/" + glob
        assert [places.filesystem(each)[1] for each in sources.find(uri)[1]] == found


def test_a_glob_without_files_says_what_a_glob_is(tmp_path):
    with pytest.raises(DataError, match=r"no Parquet files there.*through folders"):
        sources.find(str(tmp_path / "*/*.parquet"))


@pytest.mark.parametrize(
    "uri",
    [
        "s3://KEY:HIDDEN@bucket/x",
        "s3://KEY:HID/DEN@bucket/x",
        "s3://bucket/x?secret_key=HIDDEN",
        "abfs://:HIDDEN@account/x",
    ],
)
def test_credentials_in_uris_are_refused_and_not_told(uri):
    with pytest.raises(DataError, match="AWS_ACCESS_KEY_ID") as error:
        sources.find(uri)
    assert "HID" not in str(error.value) and "DEN" not in places.shown(uri)


def test_a_store_has_one_client_in_each_process():
    uris = [f"s3://bucket/{name}?region=eu" for name in "ab"]
    first, second = (places.filesystem(uri)[0] for uri in uris)
    assert first is second
    assert places.filesystem("s3://bucket/a?region=us")[0] is not first
    assert pickle.loads(pickle.dumps(first)).equals(first)


def test_a_store_that_does_not_answer_is_out_of_reach():
    uri = "s3://bucket/x/?scheme=http&region=eu&endpoint_override=127.0.0.1:1"
    with pytest.raises(Unreachable, match=r"^s3://bucket/x/: out of reach: .*connect"):
        sources.find(uri)


def test_a_name_that_a_filesystem_refuses_is_told(tmp_path):
    with pytest.raises(DataError, match="cannot open this place"):
        sources.find(str(tmp_path / ("x" * 300)))


def test_an_array_that_was_cut_short_is_told(tmp_path):
    path = array(tmp_path / "a.npy", range(100))
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataError, match=r"a\.npy: cut short"):
        digest(path)


def test_arrays_of_the_other_byte_order_are_read(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(6, dtype=">f4").reshape(3, 2))
    source = sources.of_files(str(tmp_path / "a.npy"), (2,), "x", None)
    _, x, _ = source.read(source.units()[0])
    assert x.tolist() == [[0, 1], [2, 3], [4, 5]] and x.dtype == np.float32


def test_files_must_have_the_columns_of_the_first(tmp_path):
    parquet(tmp_path / "a.parquet", name=["n", "m", "o"])
    path = parquet(tmp_path / "b.parquet", name=pa.nulls(3))

    def source():
        return sources.of_files(str(tmp_path), (1,), "x", None)

    kept = [source().read(unit, ["name"])[2].column("name") for unit in source().units()]
    assert [each.to_pylist() for each in kept] == [["n", "m", "o"], [None] * 3]
    assert {each.type for each in kept} == {pa.string()}
    parquet(path, name=[1, 2, 3])
    with pytest.raises(DataError, match=r"'name': .*string in .*a\.parquet; int64 in .*b\.parquet"):
        source().check_kept(["name"])
    assert len(source().read(source().units()[1])[0]) == 3
    parquet(path)
    with pytest.raises(DataError, match=r"column 'name': .*no such column in .*b\.parquet"):
        source().check_kept(["name"])
    pq.write_table(pa.table({"y": [1]}), path)
    with pytest.raises(DataError, match=r"b\.parquet: column 'x': expected int64 .*no such column"):
        source()
    pq.write_table(pa.table({"x": ["text"]}), path)
    with pytest.raises(DataError, match=r"expected int64 as in .*got string"):
        source()


def test_nothing_read_has_the_columns_that_rows_would_have(tmp_path):
    parquet(tmp_path / "a.parquet", name=["n", "m", "o"])
    pq.write_table(
        sources.open_file(str(tmp_path / "a.parquet")).read().slice(0, 0), tmp_path / "b"
    )
    source = sources.of_files(str(tmp_path / "a.parquet"), (1,), "x", None)
    nothing = {"path": str(tmp_path / "b"), "group": 0, "start": 0, "rows": 0}
    _, _, kept = source.read(nothing, ["name"])
    _, _, some = source.read(source.units()[0], ["name"])
    assert pa.concat_tables([kept, some]).num_rows == 3


def encoded(array):
    data = io.BytesIO()
    Image.fromarray(array).save(data, "PNG")
    return data.getvalue()


def test_images_that_are_too_large_too_deep_or_null_are_bad_rows():
    good = encoded(np.full((2, 2), 7, np.uint8))
    huge = good[:16] + (60_000).to_bytes(4) * 2 + good[24:29]
    huge += zlib.crc32(huge[12:29]).to_bytes(4) + good[33:]
    deep = encoded(np.full((2, 2), 999, np.uint16))
    large = encoded(np.zeros((3, 2), np.uint8))
    found = values.rows("t", [pa.array([good, huge, deep, large, b"no", None])], (2, 2))
    assert found.x.tolist() == [[[7, 7], [7, 7]]]
    reasons = ("too many pixels", "more than 8 bits", "2 x 3, expected", "no readable", "null")
    assert all(reasons[row - 1] in reason for row, reason in found.faults.items())
    assert sorted(found.faults) == [1, 2, 3, 4, 5]


def test_a_null_among_structs_of_images_is_null():
    good = encoded(np.full((2, 2), 7, np.uint8))
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    column = pa.array([{"bytes": good, "path": "a"}, None], kind)
    assert values.rows("t", [column], (2, 2)).faults == {1: "null"}


def test_a_folder_of_images_is_meant_literally(tmp_path):
    picture(tmp_path / "a[1]" / "0.png", 7)
    assert sources.find(str(tmp_path / "a[1]"))[:2] == ("images", [str(tmp_path / "a[1]")])


def test_a_dataset_tells_which_file_lacks_a_column(tmp_path):
    parquet(tmp_path / "a.parquet", label=[1, 2, 3])
    parquet(tmp_path / "b.parquet")
    dataset = ParquetDataset(path=tmp_path, support="real", label_column="label")
    with pytest.raises(DataError, match=r"column 'label': .*no such column in .*b\.parquet"):
        list(dataset.examples("train"))
